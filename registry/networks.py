"""Compositions: which modules a network is made of, pinned, and how it was evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modkernel.errors import NotFoundError
from modkernel.lookup import trusting
from modkernel.modules.network import Network, assemble, check_chain
from modkernel.modules.stored import StoredModule
from modkernel.registry.backends import Backends
from modkernel.registry.modules import Modules
from modkernel.registry.records import (
    EvaluationRecord,
    ModuleRecord,
    NetworkRecord,
    network_id,
)
from modkernel.registry.references import refuse_others
from modkernel.registry.sql import networks as rows
from modkernel.registry.sql import queries
from modkernel.registry.sql.claims import INSERT
from modkernel.registry.sql.names import refuse_taken
from modkernel.registry.sql.tables import EvaluationRow, NetworkModuleRow, NetworkRow, later_than
from modkernel.registry.upkeep import network_versions, pages
from modkernel.spec import DatasetFacts, NetworkSpec
from modkernel.training.report import OutputEvaluation


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
        figures: Mapping[str, bytes] | None = None,
    ) -> NetworkRecord:
        """Record a composition and pin its modules; one that is there under the name is used.

        Either way the name means this network from now on. An evaluation that differs from the
        newest one is added to the network's history. It becomes a version of the registered model
        of its name in MLflow; where that fails, adding it again, or a repair, completes it.

        Args:
            name: Of the network.
            module_ids: First hidden module first.
            evaluation: How its output module did.
            run_id: Its MLflow run, parent of its modules'; one is made if it has none.
            spec: What it was trained from.
            figures: Pictures for its card, bytes by file name ('network.png').

        Raises:
            NameTakenError: modules have the name.
            NotFoundError: a module is not in the registry, or not ready.
            InterfaceError: the modules do not stand on one another; the message names the
                position.
        """
        database = self.backends.database
        refuse_taken(database, networks=[name])
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
            )
            .on_conflict_do_nothing(index_elements=["id"])
            .returning(NetworkRow.id)
        )
        with database.writing() as session:
            gone = queries.going(session, module_ids)
            if gone:
                raise NotFoundError(
                    f"Module {min(gone)[:12]} is being deleted: train it again, or name another."
                )
            now = later_than(rows.last_made(session, name))
            is_new = session.execute(insert.values(created_at=now)).first() is not None
            row = session.get_one(NetworkRow, identity)
            if is_new:
                row.members = list(_members(modules))
            else:
                row.made_again_at = now
                row.run_id = row.run_id or run_id
            before = rows.record_of(row)
            if evaluation is not None:
                _add_evaluation(row, evaluation, modules[-1].spec.dataset)
            session.flush()
            network = rows.record_of(row)
        return self._completed(network, figures or {}, network.evaluation != before.evaluation)

    def _completed(
        self, network: NetworkRecord, figures: Mapping[str, bytes], is_news: bool
    ) -> NetworkRecord:
        """A recorded network with its version in MLflow, whose page tells what is new."""
        if network.version is not None:
            if is_news and network.run_id is not None and network.evaluation is not None:
                self.backends.runs.log_metrics(network.run_id, network.evaluation.metrics())
                pages.network_page(self.backends, network)
            return network

        def complete(backends: Backends, again: bool) -> NetworkRecord:
            now = rows.by_id(backends.database, network.id)
            if now is None or (now.version is not None and not again):
                return now or network  # Another process deleted it, or was faster.
            return network_versions.complete(backends, now, figures)

        return self.backends.under_claim(network.id, complete)

    def check_names(self, name: str, modules: Sequence[str]) -> None:
        """Look whether names are free, before anything is trained.

        Args:
            name: Of a network.
            modules: Of the modules that are trained for it.

        Raises:
            NameTakenError: modules have the network's name, or a network has a module's.
        """
        refuse_taken(self.backends.database, networks=[name], modules=modules)

    def find(self, name: str | None = None) -> tuple[NetworkRecord, ...]:
        """All networks, or those of a name, oldest first."""
        return rows.find(self.backends.database, name)

    def resolve(self, reference: str) -> NetworkRecord:
        """The network that a reference names now.

        Args:
            reference: An id, at least 6 digits of one, NAME (the one made last under it),
                NAME@ALIAS or NAME/VERSION.

        Raises:
            NotFoundError: there is none.
            AmbiguousError: a prefix of several ids.
        """
        name, at, alias = reference.partition("@")
        named, slash, number = reference.partition("/")
        if not at and not slash:
            return rows.resolve(self.backends.database, reference)
        models = self.backends.models
        try:
            version = models.version_by_alias(name, alias) if at else models.version(named, number)
        except NotFoundError as error:
            rows.resolve(self.backends.database, name if at else named)  # Or the name is wrong.
            raise NotFoundError(
                f"There is no network '{reference}' in MLflow: see its page, or write the name "
                "alone for the one made last."
            ) from error
        network_id = version.tags.get(NetworkRecord.tag, reference)
        try:
            return rows.resolve(self.backends.database, network_id)
        except NotFoundError:
            refuse_others(self.backends, reference, version)
            raise

    def members(self, network: NetworkRecord) -> tuple[ModuleRecord, ...]:
        """The modules of a network, first to last.

        Raises:
            NotFoundError: one of them is lost.
        """
        return rows.members(self.backends.database, network)

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
        return rows.sharing(self.backends.database, network)

    def evaluations(self, network: NetworkRecord) -> tuple[EvaluationRecord, ...]:
        """How a network was evaluated, oldest first."""
        return rows.evaluations(self.backends.database, network)


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


def _pinned(module: ModuleRecord) -> StoredModule:
    return StoredModule(module.id, module.spec, Path(), module.weights_sha256, module.spec_sha256)
