"""Rows to records: what the registry knows about modules and networks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from modkernel.errors import AmbiguousError, NotFoundError
from modkernel.registry.records import ModuleRecord, Named, Uses, version_number
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import (
    LineageRow,
    ModuleRow,
    NetworkModuleRow,
    NetworkRow,
    PromotionRow,
    TraitRow,
)
from modkernel.spec import Shape, parse_module_spec

COPY_OF = "copy of"
"""Trait of a stitch: the id of the module that it has a copy of."""
LINKED = 5
"""Others of a kind that a card links to."""

PREFIX = re.compile(r"[0-9a-f]{6,64}")
FORMS = "an id or at least 6 digits of it, NAME, NAME@ALIAS or NAME/VERSION"


def record_of(row: ModuleRow) -> ModuleRecord:
    """A row as a record."""
    values = {
        name: getattr(row, name) for name in ModuleRecord.model_fields if name not in ("spec",)
    }
    return ModuleRecord(spec=parse_module_spec(row.spec), **values)


def shape_text(shape: Shape) -> str:
    """A shape as the database holds it."""
    return "x".join(map(str, shape))


def by_id(database: Database, module_id: str) -> ModuleRecord | None:
    """The module of an id, in whatever state."""
    with database.reading() as session:
        row = session.get(ModuleRow, module_id)
        return None if row is None else record_of(row)


def labels_told(database: Database, module_id: str) -> str | None:
    """What a module's report tells of its labels, read without torch."""
    with database.reading() as session:
        report = session.scalar(select(ModuleRow.report).where(ModuleRow.id == module_id))
        return None if report is None else json.loads(report).get("labels_told")


def required(database: Database, module_id: str) -> ModuleRecord:
    """The ready module of an id.

    Raises:
        NotFoundError: there is none, or it is not ready.
    """
    record = by_id(database, module_id)
    if record is None:
        raise NotFoundError(
            f"There is no module {module_id[:12]} in the registry: "
            "see 'modkernel modules list', or store it first."
        )
    if record.state != "READY":
        raise NotFoundError(
            f"Module {record.short_id} ({record.name}) is {record.state}, not READY: run "
            "'modkernel repair', or train it again."
        )
    return record


def in_state(database: Database, state: str) -> tuple[ModuleRecord, ...]:
    """All modules in a state, oldest first."""
    query = select(ModuleRow).where(ModuleRow.state == state).order_by(ModuleRow.created_at)
    with database.reading() as session:
        return tuple(map(record_of, session.scalars(query)))


def is_ready(database: Database, recipe_digest: str) -> bool:
    """Whether a module of a recipe is READY; its bytes are not looked for."""
    query = select(ModuleRow.id).where(
        ModuleRow.recipe_digest == recipe_digest, ModuleRow.state == "READY"
    )
    with database.reading() as session:
        return session.scalars(query.limit(1)).first() is not None


def chain(database: Database, module_id: str) -> tuple[ModuleRecord, ...]:
    """The modules that a module stands on, each after all that it stands on, itself last."""
    query = (
        select(ModuleRow)
        .join(LineageRow, LineageRow.member_id == ModuleRow.id)
        .where(LineageRow.module_id == module_id)
        .order_by(LineageRow.position)
    )
    with database.reading() as session:
        return tuple(map(record_of, session.scalars(query)))


def last_targets(database: Database, name: str) -> dict[str, tuple[int | None, str | None]]:
    """Version and module that each alias of a name was last seen to point to; none if removed."""
    query = select(PromotionRow).where(PromotionRow.name == name).order_by(PromotionRow.serial)
    with database.reading() as session:
        return {row.alias: (row.version, row.module_id) for row in session.scalars(query)}


def promoted_ids(database: Database) -> set[str]:
    """Modules and networks that an alias was last seen to point to, by whatever name.

    An alias that MLflow deleted with its version counts until a person removes it: a repair sets it
    again.
    """
    query = select(PromotionRow).order_by(PromotionRow.serial)
    with database.reading() as session:
        last = {(row.name, row.alias): row.module_id for row in session.scalars(query)}
    return {module_id for module_id in last.values() if module_id is not None}


