"""Rows to records: what the registry knows about modules."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from modkernel.errors import NotFoundError
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import LineageRow, ModuleRow, NetworkRow, PromotionRow
from modkernel.spec import Shape, parse_module_spec


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
    """The modules that a module stands on, first to last, itself last."""
    query = (
        select(ModuleRow)
        .join(LineageRow, LineageRow.member_id == ModuleRow.id)
        .where(LineageRow.module_id == module_id)
        .order_by(LineageRow.position)
    )
    with database.reading() as session:
        return tuple(map(record_of, session.scalars(query)))


def last_targets(database: Database, name: str) -> dict[str, str | None]:
    """The module that each alias of a name was last seen to point to; none where it was removed."""
    query = select(PromotionRow).where(PromotionRow.name == name).order_by(PromotionRow.serial)
    with database.reading() as session:
        return {row.alias: row.module_id for row in session.scalars(query)}


def network_runs(database: Database) -> tuple[tuple[str, str], ...]:
    """Name and MLflow run of every network that has one, oldest first."""
    query = select(NetworkRow).where(NetworkRow.run_id.is_not(None))
    with database.reading() as session:
        rows = session.scalars(query.order_by(NetworkRow.created_at))
        return tuple((row.name, row.run_id or "") for row in rows)


def lineage_ids(session: Session, upstream: str) -> Sequence[str]:
    """Ids of the chain that ends in `upstream`; none for a preprocessing."""
    query = select(LineageRow.member_id).where(LineageRow.module_id == upstream)
    return session.scalars(query.order_by(LineageRow.position)).all()
