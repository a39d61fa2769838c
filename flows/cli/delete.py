"""`modules delete`, `networks delete`, `gc`: forgetting what nobody needs."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modkernel.flows.cli._output import Json, err, out, print_json, print_table, size
from modkernel.flows.cli._stored import ModuleRef, NetworkRef, stored

if TYPE_CHECKING:
    from modkernel.registry import Registry
    from modkernel.registry.records import Dependents, Garbage, ModuleRecord

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def delete_module(
    module: ModuleRef,
    with_dependents: Annotated[
        bool,
        typer.Option("--with-dependents", help="Delete what stands on it, too: modules, networks."),
    ] = False,
    yes: Yes = False,
) -> None:
    """Delete a stored module, in the registry and in MLflow; 'modkernel gc' frees its bytes.

    A module that others stand on, or that a network has, is not deleted; what they are is named.
    One that is LOST is forgotten by its id or NAME/VERSION: 'modkernel verify' names it no more.
    """
    registry = stored()
    record = registry.modules.resolve_to_forget(module)
    found = registry.dependents([record])
    if found and not with_dependents:
        registry.delete_module(record)  # It refuses, and names them.
    _show(record, found)
    _ask(yes)
    for network in found.networks:
        registry.delete_network(network)
        err.print(f"Deleted network {network.name} ({network.short_id}).")
    for one in (*found.modules, record):
        registry.delete_module(one)
        err.print(f"Deleted module {one.name}/{one.version} ({one.short_id}).")
    err.print("'modkernel gc' shows the bytes that can be freed now.")


def delete_network(network: NetworkRef, yes: Yes = False) -> None:
    """Delete a stored network and its evaluations; its modules stay."""
    registry = stored()
    record = registry.networks.resolve(network)
    err.print(f"Network {record.name} ({record.short_id}), made {record.created_at:%Y-%m-%d}.")
    _ask(yes)
    registry.delete_network(record)
    err.print("Deleted. Its modules stay: 'modkernel modules delete' deletes them.")


def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it. Without this nothing is changed.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what takes room and is of no use, with its bytes; --delete removes it for good.

    Deleted modules and runs in MLflow, cached copies and features of modules that are gone, work
    folders and checkpoints that killed runs left, training that was interrupted and not gone on
    with for 30 days, and, where the setting keep_versions is set, old versions that have no alias
    and that nothing stands on but such versions.

    --json: a list of {kind, name, id, size_bytes}.
    """
    registry = stored()
    found = _garbage(registry)
    if delete:
        for garbage in found:
            _remove(registry, garbage)
        seen = {(garbage.kind, garbage.id) for garbage in found}
        # Old versions leave a model and a run in MLflow, whose bytes were counted with them.
        for garbage in _garbage(registry):
            if garbage.kind in ("model", "run") and (garbage.kind, garbage.id) not in seen:
                _remove(registry, garbage)
    if json:
        print_json([garbage.model_dump(mode="json") for garbage in found])
        return
    if not found:
        err.print("There is nothing to remove.")
        return
    kinds: defaultdict[str, list[Garbage]] = defaultdict(list)
    for garbage in found:
        kinds[garbage.kind].append(garbage)
    print_table(
        "Removed" if delete else "Of no use to anybody",
        ("what", "count ", "bytes ", "such as"),
        [
            (kind, str(len(some)), size(sum(one.size_bytes for one in some)), some[-1].name)
            for kind, some in kinds.items()
        ],
    )
    total = size(sum(garbage.size_bytes for garbage in found))
    if delete:
        err.print(f"{total} are free.")
    else:
        err.print(f"'modkernel gc --delete' removes all of it for good: {total}.")


def _garbage(registry: Registry) -> list[Garbage]:
    from modkernel.flows.tasks.work_folder import abandoned_work, left_work
    from modkernel.registry.records import Garbage
    from modkernel.system.files import folder_bytes

    def of(kind: Literal["work", "training"], folder: Path) -> Garbage:
        room = folder_bytes(folder)
        return Garbage(kind=kind, name=folder.name[:12], id=str(folder), size_bytes=room)

    left = [of("work", folder) for folder in left_work(registry)]
    given_up = [of("training", folder) for folder in abandoned_work(registry)]
    return [*registry.garbage(), *left, *given_up]


def _remove(registry: Registry, garbage: Garbage) -> None:
    from modkernel.flows.tasks.work_folder import remove_work

    if garbage.kind in ("work", "training"):
        remove_work(registry, Path(garbage.id).name)
    else:
        registry.collect(garbage)


def _show(record: ModuleRecord, found: Dependents) -> None:
    rows = [
        *(("network", one.name, one.short_id, "") for one in found.networks),
        *(
            ("module", f"{one.name}/{one.version}", one.short_id, size(one.size_bytes))
            for one in (*found.modules, record)
        ),
    ]
    print_table("All this is deleted", ("what", "name", "id", "bytes "), rows)


def _ask(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to be asked: add --yes", param_hint="--yes")
    out.file.flush()
    typer.confirm("Delete it?", abort=True)
