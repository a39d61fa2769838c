"""Rows to records: what the registry knows about networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modkernel.errors import AmbiguousError, NotFoundError
from modkernel.registry.records import EvaluationRecord, ModuleRecord, NetworkRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.queries import PREFIX
from modkernel.registry.sql.tables import EvaluationRow, NetworkModuleRow, NetworkRow
from modkernel.training.report import OutputEvaluation

MADE = func.coalesce(NetworkRow.made_again_at, NetworkRow.created_at)
"""When a network was made last."""


def find(
    database: Database, name: str | None = None, newest: int | None = None
) -> tuple[NetworkRecord, ...]:
    """All networks, those of a name, or the `newest` ones at most; oldest first."""
    query = select(NetworkRow).order_by(NetworkRow.created_at.desc(), NetworkRow.id.desc())
    if name is not None:
        query = query.where(NetworkRow.name == name)
    if newest is not None:
        query = query.limit(newest)
    with database.reading() as session:
        return tuple(map(record_of, session.scalars(query)))[::-1]


def last_made(session: Session, name: str) -> datetime | None:
    """When the newest network of a name was made; none where there is none."""
    return session.scalar(select(func.max(MADE)).where(NetworkRow.name == name))


def resolve(database: Database, reference: str) -> NetworkRecord:
    """The network of an id, of a unique prefix of one, or the one of a name made last.

    Raises:
        NotFoundError: there is none.
        AmbiguousError: a prefix of several ids.
    """
    named = select(NetworkRow).where(NetworkRow.name == reference).order_by(MADE.desc()).limit(1)
    found: Sequence[NetworkRow] = ()
    with database.reading() as session:
        newest = session.scalars(named).first()
        if newest is not None:
            return record_of(newest)
        if PREFIX.fullmatch(reference):
            query = (
                select(NetworkRow).where(NetworkRow.id.between(reference, f"{reference}g")).limit(3)
            )
            found = session.scalars(query).all()
        if len(found) > 1:
            shown = ", ".join(row.id[:12] for row in found)
            raise AmbiguousError(
                f"'{reference}' begins the ids of several networks ({shown}…): write more digits."
            )
        if not found:
            names = session.scalars(select(NetworkRow.name).distinct()).all()
            close = get_close_matches(reference, names, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise NotFoundError(
                f"No network answers to '{reference}': write its name, its id or at least 6 "
                f"digits of it; 'modkernel networks list' shows them.{hint}"
            )
        return record_of(found[0])


def by_id(database: Database, network_id: str) -> NetworkRecord | None:
    """The network of an id."""
    with database.reading() as session:
        row = session.get(NetworkRow, network_id)
        return None if row is None else record_of(row)


def members(database: Database, network: NetworkRecord) -> tuple[ModuleRecord, ...]:
    """The modules of a network, first to last.

    Raises:
        NotFoundError: one of them is lost.
    """
    return tuple(queries.required(database, module_id) for module_id in network.module_ids)


def with_modules(database: Database, module_ids: Sequence[str]) -> tuple[NetworkRecord, ...]:
    """The networks that have any of some modules, oldest first."""
    has = select(NetworkModuleRow.network_id).where(NetworkModuleRow.module_id.in_(module_ids))
    query = select(NetworkRow).where(NetworkRow.id.in_(has)).order_by(NetworkRow.created_at)
    with database.reading() as session:
        return tuple(map(record_of, session.scalars(query)))


def sharing(database: Database, network: NetworkRecord) -> dict[str, tuple[NetworkRecord, ...]]:
    """By id of each module of a network: the other networks that have it, oldest first."""
    others = [
        other for other in with_modules(database, network.module_ids) if other.id != network.id
    ]
    return {
        module_id: tuple(other for other in others if module_id in other.module_ids)
        for module_id in network.module_ids
    }


def evaluations(database: Database, network: NetworkRecord) -> tuple[EvaluationRecord, ...]:
    """How a network was evaluated, oldest first."""
    query = select(EvaluationRow).where(EvaluationRow.network_id == network.id)
    with database.reading() as session:
        return tuple(
            EvaluationRecord(
                network_id=row.network_id,
                dataset=row.dataset,
                fingerprint=row.fingerprint,
                evaluation=OutputEvaluation.model_validate_json(row.evaluation),
                created_at=row.created_at,
            )
            for row in session.scalars(query.order_by(EvaluationRow.id))
        )


def record_of(row: NetworkRow) -> NetworkRecord:
    """A row as a record."""
    newest = row.evaluations[-1].evaluation if row.evaluations else None
    return NetworkRecord(
        id=row.id,
        name=row.name,
        version=row.version,
        module_ids=tuple(member.module_id for member in row.members),
        created_at=row.created_at,
        run_id=row.run_id,
        model_id=row.model_id,
        files=row.files,
        evaluation=None if newest is None else OutputEvaluation.model_validate_json(newest),
        spec=None if row.spec is None else json.loads(row.spec),
    )
