"""`modules`: list, find and show stored modules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._output import Json, err, percent, print_json, print_table, size
from modkernel.flows.cli._stored import NEWEST, Limit, ModuleRef, catalogue, print_records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modkernel.registry import Catalogue, ModuleQuery, ModuleRecord

modules = typer.Typer(help="List, show and find stored modules.", no_args_is_help=True)

COUNTED = 1000
"""Modules that are counted exactly; of more it is said that there are more."""
NAMED = 5
"""How many of the modules and networks that use one are named."""
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


@modules.command("list")
def list_modules(limit: Limit = NEWEST, json: Json = False) -> None:
    """List the newest stored modules, the newest last.

    --json: a list of {id, name, version, kind, spec, recipe_digest, weights_sha256,
    spec_sha256, size_bytes, state, created_at, seconds, run_id, model_id, metrics, files}.
    """
    from modkernel.registry import ModuleQuery

    _print_found(ModuleQuery(), limit, json)


@modules.command("find")
def find_modules(
    name: Annotated[
        str | None, typer.Option(help="Name of the module; '*' stands for any characters.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="hidden, imported, stitch or output.")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Reference of the module that it stands on.")
    ] = None,
    takes: Annotated[
        str | None, typer.Option(help="Shape of one example that it takes, such as 3,32,32.")
    ] = None,
    gives: Annotated[str | None, typer.Option(help="Shape of what it makes of one.")] = None,
    data: Annotated[str | None, typer.Option(help="Name of its data set.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes that it tells apart, with commas between.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Name of its backbone.")] = None,
    block: Annotated[str | None, typer.Option(help="A block of its backbone.")] = None,
    kernel: Annotated[str | None, typer.Option(help="Name of its kernel.")] = None,
    objective: Annotated[str | None, typer.Option(help="Name of its objective.")] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="At least; of a hidden module, with its best output module."
        ),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=DATES, help="Made at this time (UTC) or later.")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option(formats=DATES, help="Made before this time (UTC).")
    ] = None,
    limit: Limit = NEWEST,
    json: Json = False,
) -> None:
    """List the newest stored modules that have all the given properties, the newest last.

    --json: as of 'modules list'.
    """
    from modkernel.registry import ModuleQuery

    query = ModuleQuery(
        name=name,
        kind=_kind(kind),
        upstream=None if upstream is None else catalogue().module(upstream).id,
        takes=_shape(takes, "--takes"),
        gives=_shape(gives, "--gives"),
        dataset=data,
        classes=() if classes is None else tuple(part.strip() for part in classes.split(",")),
        backbone=backbone,
        block=block,
        kernel=kernel,
        objective=objective,
        accuracy=accuracy,
        since=None if since is None else since.replace(tzinfo=UTC),
        before=None if before is None else before.replace(tzinfo=UTC),
    )
    _print_found(query, limit, json)


@modules.command("show")
def show_module(module: ModuleRef, json: Json = False) -> None:
    """Show one module: lineage, interface, data, training and metrics.

    --json: one object as of 'modules list', chain: ids from the first module to this one, and
    needs: {import path: what for} of what it and those under it need from outside.
    """
    from modkernel.registry.records import needs

    registry = catalogue()
    record = registry.module(module)
    chain = registry.chain(record)
    outside = needs(chain)
    if json:
        more = {"chain": [one.id for one in chain], "needs": outside}
        print_json(record.model_dump(mode="json") | more)
        return
    spec = record.spec
    above = registry.standing_on(record)
    networks = registry.networks_with(record)
    accuracy = registry.accuracies((record,)).get(record.id)
    facts = {
        "id": record.id,
        "name": f"{record.name}/{record.version}",
        "kind": record.kind,
        "state": record.state,
        **_chain(record, chain),
        "takes": str(list(spec.interface.takes)),
        "gives": str(list(spec.interface.gives)),
        "kernel": spec.interface.kernel.name,
        "copy of": _copied(registry, record),
        "blocks": ", ".join(spec.blocks) if spec.kind != "output" else "",
        "trained by": spec.hidden.objective.name if spec.kind == "hidden" else "",
        "accuracy": percent(accuracy) if spec.kind != "output" else "",
        "under": _counted([f"{one.name}/{one.version}" for one in above]),
        "stitched as": _counted([f"{one.name}/{one.version}" for one in registry.copies(record)]),
        "in networks": _counted([network.name for network in networks]),
        "needs": ", ".join(f"{path} {what}" for path, what in outside.items()),
        "classes": ", ".join(spec.classes or ()),
        **_origin(record),
        "weights": f"{size(record.size_bytes)}, sha256 {record.weights_sha256[:12]}",
        "MLflow run": record.run_id or "",
        **{name: f"{value:.4g}" for name, value in sorted(record.metrics.items())},
    }
    print_table(record.name, ("", ""), [(name, value) for name, value in facts.items() if value])


def _origin(record: ModuleRecord) -> dict[str, str]:
    """What the weights are from."""
    spec, when = record.spec, f"{record.created_at:%Y-%m-%d %H:%M} UTC"
    if spec.kind == "imported":
        return {
            "backbone": spec.backbone.name,
            "licence": spec.origin.licence,
            "weights file": f"sha256 {spec.origin.weights_sha256[:12]}",
            "imported": when,
        }
    starts = {}
    if spec.kind == "hidden" and spec.hidden.start_from is not None:
        frozen = ", ".join(spec.blocks[: spec.hidden.frozen(spec.blocks)])
        starts = {
            "starts from": f"{spec.source} ({spec.hidden.start_from[:12]})",
            "frozen blocks": frozen,
        }
    return {
        **starts,
        "data": f"{spec.dataset.name} ({spec.dataset.fingerprint[:12]})",
        "seed": str(spec.seed),
        "trained": f"{when}, {record.seconds:.1f} s",
    }


def _print_found(query: ModuleQuery, limit: int, json: bool) -> None:
    registry = catalogue()
    found = registry.modules(query, newest=limit)
    print_records(found, json, accuracies={} if json else registry.accuracies(found))
    if not json and len(found) == limit:
        most = max(limit, COUNTED)
        total = registry.count(query, most + 1)
        if total > limit:
            all_of_them = f"more than {most}" if total > most else str(total)
            err.print(f"These are the newest {limit} of {all_of_them}: see --limit.")


def _chain(record: ModuleRecord, chain: Sequence[ModuleRecord]) -> dict[str, str]:
    """What a module stands on: a chain, or all that there is and what it takes of it."""
    names = {one.id: f"{one.name}/{one.version}" for one in chain}
    if not any(one.spec.interface.joins for one in chain):
        return {"chain": " → ".join(names.values())}
    return {
        "stands on": ", ".join(
            names.get(one.id, "data") + ("" if one.weight == 1 else f" (weight {one.weight:g})")
            for one in record.spec.interface.upstream
        ),
        "all below": ", ".join(name for key, name in names.items() if key != record.id),
    }


def _copied(registry: Catalogue, record: ModuleRecord) -> str:
    """What a stitch has a copy of."""
    if record.spec.kind != "stitch":
        return ""
    upper = registry.by_id(record.spec.upper_id)
    if upper is None:
        return f"{record.spec.upper_id[:12]}, which is no longer stored"
    return f"{upper.name}/{upper.version}"


def _counted(names: list[str]) -> str:
    shown = ", ".join(names[-NAMED:])
    return f"{shown} and {len(names) - NAMED} older" if len(names) > NAMED else shown


def _kind(kind: str | None) -> str | None:
    if kind not in (None, "hidden", "imported", "stitch", "output"):
        raise typer.BadParameter("use hidden, imported, stitch or output", param_hint="--kind")
    return kind


def _shape(text: str | None, option: str) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter("write it as 3,32,32", param_hint=option) from None
