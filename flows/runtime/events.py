"""Progress of a flow, told to whoever watches in the same process (the command line's bars)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

State = Literal[
    "waiting",
    "training",
    "measuring",
    "evaluating",
    "stored",
    "reused",
    "evaluated",
    "interrupted",
    "failed",
    "left out",
]
"""What a module of a flow is at; the last six end it."""


@dataclass(frozen=True)
class Planned:
    """What the flow will work on: names of modules, in order."""

    modules: tuple[str, ...]


@dataclass(frozen=True)
class StateChanged:
    """A module's state is another one now."""

    module: str
    state: State


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a module's training is done, or a task of its ground truth."""

    module: str
    epoch: int
    """From 1."""
    epochs: int
    objective: float | None = None
    validation: float | None = None


@dataclass(frozen=True)
class Note:
    """Something that the user should know."""

    text: str


Event = Planned | StateChanged | EpochDone | Note
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


def tell(module: str, state: State) -> None:
    """Emit what a module's state is now."""
    emit(StateChanged(module, state))