def count_older(database: Database, module_id: str, age: datetime) -> int:
    """How many networks have a module that were made before a time."""
    query = (
        select(func.count())
        .select_from(NetworkModuleRow)
        .join(NetworkRow)
        .where(
            NetworkModuleRow.module_id == module_id,
            NetworkRow.created_at < age,
            NetworkRow.version.is_not(None),
        )
    )
    with database.reading() as session:
        return session.scalar(query) or 0


def stands_on(module_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """What a trait is of those that stand on a module directly."""
    return TraitRow.trait == "upstream", TraitRow.value == module_id


def uses(database: Database, module_id: str) -> Uses:
    """What stands directly on a module, has a copy of it, or is a network that has it.

    Of these, those with a version; and, of a stitch, the module that it has a copy of.
    """
    above = (
        select(ModuleRow.id, ModuleRow.name, ModuleRow.version)
        .join(TraitRow)
        .where(*stands_on(module_id), ModuleRow.state == "READY")
    )
    copies = (
        select(ModuleRow.id, ModuleRow.name, ModuleRow.version)
        .join(TraitRow)
        .where(TraitRow.trait == COPY_OF, TraitRow.value == module_id, ModuleRow.state == "READY")
    )
    of = (
        select(ModuleRow.id, ModuleRow.name, ModuleRow.version)
        .join(TraitRow, TraitRow.value == ModuleRow.id)
        .where(
            TraitRow.trait == COPY_OF, TraitRow.module_id == module_id, ModuleRow.state == "READY"
        )
    )
    having = (
        select(NetworkRow.id, NetworkRow.name, NetworkRow.version)
        .join(NetworkModuleRow)
        .where(NetworkModuleRow.module_id == module_id, NetworkRow.version.is_not(None))
    )
    with database.reading() as session:
        modules, n_modules = _oldest(session, above, ModuleRow.created_at)
        stitches, n_stitches = _oldest(session, copies, ModuleRow.created_at)
        networks, n_networks = _oldest(session, having, NetworkRow.created_at)
        (upper, _) = _oldest(session, of, ModuleRow.created_at)
    return Uses(
        modules=modules,
        n_modules=n_modules,
        stitches=stitches,
        n_stitches=n_stitches,
        networks=networks,
        n_networks=n_networks,
        upper=upper[0] if upper else None,
    )


def _oldest(
    session: Session, query: Select[*tuple[Any, ...]], age: Any
) -> tuple[tuple[Named, ...], int]:
    """The oldest few of what a query finds, and how much it finds."""
    found = session.execute(query.order_by(age).limit(LINKED))
    named = tuple(Named(id=row.id, name=row.name, version=row.version) for row in found)
    if len(named) < LINKED:
        return named, len(named)
    return named, session.scalar(select(func.count()).select_from(query.subquery())) or 0


def joined_chain(database: Database, module_ids: Sequence[str]) -> tuple[ModuleRecord, ...]:
    """The modules that several stand on, and these, each once, after all that it stands on."""
    found = {one.id: one for module_id in module_ids for one in chain(database, module_id)}
    return tuple(found.values())


def below(database: Database, record: ModuleRecord) -> tuple[ModuleRecord, ...]:
    """The modules that a module stands on itself, in order; none on data."""
    found = (by_id(database, upstream) for upstream in record.spec.interface.stands_on)
    return tuple(one for one in found if one is not None)


def lineage_ids(session: Session, upstream: str) -> Sequence[str]:
    """Ids of the chain that ends in `upstream`; none for a preprocessing."""
    query = select(LineageRow.member_id).where(LineageRow.module_id == upstream)
    return session.scalars(query.order_by(LineageRow.position)).all()


def newest(database: Database, name: str) -> ModuleRecord | None:
    """The ready module of a name that was stored last."""
    query = (
        select(ModuleRow)
        .where(ModuleRow.name == name, ModuleRow.state == "READY")
        .order_by(ModuleRow.created_at.desc(), ModuleRow.version.desc())
    )
    with database.reading() as session:
        row = session.scalars(query.limit(1)).first()
        return None if row is None else record_of(row)


def newest_or_prefix(database: Database, reference: str) -> ModuleRecord:
    """The ready module of a name that was stored last, or of the first digits of an id.

    Raises:
        NotFoundError: there is none.
        AmbiguousError: the digits begin several ids.
    """
    found = newest(database, reference)
    if found is not None:
        return found
    if PREFIX.fullmatch(reference):
        return by_prefix(database, reference)
    raise unknown(database, reference)


def of_version(database: Database, name: str, version: int) -> ModuleRecord | None:
    """The ready module that is a version of a name, as far as the database knows."""
    query = select(ModuleRow).where(
        ModuleRow.name == name, ModuleRow.version == version, ModuleRow.state == "READY"
    )
    with database.reading() as session:
        row = session.scalars(query.limit(1)).first()
        return None if row is None else record_of(row)


def lost(database: Database, reference: str) -> ModuleRecord | None:
    """The LOST module of an id, of its first digits, or of NAME/VERSION, if one alone is meant."""
    name, slash, version = reference.partition("/")
    number = version_number(version)
    if slash and number is not None:
        meant = [ModuleRow.name == name, ModuleRow.version == number]
    elif PREFIX.fullmatch(reference):
        meant = [ModuleRow.id.between(reference, f"{reference}g")]
    else:
        return None
    query = select(ModuleRow).where(ModuleRow.state == "LOST", *meant)
    with database.reading() as session:
        rows = session.scalars(query.limit(2)).all()
        return record_of(rows[0]) if len(rows) == 1 else None


def standing_on(database: Database, module_id: str) -> tuple[ModuleRecord, ...]:
    """The modules that stand on a module, in whatever state, oldest first."""
    query = (
        select(ModuleRow)
        .join(LineageRow, LineageRow.module_id == ModuleRow.id)
        .where(LineageRow.member_id == module_id, ModuleRow.id != module_id)
        .order_by(ModuleRow.created_at, ModuleRow.id)
    )
    with database.reading() as session:
        return tuple(map(record_of, session.scalars(query)))


def by_prefix(database: Database, prefix: str) -> ModuleRecord:
    """The ready module whose id begins with some digits."""
    # No LIKE, for which SQLite reads every row: after a hexadecimal digit nothing reaches "g".
    query = select(ModuleRow.id).where(ModuleRow.id.between(prefix, f"{prefix}g")).limit(3)
    with database.reading() as session:
        ids = session.scalars(query).all()
    if len(ids) > 1:
        raise AmbiguousError(
            f"'{prefix}' begins the ids of several modules ({', '.join(i[:12] for i in ids)}…): "
            "write more digits."
        )
    if not ids:
        raise NotFoundError(f"No module's id begins with '{prefix}': see 'modkernel modules list'.")
    return required(database, ids[0])


def unknown(database: Database, name: str) -> NotFoundError:
    """The error for a name that nothing answers to, with the nearest one that does."""
    with database.reading() as session:
        names = session.scalars(select(ModuleRow.name).distinct()).all()
    close = get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return NotFoundError(
        f"No module answers to '{name}': write {FORMS}; 'modkernel modules list' shows them.{hint}"
    )


def going(session: Session, module_ids: Sequence[str]) -> set[str]:
    """Those of some modules that are not there, or being deleted; the others stay for the session.

    Whoever stands on modules asks in the session that says so: nobody can delete them meanwhile.
    """
    query = (
        select(ModuleRow.id)
        .where(ModuleRow.id.in_(module_ids), ModuleRow.state != "DELETING")
        .with_for_update(read=True)
    )
    return {*module_ids} - {*session.scalars(query)}
