"""A flow's progress: a bar a module on a terminal, elsewhere lines, as for a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from modkernel.flows.runtime.events import EpochDone, Event, Note, Planned, StateChanged, watch

DONE = ("stored", "reused", "left out")
"""States after which nothing more is to be done for a module."""
LINE_SECONDS = 60.0
"""Between two lines on one module, where there is no terminal: a file is to stay short."""


@contextmanager
def progress(console: Console) -> Iterator[None]:
    """Show the progress of the flows that run within the block."""
    if not console.is_terminal:
        with watch(_Lines(console)):
            yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars, watch(_Bars(bars)):
        yield


class _Bars:
    """One bar counts the modules of the plan, and one for each module counts its epochs."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._modules: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        self._planned: set[str] = set()
        self._done: set[str] = set()

    def __call__(self, event: Event) -> None:
        match event:
            case Note(text):
                self._bars.print(text)
            case Planned(names):
                self._all = self._bars.add_task("modules", total=len(names), note="")
                self._planned, self._done = set(names), set()
            case StateChanged(name, state):
                self._bars.update(self._bar(name), note=state)
                if state in DONE:
                    self._finish(name)
            case EpochDone(name, epoch, epochs):
                self._bars.update(
                    self._bar(name), completed=epoch, total=epochs, note=_measures(event)
                )

    def _bar(self, name: str) -> TaskID:
        if name not in self._modules:
            self._modules[name] = self._bars.add_task(name, total=None, note="")
        return self._modules[name]

    def _finish(self, name: str) -> None:
        bar = self._bar(name)
        task = next(task for task in self._bars.tasks if task.id == bar)
        self._bars.update(bar, total=task.total or 1, completed=task.total or 1)
        # Several attempts at one module of the plan, 'a.hidden-1 (2)', count one by one.
        if name.partition(" (")[0] not in self._planned:
            self._bars.update(bar, visible=False)  # Measuring a module of the plan, for one.
        elif self._all is not None and name not in self._done:
            self._done.add(name)
            self._bars.advance(self._all)


class _Lines:
    """One line whenever a module changes its state, and how far it is now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, str] = {}
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Note(text):
                self._console.print(text, soft_wrap=True)
            case StateChanged(name, state):
                if self._states.get(name) == state:
                    return
                self._states[name] = state
                self._tell(name, state)
            case EpochDone(name, epoch, epochs):
                if time.monotonic() - self._told.get(name, 0) >= LINE_SECONDS:
                    self._tell(name, f"epoch {epoch} of {epochs} {_measures(event)}".rstrip())

    def _tell(self, name: str, what: str) -> None:
        self._told[name] = time.monotonic()
        self._console.print(f"{name}: {what}", soft_wrap=True)


def _measures(event: EpochDone) -> str:
    found = (("objective", event.objective), ("validation", event.validation))
    return " ".join(f"{name} {value:.4f}" for name, value in found if value is not None)
