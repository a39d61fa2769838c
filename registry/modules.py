"""Stored modules: store them, find them, bring them here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from modkernel.errors import ArtifactError, NotFoundError, SpecError
from modkernel.modules.stored import StoredModule, read_module
from modkernel.registry import references, saga
from modkernel.registry.backends import Backends
from modkernel.registry.beside.base import Beside
from modkernel.registry.beside.moments import StoredMoments
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.find import ModuleQuery, find_modules
from modkernel.registry.sql.names import refuse_taken
from modkernel.registry.sql.tables import ModuleRow
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.tags import CLOSED_FORM
from modkernel.registry.upkeep import pages
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.spec import DatasetSpec, Shape
from modkernel.spec.group import GroupSpec
from modkernel.training.report import TrainReport

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Modules:
    """Stored modules. Every method raises StoreError where the database or MLflow fails."""

    backends: Backends
    moments: StoredMoments
    beside: tuple[Beside[Any, Any], ...]
    """All that lies beside modules, moments among it."""

    def find_ready(self, recipe_digest: str) -> ModuleRecord | None:
        """The oldest ready module of a recipe: it is reused, not trained again.

        One whose bytes are gone from MLflow's store is restored from its private copy, or else
        marked LOST and passed over.
        """
        return next(self._all_ready(recipe_digest), None)

    def find_group(self, group: GroupSpec) -> tuple[ModuleRecord, ...] | None:
        """All modules of a group that was trained together, each on the one before it.

        Each is of the same pass: of modules of one recipe that stand on others, the ids differ.
        None where one of them is missing.
        """
        return self._group_on(group, ())

    def _group_on(
        self, group: GroupSpec, below: tuple[ModuleRecord, ...]
    ) -> tuple[ModuleRecord, ...] | None:
        if len(below) == len(group.modules):
            return below
        member = group.member(len(below), below[-1].id if below else "")
        # One whose process died between storing two of them may have been trained twice.
        found = (self._group_on(group, (*below, one)) for one in self._all_ready(member.digest()))
        return next((whole for whole in found if whole is not None), None)

    def _all_ready(self, recipe_digest: str) -> Iterator[ModuleRecord]:
        """The ready modules of a recipe, the oldest first; see `find_ready`."""
        query = (
            select(ModuleRow)
            .where(ModuleRow.recipe_digest == recipe_digest, ModuleRow.state == "READY")
            .order_by(ModuleRow.created_at)
        )
        with self.backends.database.reading() as session:
            records = [queries.record_of(row) for row in session.scalars(query)]
        found = (self._with_bytes(record) for record in records)
        yield from (record for record in found if record is not None)

    def _with_bytes(self, record: ModuleRecord) -> ModuleRecord | None:
        """A ready module, restored if need be; none if it is lost."""
        if artifacts.has_files(self.backends.client, record.model_id or ""):
            return record

        def restore(backends: Backends, again: bool) -> ModuleRecord | None:
            now = self._ready(record.id)  # another process may have restored it meanwhile
            if now is None:
                return None
            if artifacts.has_files(backends.client, now.model_id or "") and not again:
                return now
            return self._restored(backends, now)

        return self.backends.under_claim(record.id, restore)

    def _restored(self, backends: Backends, record: ModuleRecord) -> ModuleRecord | None:
        """A ready module with one model and one version in MLflow; none if its bytes are lost."""
        restored = saga.restore(backends, record)
        if restored.state != "READY":
            return None
        pages.module_moved(backends, restored)
        for beside in self.beside:
            for _ in replace(beside, backends=backends).fix(restored):
                pass
        return restored

    def store(
        self,
        folder: Path,
        *,
        name: str,
        report: TrainReport,
        run_id: str | None = None,
        figures: Mapping[str, bytes] | None = None,
        dataset: DatasetSpec | None = None,
        pairs: str | None = None,
    ) -> ModuleRecord:
        """Store a module; one that is stored already is returned as it is.

        Moments in the folder are stored once it is READY. A process that dies in between loses
        only them: they are computed again when a question needs them.

        Args:
            folder: Its two files, and its moments if it was measured, until this returns.
            name: '<network>.hidden-<k>' or '<network>.output'.
            report: How it was trained.
            run_id: Its MLflow run; one is made if left out.
            figures: Pictures for its card, bytes by file name ('objective.png').
            dataset: What it was trained on, and where that is: its facts do not say.
            pairs: What it was trained on in place of labels, as a spec's `pairs`.

        Raises:
            SpecError: the name cannot be a registered model's.
            NameTakenError: a network has it.
            ArtifactError: the files are missing, altered or not a module's.
            NotFoundError: the upstream is not in the registry.
            StoreError: the database or MLflow failed; storing again resumes from there.
        """
        if not NAME.fullmatch(name):
            raise SpecError(
                f"'{name}' cannot name a module: use lower-case letters, digits, '.', '_' and '-'."
            )
        stored = read_module(folder)
        record = self._ready(stored.id)
        if record is None:
            refuse_taken(self.backends.database, modules=[name])

            def work(backends: Backends, again: bool) -> ModuleRecord:
                found = self._ready(stored.id)  # another process may have stored it meanwhile
                if found is not None and again:
                    found = self._restored(backends, found)
                if found is not None:
                    return found
                begun = saga.begin(backends, stored, name, report, run_id, dataset, pairs)
                done = saga.finish(backends, begun, figures or {})
                if run_id is None:
                    backends.runs.finish(done.run_id or "")
                pages.module_moved(backends, done)
                return done

            record = self.backends.under_claim(stored.id, work)
        measured = folder / MOMENTS_FILE
        if measured.is_file():
            self.moments.store(record, measured)
        return record

    def resolve(self, reference: str) -> ModuleRecord:
        """The ready module that a reference names now.

        Versions and aliases are read from MLflow at this moment; the record that is returned
        names the module by its id, so a later promotion changes nothing about it.

        Args:
            reference: An id, at least 6 digits of one, NAME (its newest), NAME@ALIAS or
                NAME/VERSION.

        Raises:
            NotFoundError: no ready module answers to it.
            AmbiguousError: a prefix of several ids.
        """
        return references.resolve(self.backends, reference)

    def resolve_to_forget(self, reference: str) -> ModuleRecord:
        """As `resolve`; an id, or NAME/VERSION, may also be that of a LOST module.

        Raises:
            NotFoundError: neither a ready nor a lost module answers to it.
            AmbiguousError: a prefix of several ids.
        """
        try:
            return self.resolve(reference)
        except NotFoundError:
            found = queries.lost(self.backends.database, reference)
            if found is None:
                raise
            return found

    def chain(self, record: ModuleRecord) -> tuple[ModuleRecord, ...]:
        """The modules that a module stands on, each after all that it stands on, itself last."""
        return queries.chain(self.backends.database, record.id)

    def joined_chain(self, module_ids: Sequence[str]) -> tuple[ModuleRecord, ...]:
        """The modules that several stand on, and these, each once, after all that it stands on."""
        return queries.joined_chain(self.backends.database, module_ids)

    def find(
        self,
        name: str | None = None,
        kind: str | None = None,
        upstream: str | None = None,
        takes: Shape | None = None,
        gives: Shape | None = None,
    ) -> tuple[ModuleRecord, ...]:
        """The ready modules that have all of what is asked for, oldest first."""
        query = ModuleQuery(name=name, kind=kind, upstream=upstream, takes=takes, gives=gives)
        return find_modules(self.backends.database, query)

    def fetch(self, record: ModuleRecord) -> StoredModule:
        """A module's files in the private cache, brought there through MLflow if need be.

        Both hashes are checked at every call.

        Raises:
            ArtifactError: the files are missing or altered in MLflow's store.
            StoreError: they cannot be read now.
        """
        if record.model_id is None:
            raise ArtifactError(
                f"Module {record.short_id} ({record.name}) is {record.state}: run 'modkernel "
                "repair', or train it again."
            )
        return artifacts.fetch_module(
            self.backends.client,
            record.model_id,
            saga.modules_cache(self.backends),
            (record.id, record.weights_sha256, record.spec_sha256),
        )

    def tell_accuracy(self, record: ModuleRecord, accuracy: float) -> None:
        """Keep the accuracy of a closed-form output module on a hidden module, for its page.

        Args:
            record: The hidden module.
            accuracy: Of the module's own data set, on validation examples, in [0, 1].
        """
        if record.metrics.get(CLOSED_FORM) == accuracy:
            return
        metrics = record.metrics | {CLOSED_FORM: accuracy}
        pages.module_page(self.backends, saga.update(self.backends, record, metrics=metrics))
        if record.run_id is not None:
            self.backends.runs.log_metrics(record.run_id, {f"final.{CLOSED_FORM}": accuracy})

    def report(self, record: ModuleRecord) -> TrainReport:
        """How a module was trained."""
        return saga.report_of(self.backends, record.id)

    def dataset(self, record: ModuleRecord) -> DatasetSpec | None:
        """The data set that a module was trained on, if that was told when it was stored."""
        with self.backends.database.reading() as session:
            text = session.get_one(ModuleRow, record.id).dataset
        return None if text is None else DatasetSpec.model_validate_json(text)

    def pairs_file(self, record: ModuleRecord) -> str | None:
        """What a module was trained on in place of labels, if told; as `NetworkSpec.pairs`."""
        with self.backends.database.reading() as session:
            return session.get_one(ModuleRow, record.id).pairs

    def _ready(self, module_id: str) -> ModuleRecord | None:
        record = queries.by_id(self.backends.database, module_id)
        return record if record is not None and record.state == "READY" else None
