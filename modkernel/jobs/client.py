"""Run jobs in child processes: follow their progress, and turn what ends them into errors."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modkernel.errors import ChildError, ModkernelError, StoppedError
from modkernel.jobs import forked
from modkernel.jobs.failures import read_error
from modkernel.jobs.job import FULL_DISK, Job, disk_full
from modkernel.system.files import UNFINISHED, replace_file
from modkernel.system.forked import ONE_THREAD

__all__ = ["ForkServer"]

RUN_JOB = "modkernel.jobs.run:run_job"
POLL_SECONDS = 0.1
STOP_GRACE_SECONDS = 8.0
"""For a child to write a checkpoint and end; after that the one of its last epoch must do."""
CLOSE_SECONDS = 15.0

OnProgress = Callable[[Mapping[str, Any]], None]


class ForkServer:
    """Starts one child process a job, from a process that has torch loaded already.

    Threads may share it and run jobs at the same time. When this process ends, by whatever
    means, the children write a checkpoint and stop within seconds.

    Args:
        target: `package.module:function` that does a job; the default trains.
    """

    def __init__(self, target: str = RUN_JOB) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def start(self) -> None:
        """Start the server if none runs. Returns at once: it loads torch in the meantime."""
        self._running()

    def close(self) -> None:
        """Let the server end. Children that still run write a checkpoint and stop."""
        with self._lock:
            if self._server is not None:
                self._server.close()
                self._server = None

    def run(
        self,
        job: Job,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Run the job and return once its result folder is there; at once if it is already.

        Args:
            job: its work folder is made, or resumed from the checkpoint in it.
            on_progress: called from this thread with every event that is reported from now on:
                `waiting` (`for` device or folder), `started`, `epoch`, `finished`.
            stop: once set, the child writes a checkpoint and StoppedError is raised. The child is
                told at once, whatever `on_progress` waits for.

        Raises:
            ChildError: the child failed, or died (`died` is true: a second run may go on).
            ModkernelError: what ended training, with its own type and message.
        """
        if job.result.exists():
            return
        work = Path(job.work)
        work.mkdir(parents=True, exist_ok=True)
        replace_file(work / "job.json", job.canonical_json().encode())
        tail = _Tail(work / "progress.jsonl", on_progress)
        server = self._running()
        child = server.fork(work)
        if stop is not None:
            watcher = (server, child, stop)
            threading.Thread(target=_pass_on, args=watcher, name="stop", daemon=True).start()
        try:
            while not child.ended.wait(POLL_SECONDS):
                tail.read()
            tail.read()
        except BaseException:
            # Nobody would follow the child any more, and it would hold its device to the end.
            server.signal(child, signal.SIGTERM)
            raise
        if child.asked and child.exit is None:
            next_time = (
                "could write a checkpoint: the same command resumes from the one before."
                if _has_checkpoint(work)
                else "had written a checkpoint: the same command begins its work again."
            )
            raise StoppedError(
                f"Interrupted, and the training process was ended before it {next_time}"
            )
        if child.exit != 0 or not job.result.exists():
            raise _reason(work, child)

    def _running(self) -> _Server:
        with self._lock:
            if self._server is None or not self._server.alive:
                self._server = _Server(self._target)
            return self._server


@dataclass
class _Child:
    """A child as seen from here; without exit and signal once ended: its server has died."""

    id: int
    ended: threading.Event = field(default_factory=threading.Event)
    exit: int | None = None
    signal: int | None = None
    complaint: str = ""
    asked: bool = False
    """Whether it was asked to stop."""


