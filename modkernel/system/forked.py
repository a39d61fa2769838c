"""Forking this process, which has loaded much already: only while it has one thread."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

__all__ = ["ONE_THREAD", "ForkedProcess", "fork", "has_one_thread", "importing_without_threads"]

ONE_THREAD = {
    # Libraries that start threads when they are imported: before a fork there must be none.
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
POLL_SECONDS = 0.05
THREADS = Path("/proc/self/task")


class ForkedProcess:
    """As much of `subprocess.Popen` as those need who fork instead of starting a program."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._has_ended = False

    def poll(self) -> int | None:
        """None while it runs; 0 once it has ended, by whatever means."""
        if not self._has_ended:
            try:
                ended, _ = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # Something else has waited for all children.
                ended = self.pid
            self._has_ended = ended != 0
        return 0 if self._has_ended else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on after so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(POLL_SECONDS)
        return 0

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:  # Another process may have its number by then.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def has_one_thread() -> bool:
    """Whether this process can be forked; False where the system does not say."""
    return THREADS.exists() and len(os.listdir(THREADS)) == 1


def fork(become: Callable[[], NoReturn]) -> ForkedProcess:
    """Fork this process.

    Args:
        become: what the new one does, and how it ends.
    """
    pid = os.fork()
    if pid == 0:
        become()
    return ForkedProcess(pid)


@contextmanager
def importing_without_threads() -> Iterator[None]:
    """Within the block what is imported for the first time starts no threads of its own."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
