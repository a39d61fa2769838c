"""Starting the server that forks engines, and the command that uses it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from prefect.logging import get_logger

from modkernel.flows.servers import engines
from modkernel.system.forked import (
    ONE_THREAD,
    ForkedProcess,
    fork,
    has_one_thread,
    importing_without_threads,
)

VARIABLE = "MODKERNEL_ENGINES"
"""Where this process's socket is."""
CLOSE_SECONDS = 5.0
AGAIN_SECONDS = 5.0
TRIES = 3
CAN_FORK = Path("/proc/self/task").exists()
"""Whether this system says if a process has threads, with which no fork is sound."""


def engine_command() -> str | None:
    """The command that runs an engine; None while there is no server, which takes seconds to load.

    Prefect's own command is as good then, and slower.
    """
    path = os.environ.get(VARIABLE)
    if path is None or not Path(path).exists():
        return None
    script = Path(__file__).with_name("engine_client.py")
    return shlex.join([sys.executable, "-S", "-E", str(script), path])


class EngineServer:
    """The server of this process's runs; runs begin by Prefect's own command where none can be.

    Made while this process has one thread, it is a fork of it, and ready at once; it shares with it
    what both have loaded, hundreds of megabytes.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="modkernel-"))
        os.environ[VARIABLE] = str(self._folder / "engines")
        self._process = self._fork() or self._start()
        self._deaths, self._next = 0, 0.0

    @property
    def pid(self) -> int | None:
        """Of its process; None if there can be none."""
        return None if self._process is None else self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded all, or cannot: runs then load it for themselves."""
        return engine_command() is not None or self._process is None or self._deaths > TRIES

    def keep_alive(self) -> None:
        """Start it again if it has died, a while later each time."""
        if self._process is None or self._process.poll() is None or time.monotonic() < self._next:
            return
        self._deaths += 1
        self._next = time.monotonic() + AGAIN_SECONDS * self._deaths
        get_logger(__name__).warning("The process that starts runs has died: it starts again.")
        Path(os.environ[VARIABLE]).unlink(missing_ok=True)
        self._process = self._start()

    def close(self) -> None:
        """End it; the engines that it has forked have ended before, or end by themselves."""
        os.environ.pop(VARIABLE, None)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fork(self) -> ForkedProcess | None:
        if not has_one_thread():
            return None
        with importing_without_threads():
            engines.load()
        if not has_one_thread():
            return None
        path = Path(os.environ[VARIABLE])
        return fork(partial(engines.become_server, path, os.getpid()))

    def _start(self) -> subprocess.Popen[bytes] | None:
        if not CAN_FORK:
            return None
        return subprocess.Popen(
            [sys.executable, "-m", "modkernel.flows.servers.engines", os.environ[VARIABLE]],
            stdin=subprocess.DEVNULL,
            env=os.environ | ONE_THREAD,
        )
