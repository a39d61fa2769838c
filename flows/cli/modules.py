"""`modules`, `networks`, `predict`, `verify`, `repair`: what is stored, and using it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._output import Json, err, out, percent, print_json, print_table, size

if TYPE_CHECKING:
    from modkernel.registry import ModuleRecord, NetworkRecord, Registry

modules = typer.Typer(help="List, show and find stored modules.", no_args_is_help=True)
networks = typer.Typer(help="List and show stored networks.", no_args_is_help=True)

NAMED = 5
"""How many of the networks that share a module are named."""

ModuleRef = Annotated[
    str,
    typer.Argument(
        metavar="MODULE",
        help="An id, the first six or more of its digits, NAME, NAME@ALIAS or NAME/VERSION.",
    ),
]
NetworkRef = Annotated[
    str, typer.Argument(metavar="NETWORK", help="A network's name, id or first digits of its id.")
]


@modules.command("list")
def list_modules(json: Json = False) -> None:
    """List all stored modules, newest last.

    --json: a list of {id, name, version, kind, spec, recipe_digest, weights_sha256,
    spec_sha256, size_bytes, state, created_at, seconds, run_id, model_id, metrics}.
    """
    _print_modules(_registry().find(), json)


@modules.command("find")
def find_modules(
    name: Annotated[str | None, typer.Option(help="Name of the module.")] = None,
    kind: Annotated[str | None, typer.Option(help="hidden or output.")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Reference of the module that it stands on.")
    ] = None,
    takes: Annotated[
        str | None, typer.Option(help="Shape of one example that it takes, such as 3,32,32.")
    ] = None,
    json: Json = False,
) -> None:
    """List the stored modules that have all the given properties.

    --json: as of 'modules list'.
    """
    registry = _registry()
    found = registry.find(
        name=name,
        kind=_kind(kind),
        upstream=None if upstream is None else registry.resolve(upstream).id,
        takes=_shape(takes),
    )
    _print_modules(found, json)


@modules.command("show")
def show_module(module: ModuleRef, json: Json = False) -> None:
    """Show one module: lineage, interface, data, training and metrics.

    --json: one object as of 'modules list', and chain: ids from the first module to this one.
    """
    registry = _registry()
    record = registry.resolve(module)
    chain = registry.chain(record)
    if json:
        print_json(record.model_dump(mode="json") | {"chain": [one.id for one in chain]})
        return
    spec = record.spec
    facts = {
        "id": record.id,
        "name": f"{record.name}/{record.version}",
        "kind": record.kind,
        "state": record.state,
        "chain": " → ".join(f"{one.name}/{one.version}" for one in chain),
        "takes": str(list(spec.interface.takes)),
        "gives": str(list(spec.interface.gives)),
        "kernel": spec.interface.kernel.name,
        "blocks": ", ".join(spec.blocks),
        "objective": spec.hidden.objective.name if spec.hidden else "",
        "classes": ", ".join(spec.classes or ()),
        "data": f"{spec.dataset.name} ({spec.dataset.fingerprint[:12]})",
        "seed": str(spec.seed),
        "weights": f"{size(record.size_bytes)}, sha256 {record.weights_sha256[:12]}",
        "trained": f"{record.created_at:%Y-%m-%d %H:%M} UTC, {record.seconds:.1f} s",
        "MLflow run": record.run_id or "",
        **{name: f"{value:.4g}" for name, value in sorted(record.metrics.items())},
    }
    print_table(record.name, ("", ""), [(name, value) for name, value in facts.items() if value])


@networks.command("list")
def list_networks(json: Json = False) -> None:
    """List all stored networks.

    --json: a list of {id, name, module_ids, created_at, run_id, evaluation, spec}.
    """
    records = _registry().networks()
    if json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    print_table(
        "Networks",
        ("name", "id", "modules ", "labels ", "accuracy ", "mean of draws ", "all labels ", "made"),
        [_network_row(record) for record in records],
    )


@networks.command("show")
def show_network(network: NetworkRef, json: Json = False) -> None:
    """Show one network: its modules in order, who else has them, and how it was evaluated.

    --json: one object as of 'networks list', modules: a list as of 'modules list', and shared:
    for each module a list of the ids of the other networks that have it.
    """
    registry = _registry()
    record = registry.network(network)
    chain = registry.members(record)
    sharing = registry.sharing(record)
    if json:
        print_json(
            record.model_dump(mode="json")
            | {
                "modules": [module.model_dump(mode="json") for module in chain],
                "shared": [[other.id for other in sharing[module.id]] for module in chain],
            }
        )
        return
    _print_modules(chain, json=False, title=f"{record.name} ({record.short_id})")
    for module in chain:
        others = [f"{other.name} ({other.short_id})" for other in sharing[module.id]]
        if others:
            shown = ", ".join(others[-NAMED:])
            more = f" and {len(others) - NAMED} older" if len(others) > NAMED else ""
            out.print(f"{module.name}/{module.version} is shared with {shown}{more}")
    if record.evaluation is not None:
        value = record.evaluation
        out.print(
            f"accuracy {percent(value.accuracy)} · with {value.labels} labels, "
            f"{value.draws} draw(s): mean {percent(value.accuracy_mean)}, "
            f"least {percent(value.accuracy_min)} · "
            f"with all labels {percent(value.accuracy_all_labels)}"
        )


def predict(
    network: NetworkRef,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files.")],
    json: Json = False,
) -> None:
    """Predict the class of each image with a stored network.

    --json: a list of {image, label, probability, probabilities}.
    """
    from modkernel.flows.cli.networks import load_network
    from modkernel.flows.cli.networks import predict as predict_images

    registry = _registry()
    assembled = load_network(registry, registry.network(network))
    predictions = list(predict_images(assembled, images))
    if json:
        print_json([prediction.model_dump() for prediction in predictions])
        return
    print_table(
        network,
        ("image", "class", "probability "),
        [(one.image, one.label, percent(one.probability)) for one in predictions],
    )


def verify(json: Json = False) -> None:
    """Check that every stored module is whole; exit 1 if one is not.

    --json: a list of {kind, module_id, name, message}.
    """
    problems = _registry().verify()
    if json:
        print_json([problem.model_dump(mode="json") for problem in problems])
    for problem in problems:
        err.print(f"{problem.kind} {problem.name}: {problem.message}", style="red")
    if problems:
        raise typer.Exit(1)
    err.print("Every stored module is whole.")


def repair(json: Json = False) -> None:
    """Finish or undo what an interrupted run left half-stored.

    --json: a list of {kind, module_id, name, message}.
    """
    actions = _registry().repair()
    if json:
        print_json([action.model_dump(mode="json") for action in actions])
    for action in actions:
        err.print(f"{action.kind} {action.name}: {action.message}")
    if not actions:
        err.print("There was nothing to repair.")


def _registry() -> Registry:
    from modkernel.registry import Registry, Settings

    return Registry.open(Settings())


def _print_modules(records: Sequence[ModuleRecord], json: bool, title: str = "Modules") -> None:
    if json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    print_table(
        title,
        ("name", "version ", "id", "kind", "takes", "gives", "data", "seconds ", "made"),
        [
            (
                record.name,
                str(record.version or record.state),
                record.short_id,
                record.kind,
                _dimensions(record.spec.interface.takes),
                _dimensions(record.spec.interface.gives),
                record.spec.dataset.name,
                f"{record.seconds:.1f}",
                f"{record.created_at:%Y-%m-%d %H:%M}",
            )
            for record in records
        ],
    )


def _network_row(record: NetworkRecord) -> tuple[str, ...]:
    value = record.evaluation
    figures = (
        ("", "", "", "")
        if value is None
        else (
            str(value.labels),
            percent(value.accuracy),
            percent(value.accuracy_mean),
            percent(value.accuracy_all_labels),
        )
    )
    made = f"{record.created_at:%Y-%m-%d %H:%M}"
    return (record.name, record.short_id, str(len(record.module_ids)), *figures, made)


def _dimensions(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _kind(kind: str | None) -> str | None:
    if kind not in (None, "hidden", "output"):
        raise typer.BadParameter("use hidden or output", param_hint="--kind")
    return kind


def _shape(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter("write it as 3,32,32", param_hint="--takes") from None
