"""What commands on stored modules and networks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._output import percent, print_json, print_table

if TYPE_CHECKING:
    from modkernel.registry import Catalogue, ModuleRecord, Registry, StoredNames

NEWEST = 100
Limit = Annotated[int, typer.Option(min=1, help="So many at most: those made last.")]

MADE = "made (UTC)"
"""Heading of times as they are stored."""
LIST = ("name", "version ", "id", "kind", "takes", "gives", "data", "accuracy ", "seconds ", MADE)
DROPPED_FIRST = ("seconds ", "gives", "takes", MADE, "kind", "data", "accuracy ")
"""Columns that a narrow terminal has no room for; names and ids are never broken."""


def stored() -> Registry:
    """The registry of the settings in force, opened without Prefect."""
    from modkernel.registry import Registry, Settings

    return Registry.open(Settings())


def catalogue() -> Catalogue:
    """What is stored in the registry of the settings in force: opened at once, and only read."""
    from modkernel.registry import Catalogue, Settings

    return Catalogue.open(Settings())


def complete_modules(incomplete: str) -> list[str]:
    """Names of modules that begin so, for the shell."""
    return [name for name in _names().modules if name.startswith(incomplete)]


def complete_networks(incomplete: str) -> list[str]:
    """Names of networks that begin so, for the shell."""
    return [name for name in _names().networks if name.startswith(incomplete)]


def complete_all(incomplete: str) -> list[str]:
    """Names of networks and modules that begin so, for the shell."""
    return [*complete_networks(incomplete), *complete_modules(incomplete)]


def _names() -> StoredNames:
    return catalogue().names()


ModuleRef = Annotated[
    str,
    typer.Argument(
        metavar="MODULE",
        help="An id, the first six or more of its digits, NAME, NAME@ALIAS or NAME/VERSION.",
        autocompletion=complete_modules,
    ),
]
NetworkRef = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A network's id, first digits of it, NAME, NAME@ALIAS or NAME/VERSION.",
        autocompletion=complete_networks,
    ),
]
AnyRef = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK|MODULE",
        help="A network's name or id; or a module, as NAME, NAME@ALIAS, NAME/VERSION or its id, "
        "with all that it stands on.",
        autocompletion=complete_all,
    ),
]


def print_records(
    records: Sequence[ModuleRecord],
    json: bool = False,
    title: str = "Modules",
    accuracies: Mapping[str, float] | None = None,
) -> None:
    """A table of stored modules, or their JSON.

    Args:
        records: The modules.
        json: Print JSON.
        title: Of the table.
        accuracies: By id, where known.
    """
    if json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    known = accuracies or {}
    print_table(
        title,
        LIST,
        [
            (
                record.name,
                str(record.version or record.state),
                record.short_id,
                record.kind,
                dimensions(record.spec.interface.takes),
                dimensions(record.spec.interface.gives),
                record.spec.dataset.name,
                percent(known.get(record.id)),
                f"{record.seconds:.1f}",
                f"{record.created_at:%Y-%m-%d %H:%M}",
            )
            for record in records
        ],
        DROPPED_FIRST,
    )


def dimensions(shape: tuple[int, ...]) -> str:
    """(3, 32, 32) → 3×32×32."""
    return "×".join(map(str, shape))
