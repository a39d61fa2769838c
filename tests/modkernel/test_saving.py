"""Checkpoints that take long are written beside training, whole, and of the moment they are of."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modkernel.spec import Recipe
from modkernel.training import saving
from modkernel.training.checkpoint import (
    LoopState,
    Parts,
    Snapshot,
    Standing,
    read_checkpoint,
    write_snapshot,
)
from modkernel.training.saving import BESIDE_SECONDS, Saver
from modkernel.training.schedule import make_optimizer, make_schedule

SLOW = 2 * BESIDE_SECONDS


class Run:
    """A run whose weights and epoch are one number."""

    def __init__(self, folder: Path) -> None:
        recipe, model = Recipe(), nn.Linear(2, 1)
        optimizer = make_optimizer(recipe, list(model.parameters()))
        schedule = make_schedule(recipe, optimizer, 10, 1)
        self.folder, self.saver = folder, Saver(folder)
        self.parts = Parts(model, optimizer, schedule, torch.device("cpu"))

    def save(self, epoch: int, last: bool = False) -> None:
        with torch.no_grad():
            self.parts.model.weight.fill_(epoch)
        self.saver.save(self.parts, Standing(LoopState(epoch=epoch), 0.1, None), last)

    @property
    def written(self) -> int:
        """The epoch of the file; its weights have to be of the same."""
        found = read_checkpoint(self.folder)
        assert found is not None
        assert set(found["model"]["weight"].flatten().tolist()) == {found["loop"]["epoch"]}
        return int(found["loop"]["epoch"])


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set for writing to end."""
    may_end = threading.Event()

    def slow(folder: Path, copied: Snapshot) -> None:
        assert may_end.wait(30)
        write_snapshot(folder, copied)

    monkeypatch.setattr(saving, "write_snapshot", slow)
    return may_end


def test_training_goes_on_while_a_slow_checkpoint_is_written(
    tmp_path: Path, gate: threading.Event
) -> None:
    run = Run(tmp_path)
    run.saver.seconds = SLOW
    run.save(1)  # Returns, though nothing can be written yet.
    run.save(2)  # Left out, and not in the file that the first one gives.
    gate.set()
    run.saver.finish()
    assert run.written == 1
    run.save(3)
    run.save(4, last=True)
    assert run.written == 4
    run.saver.close()


def test_a_quick_checkpoint_is_there_when_its_epoch_is_told(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for epoch in (1, 2, 3):
        run.saver.seconds = 0.0
        run.save(epoch)
        assert run.written == epoch
    run.saver.close()


def test_what_is_being_written_is_waited_for_at_the_end(
    tmp_path: Path, gate: threading.Event
) -> None:
    run = Run(tmp_path)
    run.saver.seconds = SLOW
    run.save(1)
    threading.Timer(0.05, gate.set).start()
    run.saver.close()
    assert run.written == 1


def test_a_checkpoint_that_cannot_be_written_is_told_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    run = Run(tmp_path)
    run.saver.seconds = SLOW
    monkeypatch.setattr(saving, "write_snapshot", full)
    run.save(1)
    with pytest.raises(OSError, match="No space left"):
        run.save(2, last=True)
    run.saver.close()
