"""`stitch`: set a stored module on one that it was not trained on."""

from __future__ import annotations

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
from modkernel.flows.cli._output import Json, out, print_json
from modkernel.flows.cli._run_flow import Verbose, flow_running, print_modules


def stitch(
    lower: Annotated[
        str,
        typer.Argument(
            metavar="LOWER",
            help="Stored hidden module to stand on: id or its first digits, NAME, NAME@ALIAS or "
            "NAME/VERSION.",
        ),
    ],
    upper: Annotated[
        str,
        typer.Argument(
            metavar="UPPER",
            help="Stored hidden module, trained on another one, of which a copy is set on LOWER.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the new module; UPPER-on-LOWER if left out.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set to fit it to, without labels; LOWER's own if left out."),
    ] = None,
    data: Data = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    examples: Annotated[
        int | None, typer.Option(min=20, help="So many of its training examples; 2000.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the examples and their order.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Keep it even if it is not worth it; its card says so.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Set a stored module on one that it was not trained on, by a small map between the two.

    It is refused where it is not worth storing: no better than LOWER alone, or much worse than
    UPPER on its own upstream; docs/reuse.md says how that is judged.

    --json: as of 'train-module', and stitch: {explained, held_out, labels_per_class, draws,
    accuracy, lower, untrained, upper, gain_error, lower_error, kept, objection}.
    """
    from modkernel.flows.specs.read import validated
    from modkernel.spec import Name, StitchSpec

    given = {} if examples is None else {"examples": examples}
    fitted = validated(StitchSpec, given, "option")
    fields = dataset_fields(dataset, data, image_size, channels)
    with flow_running(verbose):
        from modkernel.flows.runtime.shared import open_registry
        from modkernel.flows.stored_modules.stitch_modules import stitch_modules

        registry = open_registry()
        below, copied = registry.modules.resolve(lower), registry.modules.resolve(upper)
        result = stitch_modules(
            name=validated(Name, name or f"{copied.name}-on-{below.name}", "--name"),
            lower=below.id,
            upper=copied.id,
            dataset=dataset_above(registry, below, fields, classes),
            stitch=fitted,
            seed=seed,
            force=force,
        )
    if json:
        print_json(result.model_dump(mode="json"))
        return
    print_modules(result.name, [result])
    figures = result.stitch
    if figures is not None:
        if figures.objection is not None:
            out.print(f"NOT WORTH IT, kept by --force: {figures.objection}", soft_wrap=True)
        out.print(figures.text, soft_wrap=True)
