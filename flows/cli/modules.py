"""`modules`: list, find and show stored modules."""

from __future__ import annotations

from typing import Annotated

import typer

from modkernel.flows.cli._output import Json, print_json, print_table, size
from modkernel.flows.cli._stored import print_records, stored

modules = typer.Typer(help="List, show and find stored modules.", no_args_is_help=True)

ModuleRef = Annotated[
    str,
    typer.Argument(
        metavar="MODULE",
        help="An id, the first six or more of its digits, NAME, NAME@ALIAS or NAME/VERSION.",
    ),
]


@modules.command("list")
def list_modules(json: Json = False) -> None:
    """List all stored modules, newest last.

    --json: a list of {id, name, version, kind, spec, recipe_digest, weights_sha256,
    spec_sha256, size_bytes, state, created_at, seconds, run_id, model_id, metrics, files}.
    """
    print_records(stored().modules.find(), json)


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
    registry = stored()
    found = registry.modules.find(
        name=name,
        kind=_kind(kind),
        upstream=None if upstream is None else registry.modules.resolve(upstream).id,
        takes=_shape(takes),
    )
    print_records(found, json)


@modules.command("show")
def show_module(module: ModuleRef, json: Json = False) -> None:
    """Show one module: lineage, interface, data, training and metrics.

    --json: one object as of 'modules list', chain: ids from the first module to this one, and
    needs: {import path: what for} of what it and those under it need from outside.
    """
    from modkernel.registry.records import needs

    registry = stored()
    record = registry.modules.resolve(module)
    chain = registry.modules.chain(record)
    outside = needs(chain)
    if json:
        more = {"chain": [one.id for one in chain], "needs": outside}
        print_json(record.model_dump(mode="json") | more)
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
        "blocks": ", ".join(spec.blocks) if spec.kind == "hidden" else "",
        "objective": spec.hidden.objective.name if spec.kind == "hidden" else "",
        "needs": ", ".join(f"{path} {what}" for path, what in outside.items()),
        "classes": ", ".join(spec.classes or ()),
        "data": f"{spec.dataset.name} ({spec.dataset.fingerprint[:12]})",
        "seed": str(spec.seed),
        "weights": f"{size(record.size_bytes)}, sha256 {record.weights_sha256[:12]}",
        "trained": f"{record.created_at:%Y-%m-%d %H:%M} UTC, {record.seconds:.1f} s",
        "MLflow run": record.run_id or "",
        **{name: f"{value:.4g}" for name, value in sorted(record.metrics.items())},
    }
    print_table(record.name, ("", ""), [(name, value) for name, value in facts.items() if value])


def _kind(kind: str | None) -> str | None:
    if kind not in (None, "hidden", "output"):
        raise typer.BadParameter("use hidden or output", param_hint="--kind")
    return kind


def _shape(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter("write it as 3,32,32", param_hint="--takes") from None
