"""Progress of a flow, told to whoever watches in the same process (the command line's bars).

Events are flat, JSON-clean dicts:

    {"event": "plan",   "modules": ["digits.hidden-1", "digits.output"]}
    {"event": "module", "module": "digits.hidden-1", "state": "waiting" | "training" |
                                                              "measuring" | "evaluating" |
                                                              "stored" | "reused" | "evaluated" |
                                                              "failed" | "left out"}
    {"event": "note",   "text": "12 of 60 pairs name an example of the test part ..."}
    {"event": "epoch",  "module": "digits.hidden-1", "epoch": 3, "epochs": 10, ...}
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Event = dict[str, Any]
Watcher = Callable[[Event], None]

_watchers: list[Watcher] = []
_lock = threading.Lock()


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` with every event until the block ends; from any thread, one at a time."""
    with _lock:
        _watchers.append(watcher)
    try:
        yield
    finally:
        with _lock:
            _watchers.remove(watcher)


def emit(event: Event) -> None:
    """Tell everyone who watches; without a watcher nothing happens."""
    with _lock:
        for watcher in _watchers:
            watcher(event)


def tell(module: str, state: str) -> None:
    """Tell what a module's state is now."""
    emit({"event": "module", "module": module, "state": state})
