"""Signals for threads: only the main one is interrupted, and Prefect waits for its tasks to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_stops: set[threading.Event] = set()
_stopping = threading.Event()


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Within the block `stop_all` sets the event; it is set at once if that was called before."""
    _stops.add(stop)
    if _stopping.is_set():
        stop.set()
    try:
        yield
    finally:
        _stops.discard(stop)


def stop_all() -> None:
    """Ask everything that can be stopped to stop: training writes a checkpoint first."""
    _stopping.set()
    for stop in tuple(_stops):
        stop.set()


@contextmanager
def interrupts_stop_all() -> Iterator[None]:
    """Within the block `stop_all` is called as soon as the main thread is interrupted.

    That is by Ctrl-C, or by the exception that Prefect raises on SIGTERM, with which it cancels
    runs, too. Its handler must stay in place: it tells by it that a run can be cancelled.
    """
    if not _stops:
        _stopping.clear()  # Of a flow before; its last threads may have needed it until now.
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            stop_all()
        raise


class Interrupted(SystemExit):
    """The command was told to end by a signal, and ends with 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP call `stop_all` and raise `Interrupted`.

    The first of several is told of. SIGHUP comes when a terminal is closed; where it is ignored, as
    under nohup, it stays so.
    """
    came: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        came.append(number)
        stop_all()
        if number == signal.SIGHUP:
            signal.raise_signal(signal.SIGTERM)  # Which Prefect's flows know what to do with.
        raise Interrupted(came[0])

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _stopping.clear()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block, which ends what was interrupted already, further signals do nothing.

    They would break off what must be done whatever happens. Where a server is away, that ends with
    the time for which servers are waited for.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():  # No other is interrupted.
        before = {number: signal.signal(number, _ignore) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler, since what a process ignores, those that it starts would ignore, too."""
