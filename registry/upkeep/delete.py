"""Deleting modules and networks, so that nothing that stays is broken.

The row says DELETING first, in one transaction with the look at what stands on it; then MLflow's
version, model and run go; then the row. Whoever dies in between leaves DELETING, and
`Registry.repair` finishes; where MLflow does not let the account delete it, the module is again
what it was. What is deleted in MLflow is noted, for `Collector` to remove for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, aliased

from modkernel.errors import DeniedError, InUseError, NotFoundError
from modkernel.registry.backends import Backends
from modkernel.registry.promotions import Promotions
from modkernel.registry.records import Dependents, ModuleRecord, NetworkRecord, VersionRecord
from modkernel.registry.sql import networks, queries
from modkernel.registry.sql.tables import (
    EvaluationRow,
    LineageRow,
    ModuleRow,
    NetworkModuleRow,
    NetworkRow,
    TraitRow,
)
from modkernel.registry.upkeep import pages

NAMED = 8
"""How many of those that stand on a module are named."""


@dataclass(frozen=True)
class Deletion:
    """Deletes. Every method raises StoreError where the database or MLflow fails."""

    backends: Backends

    def dependents(self, modules: Sequence[ModuleRecord]) -> Dependents:
        """All that stands on some modules, beside themselves."""
        database = self.backends.database
        own = {module.id for module in modules}
        above = {
            one.id: one
            for module in modules
            for one in queries.standing_on(database, module.id)
            if one.id not in own
        }
        ordered = sorted(above.values(), key=self._height, reverse=True)
        return Dependents(
            modules=tuple(ordered),
            networks=networks.with_modules(database, [*own, *above]),
        )

    def network(self, network: NetworkRecord) -> None:
        """Delete a network, with what it has in MLflow and its evaluations; its modules stay.

        Raises:
            NotAllowedError: a protected alias means it, which whoever asks may not move.
        """
        promotions = Promotions(self.backends)
        with (
            self.backends.wait_for_claim(network.id).renewed() as claim,
            promotions.removed_with(network),
        ):
            Deletion(self.backends.under(claim))._network(network)
        pages.network_changed(self.backends, network)

    def _network(self, network: NetworkRecord) -> None:
        backends = self.backends
        for model_id in backends.models.logged(network):
            backends.discard("model", model_id, network.name)
        self._delete_versions(network)
        if network.run_id is not None:
            backends.discard("run", network.run_id, network.name)
        with backends.writing() as session:
            for table in (NetworkModuleRow, EvaluationRow):
                session.execute(delete(table).where(table.network_id == network.id))
            session.execute(delete(NetworkRow).where(NetworkRow.id == network.id))

    def module(self, module: ModuleRecord) -> None:
        """Delete a module that nothing stands on; wait while another process works on it.

        Raises:
            InUseError: something stands on it, which the message names.
            NotFoundError: it is gone.
            DeniedError: MLflow does not let this account delete it; it stays.
            NotAllowedError: a protected alias means it, which whoever asks may not move.
        """
        promotions = Promotions(self.backends)
        with (
            self.backends.wait_for_claim(module.id).renewed() as claim,
            promotions.removed_with(module),
        ):
            claimed = Deletion(self.backends.under(claim))
            if not claimed._mark(module):
                self._refuse(module)
            try:
                claimed.finish(module)
            except DeniedError:
                claimed._unmark(module)
                raise

    def finish(self, module: ModuleRecord) -> None:
        """Take a module that is DELETING through the remaining steps; whoever calls has its claim.

        Its run goes with it, unless a network has the same one.
        """
        backends = self.backends
        # First what MLflow may refuse by itself: if the rest is refused, a repair makes it again.
        self._delete_versions(module)
        for model_id in backends.models.logged(module):
            backends.discard("model", model_id, module.name)
        if module.run_id is not None and not self.runs_for_others(module.id, module.run_id):
            backends.discard("run", module.run_id, module.name)
        with backends.writing() as session:
            row = session.get(ModuleRow, module.id)
            if row is not None:
                session.delete(row)
                session.flush()
                for upstream in module.spec.interface.stands_on:
                    _set_accuracy(session, upstream)
        for below in queries.below(backends.database, module):
            pages.module_page(backends, below)
        pages.copies_changed(backends, module)

    def _delete_versions(self, record: VersionRecord) -> None:
        for version in self.backends.models.versions(record):
            self.backends.check_claim()
            self.backends.models.delete_version(version)
        self.backends.remains.delete_name_without_versions(record.name)

    def _height(self, module: ModuleRecord) -> tuple[int, str]:
        return len(queries.chain(self.backends.database, module.id)), module.id

    def _mark(self, module: ModuleRecord) -> bool:
        """DELETING, unless something stands on it; whether it is."""
        with self.backends.writing() as session:
            # Locked before the look: whoever is about to stand on it waits, or was first.
            lock = select(ModuleRow.id).where(ModuleRow.id == module.id).with_for_update()
            if session.scalars(lock).first() is None:
                raise NotFoundError(f"There is no module {module.short_id} any more.")
            on_it = (
                select(LineageRow.module_id).where(
                    LineageRow.member_id == module.id, LineageRow.module_id != module.id
                ),
                select(NetworkModuleRow.network_id).where(NetworkModuleRow.module_id == module.id),
            )
            if any(session.scalars(query.limit(1)).first() is not None for query in on_it):
                return False
            change = update(ModuleRow).where(ModuleRow.id == module.id)
            session.execute(change.values(state="DELETING"))
        return True

    def _unmark(self, module: ModuleRecord) -> None:
        """What it was before it was marked; else the next repair would delete it."""
        change = update(ModuleRow).where(ModuleRow.id == module.id, ModuleRow.state == "DELETING")
        with self.backends.writing() as session:
            session.execute(change.values(state=module.state))

    def _refuse(self, module: ModuleRecord) -> None:
        found = self.dependents([module])
        names = [
            *(f"network {network.name} ({network.short_id})" for network in found.networks),
            *(f"module {one.name}/{one.version}" for one in found.modules),
        ]
        shown = ", ".join(names[:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InUseError(
            f"Module {module.name}/{module.version} is in use by {shown}{more}: delete them first, "
            "or all at once with --with-dependents."
        )

    def runs_for_others(self, module_id: str, run_id: str) -> bool:
        """Whether a module's MLflow run is another module's or a network's, too."""
        others = select(ModuleRow.id).where(ModuleRow.run_id == run_id, ModuleRow.id != module_id)
        in_network = select(NetworkRow.id).where(NetworkRow.run_id == run_id)
        with self.backends.database.reading() as session:
            return any(
                session.scalars(query.limit(1)).first() is not None
                for query in (others, in_network)
            )


def _set_accuracy(session: Session, module_id: str) -> None:
    """A hidden module's accuracy is that of the best output module left on it alone."""
    other = aliased(TraitRow)
    others = select(other.module_id).where(
        other.module_id == ModuleRow.id, other.trait == "upstream", other.value != module_id
    )
    best = (
        select(func.max(ModuleRow.accuracy))
        .join(TraitRow)
        .where(*queries.stands_on(module_id), ModuleRow.kind == "output", ~others.exists())
    )
    change = update(ModuleRow).where(ModuleRow.id == module_id, ModuleRow.kind != "output")
    session.execute(change.values(accuracy=session.scalars(best).one()))
