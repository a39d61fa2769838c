"""A process that has Prefect, torch and the flows loaded, and forks an engine for every run.

Whoever serves runs is forked into it before it has threads, or starts it as `python -m
modkernel.flows.servers.engines SOCKET`, and runs `engine_client.py` for each run: a small process,
which Prefect watches and signals, that asks for an engine here and lives as long as it does. A run
then begins in a second, not in ten, and what all of them import is in memory once. It never
computes and never touches CUDA, so that every fork is sound.
"""

from __future__ import annotations

import array
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from modkernel.flows.servers.supervisor import end_with_parent
from modkernel.jobs import forked
from modkernel.system.collector import collect_seldom

LOADED = (
    "modkernel.flows.deployments.serve",
    "modkernel.flows.display.figures",
    "prefect.engine",
    "prefect.flow_engine",
)
"""What every engine needs, in seconds, when it is first used."""
ENGINE = "prefect.engine"
ASK_SECONDS = 5.0
ASK_AGAIN_SECONDS = 0.1
"""Until it is tried again to accept, where there was no room."""


def main() -> None:
    """Serve until the process that started this has gone and the last engine has ended."""
    end_with_parent()
    collect_seldom()
    load()
    _serve(Path(sys.argv[1]))


def load() -> None:
    """Import what every engine needs, so that it is there before a fork."""
    for name in LOADED:
        import_module(name)
    import_module("modkernel.jobs.server").preload()
    gc.collect()
    gc.freeze()  # Collections in the forked processes then leave the shared pages alone.


def become_server(path: Path, parent: int) -> NoReturn:
    """In a fork of the process that serves runs: as `main`, with what that has loaded."""
    end_with_parent()
    if os.getppid() == parent:  # Or it ended before.
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        _serve(path)
    sys.exit()


def _serve(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        os.chmod(path, 0o600)
        listener.listen(64)
        _Engines(listener).serve()
    path.unlink(missing_ok=True)


class _Engines:
    """The engines that were forked, each with the connection of who asked for it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._running: dict[int, socket.socket] = {}
        self._is_open = True

    def serve(self) -> None:
        wake, waker = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._close)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while self._is_open or self._running:
                ready = [key.fileobj for key, _ in selector.select()]
                for found in ready:
                    if found is self._listener:
                        self._accept(selector)
                    elif isinstance(found, socket.socket):
                        self._hear(selector, found)
                if wake in ready:  # Last: it closes connections, of which some may be in `ready`.
                    with suppress(BlockingIOError):
                        os.read(wake, 4096)
                    self._reap(selector)

    def _close(self, number: int, frame: object) -> None:
        self._is_open = False

    def _accept(self, selector: selectors.BaseSelector) -> None:
        descriptors: list[int] = []
        try:
            connection, _ = self._listener.accept()
        except OSError:  # Who asked has gone, or there is no room for a descriptor.
            traceback.print_exc()
            time.sleep(ASK_AGAIN_SECONDS)
            return
        try:
            connection.settimeout(ASK_SECONDS)
            asked, descriptors = _receive(connection)
            engine = os.fork()
        except (OSError, ValueError):  # Who asked has gone, or there is no room for a process.
            traceback.print_exc()
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()
            return
        if engine == 0:
            selector.close()
            self._listener.close()
            for other in self._running.values():
                other.close()
            connection.close()
            _become_engine(asked, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._running[engine] = connection
        selector.register(connection, selectors.EVENT_READ)

    def _hear(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        """A signal to hand on; or the end of who asked, with which the engine ends, too."""
        try:
            received = connection.recv(64)
        except OSError:  # Closed while it had something to say.
            received = b""
        engines = [engine for engine, asker in self._running.items() if asker is connection]
        for engine in engines:
            for number in received or bytes([signal.SIGKILL]):
                with suppress(ProcessLookupError):
                    os.kill(engine, number)
        if not received:
            selector.unregister(connection)

    def _reap(self, selector: selectors.BaseSelector) -> None:
        for engine in tuple(self._running):
            ended, status = os.waitpid(engine, os.WNOHANG)
            if ended:
                connection = self._running.pop(engine)
                with suppress(OSError):
                    connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
                with suppress(KeyError):
                    selector.unregister(connection)
                connection.close()


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What is asked for, as one line of JSON, and the descriptors that come with it."""
    descriptors = array.array("i")
    text = b""
    while not text.endswith(b"\n"):
        received, extra, _, _ = connection.recvmsg(
            65536, socket.CMSG_SPACE(3 * descriptors.itemsize)
        )
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data)
        if not received:
            break
        text += received
    return dict(json.loads(text)), list(descriptors)


def _become_engine(asked: dict[str, Any], descriptors: list[int]) -> NoReturn:
    status = 1
    try:
        end_with_parent()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        random.seed()
        # While there is one thread: the children that train are forked from it.
        forked.fork_now()
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
        sys.argv = [ENGINE]
        sys.modules.pop(ENGINE, None)  # It is run as a script, of which Python warns otherwise.
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.exit(status)  # As any process ends: Prefect sends the last of its log then.


if __name__ == "__main__":
    main()
