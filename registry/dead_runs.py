"""MLflow runs that are left running by a process that died: closed as what became of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy import select

from modkernel.registry.backends import Backends, this_process
from modkernel.registry.records import Action
from modkernel.registry.sql.claims import POLL_SECONDS, Contender
from modkernel.registry.sql.tables import ModuleRow, NetworkRow
from modkernel.registry.tracking.runs import RunningRun, RunStatus


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
