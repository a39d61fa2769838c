"""A fork server that is itself a fork: of a process that has torch loaded and one thread."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import BinaryIO, NoReturn

from modkernel.errors import ChildError
from modkernel.system.forked import fork, has_one_thread

_made: list[ForkedServer] = []


class ForkedServer:
    """As much of `subprocess.Popen` as `modkernel.jobs.client` needs of a fork server."""

    def __init__(self) -> None:
        commands, told = os.pipe(), os.pipe()
        self._process = fork(partial(_serve, commands, told))
        os.close(commands[0])
        os.close(told[1])
        self.stdin: BinaryIO = os.fdopen(commands[1], "wb")
        self.stdout: BinaryIO = os.fdopen(told[0], "rb")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()


def fork_now() -> None:
    """Fork the server that this process will need: later it may have threads, and could not.

    Raises:
        ChildError: there are threads already.
    """
    if not has_one_thread():
        raise ChildError("A process with threads cannot be forked: start the fork server anew.")
    _made.append(ForkedServer())


def take() -> ForkedServer | None:
    """The server that was forked before, once."""
    return _made.pop() if _made else None


def _serve(commands: tuple[int, int], told: tuple[int, int]) -> NoReturn:
    status = 1
    try:
        os.setsid()  # Ctrl-C goes to the flow, whose end the children notice.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(commands[0], 0)
        os.dup2(told[1], 1)
        for descriptor in (*commands, *told):
            os.close(descriptor)
        from modkernel.jobs import server
        from modkernel.jobs.run import run_job

        server.serve(run_job)
        status = 0
    finally:
        os._exit(status)
