"""How a run is watched and stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[Mapping[str, Any]], None]
"""Called with one JSON-clean mapping per epoch; see `training.report.EpochLine.event`."""
Stop = Callable[[], bool]
"""Called before every step; true writes a checkpoint and raises `StoppedError`."""


def no_progress(_: Mapping[str, Any]) -> None:
    """Report nothing."""


def never_stop() -> bool:
    """Train to the end."""
    return False


@dataclass(frozen=True)
class Control:
    """How a run is watched, stopped and resumed."""

    checkpoints: Path | None = None
    """Folder, of one training alone: it refuses another's. Without one no checkpoint is written."""
    progress: Progress = no_progress
    stop: Stop = never_stop


UNWATCHED = Control()
"""No checkpoint, no progress, no stop."""
