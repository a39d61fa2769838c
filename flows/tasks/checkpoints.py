"""Checkpoints of a child that trains, to and from the artifact store that machines share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prefect.logging import get_run_logger

from modkernel.errors import StoppedError, StoreError
from modkernel.flows.runtime.events import Note, emit
from modkernel.jobs.job import EndToEndJob, HiddenJob, Job, StitchJob, TogetherJob
from modkernel.jobs.slots import hold
from modkernel.registry import Registry
from modkernel.training.checkpoint import FILE, Position, position_of

STOP_SECONDS = 15.0
"""For the child to write its last checkpoint and for that to be sent, once it was stopped."""
DONE_SECONDS = 5.0
"""For one that is being sent when training is finished."""


@contextmanager
def shared_checkpoints(registry: Registry, run_id: str, job: Job, label: str) -> Iterator[None]:
    """Within the block, in which a job is done and stored, its checkpoints are sent to the store.

    Before it the newest one of another machine is brought here, if it is further than this
    machine's. They are removed once the block has ended well; else the last one is sent. What
    fails about them is noted, and ends neither training nor storing.

    Nothing happens where machines share no store, and for jobs that leave no checkpoints.

    Args:
        registry: has the store.
        run_id: MLflow run of what is trained.
        job: trains it.
        label: what it is called in notes.
    """
    if not registry.checkpoints.are_shared or not isinstance(
        job, HiddenJob | TogetherJob | StitchJob | EndToEndJob
    ):
        yield
        return
    sender = _Sender(registry, run_id, Path(job.work, "checkpoint", FILE), label)
    if not job.result.exists():
        sender.fetch()
    sender.start()
    try:
        yield
    except BaseException:
        sender.close(stored=False)
        raise
    sender.close(stored=True)


class _Sender(threading.Thread):
    """Sends the checkpoint in a file every so many seconds, beside whoever follows the child.

    It never keeps the process, nor whoever closes it for long: MLflow's client may try for minutes.
    """

    def __init__(self, registry: Registry, run_id: str, file: Path, label: str) -> None:
        super().__init__(name=f"checkpoints {label}", daemon=True)
        self._store, self._seconds = registry.checkpoints, registry.settings.checkpoint_seconds
        self._run_id, self._file, self._label = run_id, file, label
        self._log = get_run_logger()
        self._closed, self._stored = threading.Event(), False
        self._there: Position | None = None
        """How far the newest one in the store is."""
        self._failed = False

    def fetch(self) -> None:
        """Bring the newest checkpoint in the store here, if it is further than this machine's."""
        here = position_of(self._file)
        try:
            self._there = self._store.fetch(self._run_id, self._file)
        except StoreError as error:
            self._note(f"training starts with what is here: {error}")
            return
        if self._there is not None and (here is None or here < self._there):
            self._note(f"it goes on after {self._there}, with the checkpoint in MLflow's store.")

    def run(self) -> None:
        """Send, until it is closed."""
        while not self._closed.wait(self._seconds or None):
            self._send()
        if self._stored:
            self._remove()
        elif self._seconds:
            self._wait_for_child()
            self._send()

    def close(self, stored: bool) -> None:
        """Remove what was sent, if what was trained is stored; or else send the last one.

        What takes too long goes on beside the caller as long as the process lives.
        """
        self._stored = stored
        self._closed.set()
        self.join(DONE_SECONDS if stored else STOP_SECONDS)

    def _send(self) -> None:
        try:
            self._there = self._store.store(self._run_id, self._file, self._there)
        except StoreError as error:
            if not self._failed:
                self._note(f"its checkpoint is not in MLflow's store, and is sent later: {error}")
            self._failed = True
        else:
            if self._failed:
                self._note("its checkpoint is in MLflow's store now.")
            self._failed = False

    def _wait_for_child(self) -> None:
        """It holds a lock until it has written its last checkpoint."""
        end = time.monotonic() + STOP_SECONDS
        lock = self._file.parents[1] / "lock"
        with (
            suppress(StoppedError, OSError),
            hold([lock], lambda: time.monotonic() > end, lambda: None),
        ):
            pass

    def _remove(self) -> None:
        if self._there is None:
            return
        try:
            self._store.remove(self._run_id)
        except StoreError as error:
            self._note(f"its checkpoint stays in MLflow's store until 'maintenance': {error}")

    def _note(self, text: str) -> None:
        self._log.warning("%s: %s", self._label, text)
        emit(Note(f"{self._label}: {text}"))
