"""Modules by what people look them up by, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Select, func, select, tuple_

from modkernel.registry.records import ModuleRecord, Record
from modkernel.registry.sql import queries
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import InterfaceRow, ModuleRow, TraitRow
from modkernel.spec import ModuleSpec, Shape

CHARACTERS = 255
"""Of a trait, at most; what is longer is cut."""


class ModuleQuery(Record):
    """What modules are looked for; all that is given must hold."""

    name: str | None = None
    """With '*' for any characters and '?' for one."""
    kind: str | None = None
    upstream: str | None = None
    """Id of the module, or of the preprocessing, that it stands on."""
    takes: Shape | None = None
    gives: Shape | None = None
    kernel: str | None = None
    dataset: str | None = None
    fingerprint: str | None = None
    """Of its data set."""
    classes: tuple[str, ...] = ()
    """All of which it tells apart."""
    backbone: str | None = None
    block: str | None = None
    objective: str | None = None
    accuracy: float | None = None
    """At least; of a hidden module, that of the best output module that stands on it."""
    since: datetime | None = None
    before: datetime | None = None


def find_modules(
    database: Database,
    query: ModuleQuery,
    newest: int | None = None,
    older_than: ModuleRecord | None = None,
) -> tuple[ModuleRecord, ...]:
    """The ready modules that a query asks for, oldest first.

    Args:
        database: of the registry.
        query: what is looked for.
        newest: so many at most, of those made last.
        older_than: only what was made before this one: the page before.
    """
    wanted = _wanted(query)
    age = ModuleRow.created_at, ModuleRow.id
    if older_than is not None:
        wanted = wanted.where(tuple_(*age) < (older_than.created_at, older_than.id))
    wanted = wanted.order_by(*(column.desc() for column in age))
    if newest is not None:
        wanted = wanted.limit(newest)
    with database.reading() as session:
        return tuple(map(queries.record_of, session.scalars(wanted)))[::-1]


def count_modules(database: Database, query: ModuleQuery) -> int:
    """How many ready modules a query finds."""
    with database.reading() as session:
        count = select(func.count()).select_from(_wanted(query).subquery())
        return session.scalars(count).one()


def accuracies(database: Database, module_ids: Sequence[str]) -> dict[str, float]:
    """By id: of an output module on test examples, or of the best one on a hidden module."""
    query = select(ModuleRow.id, ModuleRow.accuracy).where(
        ModuleRow.id.in_(module_ids), ModuleRow.accuracy.is_not(None)
    )
    with database.reading() as session:
        return {
            module_id: value for module_id, value in session.execute(query) if value is not None
        }


def traits_of(spec: ModuleSpec) -> list[TraitRow]:
    """What a module can be looked up by, beside its columns."""
    pairs = sorted({(trait, value[:CHARACTERS]) for trait, value in _traits(spec)})
    return [TraitRow(trait=trait, value=value) for trait, value in pairs]


def _traits(spec: ModuleSpec) -> Iterator[tuple[str, str]]:
    yield "dataset", spec.dataset.name
    yield "fingerprint", spec.dataset.fingerprint
    for name in spec.classes or spec.dataset.classes:
        yield "class", name
    if spec.kind == "hidden":
        yield "backbone", spec.backbone.name
        yield "objective", spec.hidden.objective.name
        for block in spec.blocks:
            yield "block", block


def _wanted(query: ModuleQuery) -> Select[ModuleRow]:
    wanted = select(ModuleRow).where(ModuleRow.state == "READY")
    if query.name is not None:
        pattern = query.name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        wanted = wanted.where(
            ModuleRow.name.like(pattern.replace("*", "%").replace("?", "_"), escape="\\")
            if {"*", "?"} & {*query.name}
            else ModuleRow.name == query.name
        )
    if query.kind is not None:
        wanted = wanted.where(ModuleRow.kind == query.kind)
    if query.accuracy is not None:
        wanted = wanted.where(ModuleRow.accuracy >= query.accuracy)
    if query.since is not None:
        wanted = wanted.where(ModuleRow.created_at >= query.since)
    if query.before is not None:
        wanted = wanted.where(ModuleRow.created_at < query.before)
    interface = {
        InterfaceRow.upstream: query.upstream,
        InterfaceRow.takes: None if query.takes is None else queries.shape_text(query.takes),
        InterfaceRow.gives: None if query.gives is None else queries.shape_text(query.gives),
        InterfaceRow.kernel: query.kernel,
    }
    given = [column == value for column, value in interface.items() if value is not None]
    if given:
        wanted = wanted.join(InterfaceRow).where(*given)
    traits = [
        ("dataset", query.dataset),
        ("fingerprint", query.fingerprint),
        ("backbone", query.backbone),
        ("block", query.block),
        ("objective", query.objective),
        *(("class", name) for name in query.classes),
    ]
    for trait, value in traits:
        if value is not None:
            has = select(TraitRow.module_id).where(
                TraitRow.module_id == ModuleRow.id,
                TraitRow.trait == trait,
                TraitRow.value == value[:CHARACTERS],
            )
            wanted = wanted.where(has.exists())
    return wanted
