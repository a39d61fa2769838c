"""Under which licences weights that were trained elsewhere came into a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modkernel.modules.imported import ELSEWHERE
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.engine import Database
from modkernel.spec import ModuleSpec

Licences = Sequence[tuple[ModuleRecord, tuple[str, ...]]]
"""Modules, and under which licences weights of theirs came from elsewhere."""
UNKNOWN = "unknown"
"""The licence of weights whose origin the registry does not have any more; the Hub's word."""


def licences_of(database: Database, chain: Sequence[ModuleRecord]) -> Licences:
    """The modules of a chain with weights from elsewhere, and the licences of these.

    Such are imported modules, stitches with a copy of one, and modules whose training started
    from one, however many steps ago.

    Args:
        database: The registry's, which has what modules started from; of one that was deleted,
            and had weights from elsewhere, the licence is `UNKNOWN`.
        chain: The modules.
    """
    found = ((one, tuple(dict.fromkeys(_licences(database, one.spec)))) for one in chain)
    return [(record, licences) for record, licences in found if licences]


def differing(found: Licences) -> tuple[str, ...]:
    """The licences that there are, each once, in whatever case it is written."""
    names: dict[str, str] = {}
    for name in (name for _, licences in found for name in licences):
        names.setdefault(name.casefold(), name)
    return tuple(names.values())


def _licences(database: Database, spec: ModuleSpec) -> Iterator[str]:
    if spec.kind == "imported":
        yield spec.origin.licence
    elif spec.kind == "stitch":
        yield from _licences(database, spec.upper)
    elif spec.kind == "hidden" and spec.hidden.start_from is not None:
        source = queries.by_id(database, spec.hidden.start_from)
        if source is not None:
            yield from _licences(database, source.spec)
        elif ELSEWHERE in spec.source_data:
            yield UNKNOWN