class _Server:
    """One process of `modkernel.jobs.server` and the children that it has forked."""

    def __init__(self, target: str) -> None:
        self._lock = threading.Lock()
        self._children: dict[int, _Child] = {}
        self._last_id = 0
        self.alive = True
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (the listener closes it)
        self._process = (forked.take() if target == RUN_JOB else None) or self._start(target)
        self._listener = threading.Thread(target=self._listen, name="fork-server", daemon=True)
        self._listener.start()
        atexit.register(self.close)

    def _start(self, target: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "modkernel.jobs", "--target", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,  # Ctrl-C goes to the flow, whose end the children notice.
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        )

    def fork(self, work: Path) -> _Child:
        """Ask for a child; if the server has died the child has ended already."""
        with self._lock:
            self._last_id += 1
            child = _Child(self._last_id)
            if self.alive:
                self._children[child.id] = child
                self._send({"id": child.id, "work": str(work)})
            else:
                child.ended.set()
        return child

    def signal(self, child: _Child, number: int) -> None:
        """Send a child a signal, if it is still there."""
        with self._lock:
            self._send({"id": child.id, "signal": number})

    def close(self) -> None:
        """End the server, and stop its children."""
        atexit.unregister(self.close)
        with self._lock:
            if not self._children:
                self._process.kill()  # It may still be importing, for nobody.
        self._cut()
        self._listener.join(CLOSE_SECONDS)

    def _cut(self) -> None:
        """Close the server's input, which is also the children's lifeline."""
        assert self._process.stdin is not None
        with self._lock:
            self.alive = False
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # If the server has gone, the listener tells all who wait for a child.
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as messages:
            for line in messages:
                message = json.loads(line)
                if "exit" in message:
                    with self._lock:
                        child = self._children.pop(message["id"])
                    child.exit, child.signal = message["exit"], message["signal"]
                    child.ended.set()
        # A server that was killed leaves its children behind: closing tells them to stop.
        self._cut()
        self._process.wait()
        with self._stderr:
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        for child in self._children.values():
            child.complaint = lines[-1] if lines else ""
            child.ended.set()


def _pass_on(server: _Server, child: _Child, stop: threading.Event) -> None:
    """Ask a child to stop once `stop` is set, and end it where it does not."""
    while not stop.is_set():
        if child.ended.wait(POLL_SECONDS):
            return
    child.asked = True
    server.signal(child, signal.SIGTERM)
    if not child.ended.wait(STOP_GRACE_SECONDS):
        server.signal(child, signal.SIGKILL)


class _Tail:
    """The lines that are added to a progress file from now on."""

    def __init__(self, path: Path, on_progress: OnProgress | None) -> None:
        self._path, self._on_progress = path, on_progress
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def read(self) -> None:
        """Hand on the complete lines that are new."""
        if self._on_progress is None or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            received = file.read()
        self._offset += len(received)
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            # A child that is killed may leave half a line.
            with suppress(json.JSONDecodeError):
                self._on_progress(json.loads(line))


def _has_checkpoint(work: Path) -> bool:
    """Whether training that is killed now has written a checkpoint, whole."""
    folder = work / "checkpoint"
    files = (path for path in (folder, *folder.rglob("*")) if path.is_file())
    return any(path.suffix != UNFINISHED for path in files)


def _reason(work: Path, child: _Child) -> ModkernelError:
    """Why there is no result."""
    if child.exit == FULL_DISK:
        return disk_full(work)
    if child.exit is not None and (told := read_error(work)) is not None:
        return told
    if child.signal is not None:
        name = signal.Signals(child.signal).name
        hint = (
            "if nobody did that, the machine ran out of memory: make recipe.batch_size or "
            "backbone.width smaller, or close other programs"
            if child.signal == signal.SIGKILL
            else f"its last words are in {work / 'log.txt'}"
        )
        error = ChildError(
            f"The training process was killed by {name}; {hint}. "
            "Run it again to go on from the last checkpoint, if there is one."
        )
    elif child.exit is None:
        error = ChildError(
            "The process that starts training processes has died"
            f"{': ' + child.complaint if child.complaint else ''}. "
            "Run it again to go on from the last checkpoint, if there is one; 'modkernel doctor' "
            "checks the set-up."
        )
    else:
        error = ChildError(
            f"The training process ended with status {child.exit} and left no result: see "
            f"{work / 'log.txt'}, and run it again to go on from the last checkpoint, if there is "
            "one."
        )
    error.died = True
    return error
