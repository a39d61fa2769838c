"""Child processes that start, live and stop together, leaving none behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from modkernel.errors import ServiceError
from modkernel.system.files import has_no_room, says_full_disk

START_SECONDS = 180
STOP_SECONDS = 15
POLL_SECONDS = 0.2
LOG_LINES = 15
RESTARTS = 3
"""How often a service that dies is started again within `RESTART_WINDOW`."""
RESTART_WINDOW = 600.0
"""Seconds."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Service:
    """One child process. `ready` says whether it answers."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    ready: Callable[[], bool]


class Supervisor:
    """Starts services and stops all of them when its block ends, however it ends.

    Each child leads a process group of its own: Ctrl-C in a terminal reaches this process alone,
    which then stops the groups, the last started first.
    """

    def __init__(self) -> None:
        self._running: list[tuple[Service, subprocess.Popen[bytes]]] = []
        self._deaths: dict[str, list[float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, child in reversed(self._running):
            _stop_group(child)

    def start(self, services: Sequence[Service], stopped: Callable[[], bool]) -> bool:
        """Start services at once and wait until all answer; false if asked to stop meanwhile.

        Raises:
            ServiceError: a service died, or one of these did not answer in time.
        """
        for service in services:
            self.spawn(service)
        return self.wait(services, stopped)

    def wait(self, services: Sequence[Service], stopped: Callable[[], bool]) -> bool:
        """Wait until services answer that were spawned; false if asked to stop meanwhile.

        Raises:
            ServiceError: see `start`.
        """
        deadline = time.monotonic() + START_SECONDS
        waiting = list(services)
        while waiting := [service for service in waiting if not service.ready()]:
            self.check()
            if stopped():
                return False
            if time.monotonic() > deadline:
                first = waiting[0]
                raise ServiceError(
                    f"{first.name} did not answer within {START_SECONDS} s; its log "
                    f"{first.log} ends:\n{_tail(first.log)}"
                )
            time.sleep(POLL_SECONDS)
        return True

    def spawn(self, service: Service) -> None:
        """Start a service, and do not wait for it; the log of the one before becomes LOG.1."""
        service.log.parent.mkdir(parents=True, exist_ok=True)
        if service.log.exists():  # With what the last one said when it died.
            service.log.replace(service.log.with_name(f"{service.log.name}.1"))
        self._running.append((service, _launch(service)))

    def check(self) -> None:
        """Check that every service is alive.

        Raises:
            ServiceError: one is not; the message has the end of its log.
        """
        for service, child in self._running:
            if child.poll() is not None:
                tail = _tail(service.log)
                if says_full_disk(tail) or has_no_room(service.log.parent):
                    raise ServiceError(
                        f"{service.name} stopped by itself, for the disk of the home "
                        f"{service.log.parent.parent} is full: free some space, then run the same "
                        "command again."
                    )
                raise ServiceError(
                    f"{service.name} stopped by itself (exit code {child.returncode}); its log "
                    f"{service.log} ends:\n{tail}"
                )

    def restart_dead(self, say: Callable[[str], None]) -> None:
        """Start every service again that is not alive, after what is left of its group has ended.

        Args:
            say: is told of each.

        Raises:
            ServiceError: one dies again and again; the message has the end of its log.
        """
        for place, (service, child) in enumerate(self._running):
            if child.poll() is None:
                continue
            now = time.monotonic()
            recent = [at for at in self._deaths.get(service.name, ()) if now - at < RESTART_WINDOW]
            if len(recent) == RESTARTS:
                self.check()
            self._deaths[service.name] = [*recent, now]
            say(
                f"{service.name} stopped by itself (exit code {child.returncode}) and is started "
                f"again (log: {service.log})."
            )
            _end_orphans(child.pid)
            self._running[place] = (service, _launch(service))


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGINT, SIGTERM and SIGHUP are only noted; the function says if one came.

    SIGHUP, which comes when a terminal is closed, stays ignored where it was, as under nohup.
    """
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Loaded here, since little may be done between fork and exec.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Have this process end by SIGTERM when the one that started it dies, where Linux does it."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _launch(service: Service) -> subprocess.Popen[bytes]:
    with service.log.open("ab") as log:
        return subprocess.Popen(
            service.command,
            env=os.environ | service.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )


def _end_orphans(group: int) -> None:
    """SIGTERM to what a dead leader left of its group, SIGKILL to what is there after a while.

    Those are flow runs, of the process that served them: they write a checkpoint meanwhile.
    """
    deadline = time.monotonic() + STOP_SECONDS
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(POLL_SECONDS)
        os.killpg(group, signal.SIGKILL)


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the whole group, SIGKILL to what is left of it after a while."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])
