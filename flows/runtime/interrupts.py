"""Ctrl-C for threads: none gets a KeyboardInterrupt, and Prefect waits for its tasks to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
def ctrl_c_stops_all() -> Iterator[None]:
    """Within the block Ctrl-C calls `stop_all` before it raises KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop_all()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _stopping.clear()
