"""`train`, `train-module`, `baseline`: the commands that train what a spec file says.

Prefect reads its surroundings when it is imported: flows are imported within `flow_running`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modkernel.flows.cli._output import Json, out, percent, print_json
from modkernel.flows.cli._run_flow import (
    Devices,
    Verbose,
    flow_running,
    print_modules,
    print_remarks,
    show_network,
)

SpecFile = Annotated[
    Path, typer.Argument(metavar="SPEC.yaml", help="A network's spec file; see examples/.")
]


def train(
    spec: SpecFile, devices: Devices = None, json: Json = False, verbose: Verbose = False
) -> None:
    """Train a network module by module; a module that is stored already is reused.

    --json: {id, name, modules: [{id, name, version, kind, reused, seconds, objective,
    peak_memory_bytes, run_id, labels_told (null but of the output module)}], evaluation: null or
    {accuracy, accuracy_all_labels, accuracy_mean, accuracy_min, accuracy_max, the same five of
    balanced_accuracy, worst_class, …_all_labels and …_mean: {name, accuracy, right, examples},
    untested: [class, ...], validated: [those on the validation part], labels, draws, confusion,
    per_class}, trained_modules, reused_modules,
    seconds, run_id}.
    """
    from modkernel.flows.specs.read import read_spec

    network = read_spec(spec)
    with flow_running(verbose, devices):
        from modkernel.flows.train_network import train_network

        result = train_network(network)
    show_network(result, json)


def train_module(
    spec: SpecFile,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            help="Stored hidden module to stand on: id, NAME, NAME@ALIAS, NAME/VERSION. Given more "
            "than once: modules side by side, on which the spec file's backbone is set."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name; NETWORK.hidden-K by the spec file if left out.")
    ] = None,
    devices: Devices = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train one more hidden module, the only one of the spec file, on a stored one.

    Data set and backbone are those of the stored module where the file names none.

    --json: {id, name, version, kind, reused, seconds, objective, peak_memory_bytes, run_id,
    labels_told}; labels_told is of an output module, else null.
    """
    from modkernel.errors import SpecError
    from modkernel.flows.specs.read import read_spec

    network = read_spec(spec)
    if len(network.hidden) != 1:
        raise SpecError(
            f"{spec} has {len(network.hidden)} hidden modules, but 'train-module' trains one: "
            "keep that one, or use 'modkernel train'."
        )
    named = network.model_fields_set
    with flow_running(verbose, devices):
        from modkernel.flows.runtime.shared import open_registry
        from modkernel.flows.train_module import train_module as flow

        registry = open_registry()
        ids = [registry.modules.resolve(reference).id for reference in upstream or ()]
        below = registry.modules.joined_chain(ids)
        result = flow(
            name=name or f"{network.name}.hidden-{len(below) + 1}",
            hidden=network.hidden[0],
            upstream=tuple(upstream) if upstream else None,
            dataset=network.dataset if "dataset" in named else None,
            backbone=network.backbone if "backbone" in named else None,
            pairs=network.pairs,
            seed=network.seed,
        )
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        print_modules(result.name, [result])


def baseline(spec: SpecFile, json: Json = False, verbose: Verbose = False) -> None:
    """Train the network of a spec file end to end, for comparison.

    Its result is kept as a run of MLflow alone; 'networks list' does not have it.

    --json: {name, reused, evaluation (as of 'train'), train_seconds, peak_memory_bytes, seconds,
    run_id}.
    """
    from modkernel.flows.specs.read import read_spec

    network = read_spec(spec)
    with flow_running(verbose):
        from modkernel.flows.display.artifacts import baseline_place
        from modkernel.flows.runtime.shared import open_registry
        from modkernel.flows.train_baseline import train_baseline

        result = train_baseline(network)
        place = "" if json else baseline_place(open_registry(), result.run_id)
    if json:
        print_json(result.model_dump(mode="json"))
        return
    out.print(f"{result.name}, end to end: {'reused' if result.reused else 'trained'} in ", end="")
    value = result.evaluation
    out.print(
        f"{result.train_seconds:.1f} s, accuracy {percent(value.accuracy)}, balanced "
        f"{percent(value.balanced_accuracy)}, worst class {value.worst_class.text}",
        soft_wrap=True,
    )
    print_remarks(value)
    out.print(place, soft_wrap=True)
