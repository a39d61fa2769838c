"""Compositions: which modules a network is made of, pinned, and how it was evaluated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from modkernel.errors import AmbiguousError, NotFoundError
from modkernel.lookup import trusting
from modkernel.modules.network import Network, assemble, check_chain
from modkernel.modules.stored import StoredModule
from modkernel.registry.backends import Backends
from modkernel.registry.modules import Modules
from modkernel.registry.records import EvaluationRecord, ModuleRecord, NetworkRecord
from modkernel.registry.references import PREFIX
from modkernel.registry.sql import queries
from modkernel.registry.sql.claims import INSERT
from modkernel.registry.sql.tables import EvaluationRow, NetworkModuleRow, NetworkRow, utc_now
from modkernel.spec import DatasetFacts, NetworkSpec
from modkernel.training.report import OutputEvaluation


def network_id(name: str, module_ids: Sequence[str]) -> str:
    """SHA-256 over a name and the ordered ids of the modules: equal compositions, equal id."""
    text = json.dumps({"modules": list(module_ids), "name": name}, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Networks:
    """Networks. Every method raises StoreError where the database or MLflow fails."""

    backends: Backends
    modules: Modules

    def add(
        self,
        name: str,
        module_ids: Sequence[str],
        evaluation: OutputEvaluation | None = None,
        run_id: str | None = None,
        spec: NetworkSpec | None = None,
    ) -> NetworkRecord:
        """Record a composition and pin its modules; one that is there under the name is used.

        Either way the name means this network from now on. An evaluation that differs from the
        newest one is added to the network's history.

        Args:
            name: Of the network.
            module_ids: First hidden module first.
            evaluation: How its output module did.
            run_id: Its MLflow run, parent of its modules'.
            spec: What it was trained from.

        Raises:
            NotFoundError: a module is not in the registry, or not ready.
            InterfaceError: the modules do not stand on one another; the message names the
                position.
        """
        database = self.backends.database
        modules = [queries.required(database, module_id) for module_id in module_ids]
        check_chain([_pinned(module) for module in modules])
        identity = network_id(name, module_ids)
        # Two flows may end at once: the second waits here for the first, and finds its row.
        insert = (
            INSERT[database.engine.dialect.name](NetworkRow)
            .values(
                id=identity,
                name=name,
                run_id=run_id,
                spec=None if spec is None else spec.canonical_json(),
                created_at=utc_now(),
            )
            .on_conflict_do_nothing(index_elements=["id"])
            .returning(NetworkRow.id)
        )
        with database.writing() as session:
            is_new = session.execute(insert).first() is not None
            row = session.get_one(NetworkRow, identity)
            if is_new:
                row.members = list(_members(modules))
            else:
                row.made_again_at = utc_now()
            if evaluation is not None:
                _add_evaluation(row, evaluation, modules[-1].spec.dataset)
            session.flush()
            return _record(row)

    def find(self, name: str | None = None) -> tuple[NetworkRecord, ...]:
        """All networks, or those of a name, oldest first."""
        query = select(NetworkRow).order_by(NetworkRow.created_at)
        if name is not None:
            query = query.where(NetworkRow.name == name)
        with self.backends.database.reading() as session:
            return tuple(map(_record, session.scalars(query)))

    def resolve(self, reference: str) -> NetworkRecord:
        """The network of an id, of a unique prefix of one, or the one of a name made last.

        Raises:
            NotFoundError: there is none.
            AmbiguousError: a prefix of several ids.
        """
        made = func.coalesce(NetworkRow.made_again_at, NetworkRow.created_at)
        named = (
            select(NetworkRow).where(NetworkRow.name == reference).order_by(made.desc()).limit(1)
        )
        found: Sequence[NetworkRow] = ()
        with self.backends.database.reading() as session:
            newest = session.scalars(named).first()
            if newest is not None:
                return _record(newest)
            if PREFIX.fullmatch(reference):
                query = select(NetworkRow).where(NetworkRow.id.startswith(reference)).limit(3)
                found = session.scalars(query).all()
            if len(found) > 1:
                shown = ", ".join(row.id[:12] for row in found)
                raise AmbiguousError(
                    f"'{reference}' begins the ids of several networks ({shown}…): write more "
                    "digits."
                )
            if not found:
                raise NotFoundError(
                    f"No network answers to '{reference}': write its name, its id or at least 6 "
                    "digits of it; 'modkernel networks list' shows them."
                )
            return _record(found[0])

    def members(self, network: NetworkRecord) -> tuple[ModuleRecord, ...]:
        """The modules of a network, first to last.

        Raises:
            NotFoundError: one of them is lost.
        """
        database = self.backends.database
        return tuple(queries.required(database, module_id) for module_id in network.module_ids)

    def load(self, network: NetworkRecord) -> Network:
        """Fetch, verify and assemble the modules that a network pins.

        Raises:
            NotFoundError: a module is lost.
            ArtifactError: bytes are missing or altered.
            SpecError: a module names code of a package that is not trusted.
        """
        modules = [self.modules.fetch(module) for module in self.members(network)]
        with trusting(self.backends.settings.trusted_packages):
            return assemble(modules)

    def sharing(self, network: NetworkRecord) -> dict[str, tuple[NetworkRecord, ...]]:
        """By id of each module of a network: the other networks that have it, oldest first."""
        query = (
            select(NetworkModuleRow.module_id, NetworkRow)
            .join(NetworkRow, NetworkRow.id == NetworkModuleRow.network_id)
            .where(NetworkModuleRow.module_id.in_(network.module_ids), NetworkRow.id != network.id)
            .order_by(NetworkRow.created_at)
        )
        shared: dict[str, tuple[NetworkRecord, ...]] = dict.fromkeys(network.module_ids, ())
        with self.backends.database.reading() as session:
            for module_id, row in session.execute(query):
                shared[module_id] += (_record(row),)
        return shared

    def evaluations(self, network: NetworkRecord) -> tuple[EvaluationRecord, ...]:
        """How a network was evaluated, oldest first."""
        query = select(EvaluationRow).where(EvaluationRow.network_id == network.id)
        with self.backends.database.reading() as session:
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


def _members(modules: Sequence[ModuleRecord]) -> Iterator[NetworkModuleRow]:
    for position, module in enumerate(modules, start=1):
        yield NetworkModuleRow(
            position=position,
            module_id=module.id,
            weights_sha256=module.weights_sha256,
            spec_sha256=module.spec_sha256,
        )


def _add_evaluation(row: NetworkRow, evaluation: OutputEvaluation, facts: DatasetFacts) -> None:
    text = evaluation.canonical_json()
    if row.evaluations and row.evaluations[-1].evaluation == text:
        return
    row.evaluations.append(
        EvaluationRow(dataset=facts.name, fingerprint=facts.fingerprint, evaluation=text)
    )


def _record(row: NetworkRow) -> NetworkRecord:
    newest = row.evaluations[-1].evaluation if row.evaluations else None
    return NetworkRecord(
        id=row.id,
        name=row.name,
        module_ids=tuple(member.module_id for member in row.members),
        created_at=row.created_at,
        run_id=row.run_id,
        evaluation=None if newest is None else OutputEvaluation.model_validate_json(newest),
        spec=None if row.spec is None else json.loads(row.spec),
    )


def _pinned(module: ModuleRecord) -> StoredModule:
    return StoredModule(module.id, module.spec, Path(), module.weights_sha256, module.spec_sha256)
