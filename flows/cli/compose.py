"""`compose`: a network of stored hidden modules and a new output module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from modkernel.flows.cli._options import (
    Channels,
    Classes,
    Data,
    ImageSize,
    dataset_above,
    dataset_fields,
)
from modkernel.flows.cli._output import Json
from modkernel.flows.cli._run_flow import Verbose, flow_running, show_network

Method = Literal["cross_entropy", "hinge", "ridge"]


def compose(
    hidden: Annotated[
        list[str],
        typer.Argument(
            metavar="HIDDEN...",
            help="Stored hidden module: id or its first digits, NAME, NAME@ALIAS or NAME/VERSION. "
            "It brings all that it stands on. The features of several lie side by side.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the new network; HIDDEN-composed if left out."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,...|aligned",
            help="Of several modules, each one's share in the sum of their kernels: numbers, or "
            "'aligned' for those that held-out examples tell; equal if left out.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set to tell apart; the one the first HIDDEN was trained on if left out."
        ),
    ] = None,
    data: Data = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    labels_per_class: Annotated[
        str, typer.Option(metavar="N|all", help="Labels per class that the output module gets.")
    ] = "all",
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.csv",
            help="The labels that the output module gets, as 'labels suggest' asks for them, in "
            "place of --labels-per-class.",
        ),
    ] = None,
    spread_labels: Annotated[
        bool,
        typer.Option(
            "--spread-labels",
            help="First spread the labels over the training examples that have none, along "
            "nearest neighbours in the features: for few labels.",
        ),
    ] = False,
    method: Annotated[Method, typer.Option(help="How the output module is trained.")] = (
        "cross_entropy"
    ),
    draws: Annotated[int, typer.Option(min=1, help="Random draws of the labels.")] = 1,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Compose it again by itself whenever the alias moves; HIDDEN is NAME@ALIAS then.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and of the order of data.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a network of stored hidden modules, side by side, and a new output module.

    --json: as of 'train'.
    """
    from modkernel.flows.specs.composition import Weights
    from modkernel.flows.specs.paths import stored_path
    from modkernel.flows.specs.read import validated
    from modkernel.spec import Name, OutputSpec

    budget = None if labels_per_class == "all" else labels_per_class
    output = validated(
        OutputSpec,
        {
            "method": method,
            "labels_per_class": budget,
            "draws": draws,
            "spread_labels": spread_labels,
        },
        "option",
    )
    shares: Any = weights
    if weights not in (None, "aligned"):
        shares = validated(Weights, (weights or "").split(","), "--weights")
    fields = dataset_fields(dataset, data, image_size, channels)
    with flow_running(verbose):
        from modkernel.flows.compose_network import compose_network
        from modkernel.flows.runtime.shared import open_registry

        registry = open_registry()
        tops = [registry.modules.resolve(reference) for reference in hidden]
        result = compose_network(
            name=validated(Name, name or f"{tops[0].name}-composed", "--name"),
            hidden=tuple(hidden) if follow else tuple(top.id for top in tops),
            dataset=dataset_above(registry, tops[0], fields, classes),
            output=output,
            seed=seed,
            labels=None if labels is None else stored_path(labels, Path.cwd()),
            follow=follow,
            weights=shares,
        )
    show_network(result, json)
