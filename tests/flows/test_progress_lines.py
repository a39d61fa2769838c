"""Progress where there is no terminal, such as in the log of a batch system."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from modkernel.flows.cli import _progress
from modkernel.flows.runtime.events import EpochDone, emit, tell


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (60.0, ["a: training", "a: stored"]),
        (0.0, ["a: training", "a: epoch 1 of 2 objective 0.5000", "a: epoch 2 of 2", "a: stored"]),
    ],
)
def test_a_long_module_tells_how_far_it_is_now_and_then(
    monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[str]
) -> None:
    monkeypatch.setattr(_progress, "LINE_SECONDS", seconds)
    told = io.StringIO()
    with _progress.progress(Console(file=told)):
        tell("a", "training")
        emit(EpochDone("a", 1, 2, objective=0.5))
        emit(EpochDone("a", 2, 2))
        tell("a", "stored")
    assert told.getvalue().splitlines() == expected
