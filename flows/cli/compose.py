"""`compose`: a network of a stored hidden module and a new output module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.output import Json
from flows.cli.running import Verbose, flow_running, show_network

if TYPE_CHECKING:
    from modkernel.spec import DatasetSpec
    from registry import ModuleRecord, Registry

Method = Literal["cross_entropy", "hinge", "ridge"]


def compose(
    hidden: Annotated[
        str,
        typer.Argument(
            metavar="HIDDEN",
            help="Stored hidden module: id or its first digits, NAME, NAME@ALIAS or NAME/VERSION. "
            "It brings all that it stands on.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the new network; HIDDEN-composed if left out."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set to tell apart; the one HIDDEN was trained on if left out."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of image_folder (the default then), or arrays file.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Only these classes: names with commas between.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels a side that images are resized to.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="1 makes images grey, 3 colour.")] = None,
    labels_per_class: Annotated[
        str, typer.Option(metavar="N|all", help="Labels per class that the output module gets.")
    ] = "all",
    method: Annotated[Method, typer.Option(help="How the output module is trained.")] = (
        "cross_entropy"
    ),
    draws: Annotated[int, typer.Option(min=1, help="Random draws of the labels.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and of the order of data.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a network of a stored hidden module and a new output module.

    --json: as of 'train'.
    """
    from flows.spec_file import validated
    from modkernel.spec import Name, OutputSpec

    labels = None if labels_per_class == "all" else labels_per_class
    output = validated(
        OutputSpec, {"method": method, "labels_per_class": labels, "draws": draws}, "option"
    )
    wishes = {
        "name": dataset or ("image_folder" if data else None),
        "path": str(data.resolve()) if data else None,
        "classes": [name.strip() for name in classes.split(",")] if classes else None,
        "image_size": image_size,
        "channels": channels,
    }
    with flow_running(verbose):
        from flows.compose_network import compose_network
        from flows.stores import open_registry

        registry = open_registry()
        top = registry.resolve(hidden)
        result = compose_network(
            name=validated(Name, name or f"{top.name}-composed", "--name"),
            hidden=top.id,
            dataset=_dataset(registry, top, {k: v for k, v in wishes.items() if v is not None}),
            output=output,
            seed=seed,
        )
    show_network(result, json)


def _dataset(registry: Registry, top: ModuleRecord, wishes: dict[str, Any]) -> DatasetSpec | None:
    """The data set that the options ask for; none where they ask for nothing."""
    from flows import datasets
    from flows.spec_file import validated
    from modkernel.spec import DatasetSpec

    if not wishes:
        return None
    shape = top.spec.preprocessing.shape
    if "name" not in wishes:
        wishes = datasets.recall(registry, top).model_dump() | wishes
    elif wishes["name"] == "image_folder" and len(shape) == 3:
        # Pictures have any size: the network's own is meant.
        wishes = {"channels": shape[0], "image_size": shape[1]} | wishes
    chosen: DatasetSpec = validated(DatasetSpec, wishes, "option")
    return chosen
