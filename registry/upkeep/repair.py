"""Find what a crash, a person or a garbage collection left behind, and finish or undo it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import select

from modkernel.errors import ArtifactError, DeniedError, NotFoundError, StoreError
from modkernel.registry import saga
from modkernel.registry.backends import Backends, this_process
from modkernel.registry.beside.base import Beside
from modkernel.registry.records import Action, ModuleRecord, Problem
from modkernel.registry.sql import claims, networks, queries
from modkernel.registry.sql.claims import POLL_SECONDS, Contender
from modkernel.registry.sql.tables import (
    LineageRow,
    ModuleRow,
    NetworkModuleRow,
    NetworkRow,
)
from modkernel.registry.tracking.errors import is_unfit
from modkernel.registry.tracking.experiments import Doomed
from modkernel.registry.tracking.runs import RunningRun, RunStatus
from modkernel.registry.upkeep import network_repair, pages
from modkernel.registry.upkeep.delete import Deletion


@dataclass(frozen=True)
class Repair:
    """Problems, and what is done about each."""

    backends: Backends
    beside: tuple[Beside[Any, Any], ...]

    def problems(self) -> Iterator[Problem]:
        """Each problem of the modules, as they are gone through by their state, then of networks.

        Each is looked for when it is asked for: what was done about one before may have caused it.
        What cannot be read now is one, and the others are looked for.

        Raises:
            StoreError: the database or MLflow does not answer at all.
        """
        database = self.backends.database
        for record in queries.in_state(database, "PENDING"):
            if not claims.is_held(database, record.id):
                yield _problem(
                    "unfinished",
                    record,
                    "was being stored when its process died: 'modkernel repair' finishes or "
                    "undoes it.",
                )
        for record in queries.in_state(database, "DELETING"):
            if not claims.is_held(self.backends.database, record.id):
                yield _problem(
                    "deleting",
                    record,
                    "was being deleted when its process died: 'modkernel repair' finishes that.",
                )
        for record in queries.in_state(database, "READY"):
            try:
                yield from self._of_ready(record)
            except StoreError as error:
                self.backends.check_answers()
                yield _problem("unread", record, f"cannot be checked now: {error}")
        for record in queries.in_state(database, "LOST"):
            yield _problem(
                "lost",
                record,
                "is lost: its bytes are nowhere. Train it again, or forget it: 'modkernel modules "
                f"delete {record.short_id}'.",
            )
        yield from network_repair.problems(self.backends)

    def at_work(self) -> Iterator[str]:
        """A sentence for each module and network that is half-stored, and in somebody's hands.

        Who was killed seconds ago looks like who is at work.
        """
        database = self.backends.database
        half: dict[str, str] = {
            record.id: f"Module {record.short_id} ({record.name}) is being {doing}"
            for state, doing in (("PENDING", "stored"), ("DELETING", "deleted"))
            for record in queries.in_state(database, state)
        }
        half |= {
            network.id: f"Network {network.short_id} ({network.name}) is being stored"
            for network in networks.find(database)
            if network.version is None
        }
        for key, what in half.items():
            holder = claims.holder_of(database, key)
            if holder is not None:
                yield f"{what} by {holder}: look again then."

    def fix(self, problem: Problem) -> Iterator[Action]:
        """What was done about a problem; nothing while another process works on its module.

        What fails is told as `failed`: it keeps nobody from the other problems.

        Raises:
            StoreError: the database or MLflow does not answer at all.
        """
        try:
            if problem.kind == "unread":
                yield _failed(problem, problem.message)
            else:
                yield from self._fix_under_claim(problem)
        except StoreError as error:
            self.backends.check_answers()
            yield _failed(problem, f"{problem.name} could not be repaired: {error}")

    def _fix_under_claim(self, problem: Problem) -> Iterator[Action]:
        if problem.module_id is None:
            yield from network_repair.fix(self.backends, problem)
            return
        claim = claims.take(
            self.backends.database,
            problem.module_id,
            this_process(),
            self.backends.settings.lease_seconds,
        )
        if claim is None:
            return
        done = False
        with claim.renewed(), claim.unless_lost():
            yield from Repair(self.backends.under(claim), self.beside)._fix(problem)
            done = True
        if not done:
            self.backends.under_claim(problem.module_id, partial(_leave_one, problem.module_id))

    def _fix(self, problem: Problem) -> Iterator[Action]:
        assert problem.module_id is not None
        record = queries.by_id(self.backends.database, problem.module_id)
        if record is None:
            return
        before = record.version
        if record.state == "LOST":
            if saga.is_intact(self.backends, record.model_id or "", record):
                record = saga.update(self.backends, record, state="READY")
                record = saga.ensure_version(self.backends, record)
                yield _action("restored", record, "has its bytes again.")
        elif record.state == "DELETING":
            Deletion(self.backends).finish(record)
            yield _action("deleted", record, "is deleted.")
            return
        elif record.state == "PENDING":
            yield self._finish_or_undo(record)
        elif problem.kind == "deleted":
            doomed = self._doomed(record)
            if doomed is not None:
                yield self._bring_back(doomed, record)
        elif problem.kind == "artifact":
            yield self._restore(record)
        elif problem.kind == "version":
            old, record = record, saga.renew_run(self.backends, record)
            record = saga.ensure_version(self.backends, saga.ensure_model(self.backends, record))
            yield _action("registered", record, f"is {self._version_of(record, old)}.")
        elif problem.kind == "page":
            pages.module_page(self.backends, record)
            yield _action("rewritten", record, "has an up-to-date page in MLflow.")
        # Its MLflow model may be another by now.
        ready = queries.by_id(self.backends.database, record.id)
        if ready is not None and ready.state == "READY":
            yield from self._fix_beside(ready)
            if ready.version != before:
                pages.module_moved(self.backends, ready)

    def _of_ready(self, record: ModuleRecord) -> Iterator[Problem]:
        doomed = self._doomed(record)
        if doomed is not None:
            yield _problem("deleted", record, f"may be lost: {_named(doomed)}")
        try:
            saga.check(self.backends, record.model_id or "", record)
        except ArtifactError as error:
            yield _problem("artifact", record, f"is not as it was stored: {error}")
            return
        found, wrong = pages.version_of(self.backends, record)
        if wrong is not None:
            yield _problem("version", record, wrong)
        elif not saga.tags_of(self.backends, record).items() <= found.items():
            yield _problem("page", record, pages.OUTDATED.strip())
        for beside in self.beside:
            for kept in beside.of(record):
                if not beside.is_intact(record, kept):
                    yield _problem(
                        beside.kind,
                        record,
                        f"has lost its {kept}: 'modkernel repair' restores or drops what is lost, "
                        f"and {beside.again}.",
                    )

    def _fix_beside(self, record: ModuleRecord) -> Iterator[Action]:
        for beside in self.beside:
            for kept, restored in replace(beside, backends=self.backends).fix(record):
                kind = "restored" if restored else "dropped"
                text = "has" if restored else "has no longer"
                yield _action(kind, record, f"{text} its {kept}.")

    def _finish_or_undo(self, record: ModuleRecord) -> Action:
        try:
            finished = saga.finish(self.backends, record, {})
        except ArtifactError:
            self._undo(record)
            return _action("undone", record, "was half-stored and its bytes are gone: removed.")
        except DeniedError:
            raise
        except StoreError as error:
            self.backends.check_answers()
            if not is_unfit(error) and self._has_bytes(record):
                raise
            self._undo(record)
            return _action(
                "undone", record, f"was half-stored and cannot be stored: removed. {error}"
            )
        assert finished.run_id is not None
        self.backends.runs.finish(finished.run_id)
        return _action("finished", finished, f"is stored as version {finished.version}.")

    def _has_bytes(self, record: ModuleRecord) -> bool:
        """Whether there is anything that a later attempt could store it from."""
        if self.backends.models.logged(record):
            return True
        try:
            saga.bytes_at_hand(self.backends, record)
        except ArtifactError:
            return False
        return True

    def _restore(self, record: ModuleRecord) -> Action:
        restored = saga.restore(self.backends, record)
        if restored.state == "LOST":
            return _action("lost", record, "is lost: its bytes are nowhere. Train it again.")
        version = self._version_of(restored, record)
        return _action("restored", restored, f"has its bytes again, as {version}.")

    def _version_of(self, record: ModuleRecord, before: ModuleRecord) -> str:
        """Its version and, where that is another than before, what has changed for people."""
        if record.version == before.version:
            return f"version {record.version} again"
        found = self.backends.models.version(record.name, str(record.version))
        aliases = ", ".join(f"@{alias}" for alias in sorted(found.aliases))
        return f"version {record.version}, no longer version {before.version}" + (
            f"; {aliases} means it still" if aliases else ""
        )

    def _doomed(self, record: ModuleRecord) -> Doomed | None:
        """What is deleted in MLflow of what keeps a module: its experiment, or its run."""
        doomed = None if record.run_id is None else self.backends.runs.doomed(record.run_id)
        if doomed is None and record.model_id is not None:
            with suppress(NotFoundError):  # which the check of its files tells
                doomed = self.backends.models.doomed(record.model_id)
        return doomed

    def _bring_back(self, doomed: Doomed, record: ModuleRecord) -> Action:
        self.backends.runs.bring_back(doomed)
        name = record.name
        message = f"MLflow's {doomed} was deleted, but {name} needs it: it is back."
        return Action(kind="restored", module_id=record.id, name=name, message=message)

    def _undo(self, record: ModuleRecord) -> None:
        models = self.backends.models
        for version in models.versions(record):
            self.backends.check_claim()
            models.delete_version(version)
        for model_id in models.logged(record):
            self.backends.discard("model", model_id, record.name)
        if record.run_id is not None:
            with suppress(NotFoundError):
                self.backends.runs.finish(record.run_id, "FAILED")
        with self.backends.writing() as session:
            row = session.get_one(ModuleRow, record.id)
            in_network = select(NetworkModuleRow).where(NetworkModuleRow.module_id == record.id)
            under_another = select(LineageRow).where(
                LineageRow.member_id == record.id, LineageRow.module_id != record.id
            )
            if any(
                session.scalars(query.limit(1)).first() for query in (in_network, under_another)
            ):
                row.state = "LOST"
            else:
                session.delete(row)


def _leave_one(module_id: str, backends: Backends, _: bool) -> None:
    """Leave one model and one version of a module: who lost its claim may have made others."""
    record = queries.by_id(backends.database, module_id)
    if record is not None and record.state == "READY":
        saga.ensure_version(backends, saga.ensure_model(backends, record))


def _named(doomed: Doomed) -> str:
    return (
        f"MLflow's {doomed} is deleted, and the next 'mlflow gc' takes it for good: 'modkernel "
        "repair' brings it back."
    )


def _problem(kind: str, record: ModuleRecord, text: str) -> Problem:
    message = f"Module {record.short_id} ({record.name}) {text}"
    return Problem.model_validate(
        {"kind": kind, "module_id": record.id, "name": record.name, "message": message}
    )


def _failed(problem: Problem, message: str) -> Action:
    told = problem.model_dump(include={"module_id", "network_id", "name"})
    return Action(kind="failed", message=message, **told)


def _action(kind: str, record: ModuleRecord, text: str) -> Action:
    message = f"Module {record.short_id} ({record.name}) {text}"
    return Action.model_validate(
        {"kind": kind, "module_id": record.id, "name": record.name, "message": message}
    )


def close_dead_runs(backends: Backends) -> Iterator[Action]:
    """Close every run of ours that is running with no live claim on its recipe behind it.

    Others' runs in the same MLflow are left alone.

    Raises:
        StoreError: the database or MLflow does not answer.
    """
    lease = backends.settings.lease_seconds
    waiting = {
        run: Contender(backends.database, run.recipe, this_process(), lease)
        for run in backends.runs.running()
    }
    while waiting:
        for run, contender in list(waiting.items()):
            claim = contender.attempt()
            if claim is not None:
                with claim:
                    yield from _close(backends, run)
            if claim is not None or contender.is_live:
                del waiting[run]
        if waiting:
            time.sleep(POLL_SECONDS)


def _close(backends: Backends, run: RunningRun) -> Iterator[Action]:
    # It may have been finished, or resumed and finished, since it was listed.
    if not backends.runs.is_running(run.id):
        return
    status = _status(backends, run.id)
    if status is None:
        return
    backends.runs.finish(run.id, status)
    yield Action(
        kind="closed",
        module_id=None,
        name=run.name,
        message=f"MLflow run {run.id[:12]} ({run.name}) was left running by a process that died: "
        f"it is {status} now.",
    )


def _status(backends: Backends, run_id: str) -> RunStatus | None:
    """What became of a run; none while its module is stored, or its storing is to be repaired."""
    state = select(ModuleRow.state).where(ModuleRow.run_id == run_id)
    recorded = select(NetworkRow.id).where(NetworkRow.run_id == run_id)
    with backends.database.reading() as session:
        states = session.scalars(state).all()
        if "PENDING" in states:
            return None
        # Only its end is missing where what it was for is stored.
        done = "READY" in states or session.scalars(recorded.limit(1)).first() is not None
    return "FINISHED" if done else "KILLED"
