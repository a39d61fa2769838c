"""`modules import`: stored modules of a network that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modkernel.flows.cli._options import ImageSize
from modkernel.flows.cli._output import Json, brought_in, err, out, print_json, print_table
from modkernel.flows.cli._stored import stored

if TYPE_CHECKING:
    from modkernel.registry.bundles.elsewhere import TakenIn

NAMED = 4
"""Tensors that are named of those left out; the others are counted."""


def import_network(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A network of torchvision ('resnet50') or of timm ('timm:resnet50d'), a folder "
            "with config.json and model.safetensors, or 'package.module:function', which returns "
            "the network.",
        ),
    ],
    name: Annotated[str, typer.Option(help="The modules are NAME.hidden-1, NAME.hidden-2, ….")],
    cut: Annotated[
        str,
        typer.Option(
            metavar="BLOCK[,BLOCK...]",
            help="A module ends after each of these; what comes after the last is left out.",
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors", help="The network's weights; a folder's own if left out."
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="Of the weights, such as apache-2.0; 'unknown' if you do not know it."),
    ] = None,
    image_size: ImageSize = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Mean of each channel as a share of 255; the source's own if left out.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Standard deviation, likewise.")
    ] = None,
    json: Json = False,
) -> None:
    """Store a network that was trained elsewhere as modules, each on the one before it.

    Nothing is downloaded, and no pickle is read. From then on they are modules as any: advise,
    compose, labels, export and all else take them.

    --json: {modules: a list of {id, name, version, new}, left_out: tensors of the file that no
    module has}.
    """
    from modkernel.flows.specs.read import validated
    from modkernel.registry.bundles.elsewhere import Images, import_network
    from modkernel.spec import DatasetSpec, Name

    # As a data set's, so that it is read in one way.
    size = validated(DatasetSpec, {"image_size": image_size}, "option").side_lengths()
    found = import_network(
        stored(),
        source,
        validated(Name, name, "--name"),
        tuple(part.strip() for part in cut.split(",")),
        weights=weights,
        licence=licence,
        images=Images(size, _numbers(mean, "--mean"), _numbers(std, "--std")),
    )
    modules = brought_in(found.modules, found.new)
    if json:
        print_json({"modules": modules, "left_out": list(found.left_out)})
        return
    _show(found)


def _show(found: TakenIn) -> None:
    rows: list[tuple[Any, ...]] = [
        (
            record.name,
            str(record.version),
            record.short_id,
            "×".join(map(str, record.spec.interface.gives)),
            "stored" if record.id in found.new else "stored already",
        )
        for record in found.modules
    ]
    from modkernel.lookup import TRUST_VARIABLE, package_of
    from modkernel.registry.records import needs

    print_table("imported", ("name", "version ", "id", "gives", ""), rows)
    if found.left_out:
        names, more = found.left_out[:NAMED], len(found.left_out) - NAMED
        err.print(
            f"Left out, since no module has them: {', '.join(names)}"
            f"{f' and {more} more' if more > 0 else ''}."
        )
    for path in needs(found.modules):
        err.print(
            f"The code of {path} runs for them only where {TRUST_VARIABLE} names "
            f"{package_of(path)}."
        )
    top, shape = found.modules[-1], found.modules[0].spec.preprocessing.shape
    size = f"{shape[1]}" if shape[1] == shape[2] else f"{shape[1]}x{shape[2]}"
    out.print(
        f"modkernel compose {top.name} --data FOLDER --image-size {size} --channels {shape[0]}",
        soft_wrap=True,
    )


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter("write it as 0.485,0.456,0.406", param_hint=option) from None
