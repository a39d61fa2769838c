"""What a child reports on its progress file: parsed here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modkernel.training.report import EpochLine


@dataclass(frozen=True)
class Waiting:
    """The child waits for a device, or for another child that works in its folder."""

    lacks: Literal["device", "folder"]


@dataclass(frozen=True)
class Started:
    """The child has a device and begins."""

    device: str
    pid: int


@dataclass(frozen=True)
class EpochEnded:
    """One epoch of training is done."""

    line: EpochLine
    epochs: int


@dataclass(frozen=True)
class TargetJudged:
    """The ground truth of one target task is there."""

    target: int
    """From 1."""
    targets: int


@dataclass(frozen=True)
class Remark:
    """A note of the child to the user."""

    text: str


ChildEvent = Waiting | Started | EpochEnded | TargetJudged | Remark


def parse(event: Mapping[str, Any]) -> ChildEvent | None:
    """An event of a child as its type; none for one that nobody here needs."""
    match event:
        case {"event": "waiting", "for": "device" | "folder" as lacks}:
            return Waiting(lacks)
        case {"event": "started", "device": str(device), "pid": int(pid)}:
            return Started(device, pid)
        case {"event": "epoch", "epochs": int(epochs), **values}:
            fields = {name: values[name] for name in EpochLine.model_fields if name in values}
            return EpochEnded(EpochLine(**fields), epochs)
        case {"event": "target", "target": int(target), "targets": int(targets)}:
            return TargetJudged(target, targets)
        case {"event": "note", "text": str(text)}:
            return Remark(text)
    return None
