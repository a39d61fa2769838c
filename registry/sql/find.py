"""Modules by what people look them up by, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, null, select, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from modkernel.registry.records import ModuleRecord, Record
from modkernel.registry.sql import queries
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import ModuleRow, TraitRow, utc_now
from modkernel.spec import ModuleSpec, Shape

CHARACTERS = 255
"""Of a trait, at most; what is longer is cut."""
FEW = 1_000
"""Modules that are sorted by age at once; more are read in this order."""


class ModuleQuery(Record):
    """What modules are looked for; all that is given must hold."""

    name: str | None = None
    """With '*' for any characters and '?' for one."""
    kind: str | None = None
    upstream: str | None = None
    """Id of a module, or of the preprocessing, that it stands on."""
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
    copy_of: str | None = None
    """Id of the module that it, a stitch, has a copy of."""
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
    with database.reading() as session:
        found = _newest_first(session, query, older_than).limit(newest).subquery()
        rows = session.scalars(select(ModuleRow).join(found, found.c[0] == ModuleRow.id))
        return tuple(sorted(map(queries.record_of, rows), key=lambda one: (one.created_at, one.id)))


def count_modules(database: Database, query: ModuleQuery, most: int | None = None) -> int:
    """How many ready modules a query finds; after `most` it counts no further."""
    with database.reading() as session:
        found = _newest_first(session, query).limit(most).subquery()
        return session.scalars(select(func.count()).select_from(found)).one()


def accuracies(database: Database, module_ids: Sequence[str]) -> dict[str, float]:
    """By id: of an output module on test examples, or of the best one on a hidden module."""
    query = select(ModuleRow.id, ModuleRow.accuracy).where(
        ModuleRow.id.in_(module_ids), ModuleRow.accuracy.is_not(None)
    )
    with database.reading() as session:
        return {
            module_id: value for module_id, value in session.execute(query) if value is not None
        }


def traits_of(spec: ModuleSpec, name: str, created_at: datetime) -> list[TraitRow]:
    """What a module can be looked up by, beside its accuracy and its age."""
    pairs = sorted({(trait, value[:CHARACTERS]) for trait, value in _traits(spec, name)})
    return [TraitRow(trait=trait, value=value, created_at=created_at) for trait, value in pairs]


def _traits(spec: ModuleSpec, name: str) -> Iterator[tuple[str, str]]:
    yield "name", name
    yield "kind", spec.kind
    for below in spec.interface.stands_on:
        yield "upstream", below
    yield "takes", queries.shape_text(spec.interface.takes)
    yield "gives", queries.shape_text(spec.interface.gives)
    yield "kernel", spec.interface.kernel.name
    yield "dataset", spec.dataset.name
    yield "fingerprint", spec.dataset.fingerprint
    for one in spec.classes or spec.dataset.classes:
        yield "class", one
    if spec.kind == "output":
        return
    yield "backbone", spec.backbone.name
    for block in spec.blocks:
        yield "block", block
    if spec.kind == "hidden":
        yield "objective", spec.hidden.objective.name
    if spec.kind == "stitch":
        yield queries.COPY_OF, spec.upper_id


def _asked(query: ModuleQuery) -> list[tuple[str, str]]:
    """The traits that a module must have."""
    alone = {
        "name": None if _is_pattern(query.name) else query.name,
        "kind": query.kind,
        "upstream": query.upstream,
        "takes": None if query.takes is None else queries.shape_text(query.takes),
        "gives": None if query.gives is None else queries.shape_text(query.gives),
        "kernel": query.kernel,
        "dataset": query.dataset,
        "fingerprint": query.fingerprint,
        "backbone": query.backbone,
        "block": query.block,
        "objective": query.objective,
        queries.COPY_OF: query.copy_of,
    }
    named = [(trait, value) for trait, value in alone.items() if value is not None]
    named += [("class", name) for name in query.classes]
    return [(trait, value[:CHARACTERS]) for trait, value in named]


def _newest_first(
    session: Session, query: ModuleQuery, older_than: ModuleRecord | None = None
) -> Select[str]:
    """Ids of the ready modules that a query asks for.

    Both databases guess badly which condition leaves fewest modules. So that one is looked for
    first, and is the only one that the statement offers an index for: it is read from its newest
    module on, and what else is asked is looked up for each.
    """
    asked = _asked(query)
    rarest, is_accuracy = _rarest(session, asked, query.accuracy)
    of_module = [ModuleRow.state == "READY"]
    if query.name is not None and _is_pattern(query.name):
        pattern = query.name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        like = pattern.replace("*", "%").replace("?", "_")
        of_module.append(ModuleRow.name.like(like, escape="\\"))
    if query.accuracy is not None:
        accuracy = ModuleRow.accuracy if is_accuracy else _without_index(ModuleRow.accuracy)
        of_module.append(accuracy >= query.accuracy)
    age: tuple[ColumnElement[Any] | InstrumentedAttribute[datetime], InstrumentedAttribute[str]]
    if rarest is None:
        made = _without_index(ModuleRow.created_at) if is_accuracy else ModuleRow.created_at
        age, where = (made, ModuleRow.id), of_module
    else:
        age = TraitRow.created_at, TraitRow.module_id
        where = [TraitRow.trait == rarest[0], TraitRow.value == rarest[1]]
    for trait, value in asked:
        if (trait, value) != rarest:
            other = aliased(TraitRow)
            has_it = other.module_id == age[1], other.trait == trait, other.value == value
            where.append(_is_there(select(other.module_id).where(*has_it)))
    if rarest is not None:  # Last: the modules' rows are the slowest to come by.
        is_of = ModuleRow.id == TraitRow.module_id
        where.append(_is_there(select(ModuleRow.id).where(is_of, *of_module)))
    if query.since is not None:
        where.append(age[0] >= query.since)
    if query.before is not None:
        where.append(age[0] < query.before)
    if older_than is not None:
        where.append(tuple_(*age) < (older_than.created_at, older_than.id))
    return select(age[1]).where(*where).order_by(*(column.desc() for column in age))


def _rarest(
    session: Session, asked: Sequence[tuple[str, str]], accuracy: float | None
) -> tuple[tuple[str, str] | None, bool]:
    """The trait that fewest modules have, or whether fewest reach the accuracy.

    Of traits that more than `FEW` modules have, the one whose newest `FEW` reach back furthest.
    """
    if accuracy is None and len(asked) < 2:
        return (asked[0] if asked else None), False
    counts = []
    for place, (trait, value) in enumerate(asked):
        having = select(TraitRow.created_at).where(TraitRow.trait == trait, TraitRow.value == value)
        newest = having.order_by(TraitRow.created_at.desc()).limit(FEW).subquery()
        counts.append(select(literal(place), func.count(), func.min(newest.c.created_at)))
    if accuracy is not None:  # Their ages stand in rows that are slow to come by.
        reaching = select(ModuleRow.id).where(ModuleRow.accuracy >= accuracy).limit(FEW).subquery()
        counts.append(select(literal(len(asked)), func.count(), null()).select_from(reaching))
    now = utc_now()
    found = session.execute(union_all(*counts)).all()
    first, n_modules, _ = min(found, key=lambda one: (one[1], one[2] or now, one[0]))
    if first < len(asked):
        return asked[first], False
    return None, n_modules < FEW


def _is_pattern(name: str | None) -> bool:
    return name is not None and bool({"*", "?"} & {*name})


def _is_there(found: Select[str]) -> ColumnElement[bool]:
    """Whether a row is there, looked up for each module: the offset forbids PostgreSQL a join."""
    return found.offset(0).exists()


def _without_index(column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    return func.coalesce(column, column)
