"""What commands on stored modules and networks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modkernel.flows.cli._output import print_json, print_table

if TYPE_CHECKING:
    from modkernel.registry import ModuleRecord, Registry


def stored() -> Registry:
    """The registry of the settings in force, opened without Prefect."""
    from modkernel.registry import Registry, Settings

    return Registry.open(Settings())


def print_records(
    records: Sequence[ModuleRecord], json: bool = False, title: str = "Modules"
) -> None:
    """A table of stored modules, or their JSON."""
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
                dimensions(record.spec.interface.takes),
                dimensions(record.spec.interface.gives),
                record.spec.dataset.name,
                f"{record.seconds:.1f}",
                f"{record.created_at:%Y-%m-%d %H:%M}",
            )
            for record in records
        ],
    )


def dimensions(shape: tuple[int, ...]) -> str:
    """(3, 32, 32) → 3×32×32."""
    return "×".join(map(str, shape))
