"""`retrain`: a stored network with its modules from one stage on trained again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modkernel.flows.cli._output import Json
from modkernel.flows.cli._run_flow import Verbose, flow_running, show_network

if TYPE_CHECKING:
    from modkernel.spec import NetworkSpec

FIELDS = ("hidden", "output", "backbone", "dataset", "pairs", "seed")
"""What of a spec file counts, where the file names it."""


def retrain(
    network: Annotated[
        str,
        typer.Argument(metavar="NETWORK", help="A network's name, id or first digits of its id."),
    ],
    stage: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="First module to train again: 1, 2, … or output, or the module's name.",
        ),
    ],
    spec: Annotated[
        Path | None,
        typer.Option(
            help="Spec file whose hidden modules (and output, data, …) take the place of those "
            "from STAGE on; what it leaves out stays as it was."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="CSV file (id, class) of the labels that train the output module."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed; that of each module if left out.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the new network; NETWORK's if left out."),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Keep a network's modules before a stage and train again what stands on them.

    The old network stays; a name means its newest network. 'modkernel networks show' tells which
    modules the two share.

    --json: as of 'train'.
    """
    from modkernel.flows.specs.paths import stored_path
    from modkernel.flows.specs.read import read_spec, validated
    from modkernel.spec import Name

    changes = {} if spec is None else _changes(read_spec(spec), str(spec))
    if labels is not None:
        changes["labels"] = stored_path(labels, Path.cwd())
    if seed is not None:
        changes["seed"] = seed
    chosen = None if name is None else validated(Name, name, "--name")
    with flow_running(verbose):
        from modkernel.flows.retrain_network import retrain_network

        result = retrain_network(network=network, stage=stage, name=chosen, **changes)
    show_network(result, json)


def _changes(spec: NetworkSpec, file: str) -> dict[str, Any]:
    from modkernel.errors import SpecError

    if "output" in spec.model_fields_set and spec.output is None:
        raise SpecError(
            f"{file}: 'output: null' would leave the network without its output module, which "
            "'retrain' keeps: leave 'output' out, or describe another one."
        )
    return {field: getattr(spec, field) for field in FIELDS if field in spec.model_fields_set}
