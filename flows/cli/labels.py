"""`labels suggest`: which examples are worth labelling."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from modkernel.flows.cli._options import (
    Channels,
    Classes,
    Data,
    ImageSize,
    dataset_above,
    dataset_fields,
)
from modkernel.flows.cli._output import Json, err, out, print_json

labels = typer.Typer(help="Choose examples to label, and label them.", no_args_is_help=True)


@labels.callback()
def group() -> None:
    """Choose examples to label, and label them."""


@labels.command()
def suggest(
    module: Annotated[
        str,
        typer.Option(
            metavar="REF",
            help="Stored hidden module whose features decide: id or its first digits, NAME, "
            "NAME@ALIAS or NAME/VERSION.",
        ),
    ],
    budget: Annotated[int, typer.Option(metavar="K", help="How many examples to label.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set to choose from; the one the module was trained on if left out."
        ),
    ] = None,
    data: Data = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    output: Annotated[
        Path, typer.Option(help="CSV file to be filled in; the page lies beside it as .html.")
    ] = Path("labels.csv"),
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Labels that there are already, in a file as this command writes it (or the name "
            "of data that it is): the examples that are chosen are others, and the new file has "
            "both.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    json: Json = False,
) -> None:
    """Suggest the K examples whose labels serve an output module best; no label is needed for it.

    Writes a CSV file of ids with empty cells, and an HTML page to label them in any browser.
    'compose --labels' takes the filled file. Of a data set in which some examples have a label,
    those without one are chosen from, and what has a label is covered already.

    --json: {file, page, module, dataset, candidates, labelled, ids, labels_told}, ids best first.
    """
    from modkernel.flows.servers.prefect_env import prepare_prefect
    from modkernel.registry import Settings

    prepare_prefect(Settings(), quiet=True)
    from modkernel.flows.labels.suggest import suggest as suggest_examples
    from modkernel.flows.runtime.shared import open_registry

    registry = open_registry()
    top = registry.modules.resolve(module)
    fields = dataset_fields(dataset, data, image_size, channels)
    found = suggest_examples(
        registry,
        top,
        dataset_above(registry, top, fields, classes),
        budget,
        output.resolve(),
        labels=labels,
        seed=seed,
        waiting=lambda: err.print("All devices are taken: waiting for one."),
    )
    if json:
        print_json(found.model_dump(mode="json"))
        return
    options = {"labels": output, "dataset": dataset, "data": data, "classes": classes}
    command = ["modkernel", "compose", module]
    for name, value in (options | {"image-size": image_size, "channels": channels}).items():
        if value is not None:
            command += [f"--{name}", str(value)]
    beside = f", beside {found.labelled} that have a label" if found.labelled else ""
    out.print(
        f"{len(found.ids)} of {found.candidates} examples chosen, best first"
        f"{beside}: {found.labels_told}.\n"
        f"1. Open {found.page} in a browser, label them, download the file over {output}\n"
        f"   (or fill in {output} by hand: a class beside each id).\n"
        f"2. {shlex.join(command)}",
        soft_wrap=True,
    )
