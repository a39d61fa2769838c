"""A signal ends what runs; others, which come while that ends, break nothing off."""

from __future__ import annotations

import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from modkernel.flows.runtime import mlflow_runs
from modkernel.flows.runtime.events import Event, Note, watch
from modkernel.flows.runtime.interrupts import SIGNALS, Interrupted, signals_interrupt
from modkernel.flows.runtime.mlflow_runs import ending_with

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGHUP")


def test_further_signals_leave_no_run_open() -> None:
    ended: list[str] = []

    def finish(run_id: str, how: str) -> None:
        for number in SIGNALS:  # While MLflow is waited for, perhaps for minutes.
            signal.raise_signal(number)
        ended.append(how)

    registry: Any = SimpleNamespace(runs=SimpleNamespace(finish=finish))
    before = [signal.getsignal(number) for number in SIGNALS]
    with (
        pytest.raises(Interrupted) as interrupted,
        signals_interrupt(),
        ending_with(registry, "run"),
    ):
        signal.raise_signal(signal.SIGINT)
    assert (ended, interrupted.value.code) == (["KILLED"], 128 + signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("takes", [0.0, 1.0])
def test_who_waits_for_mlflow_after_a_signal_is_told_so(
    monkeypatch: pytest.MonkeyPatch, takes: float
) -> None:
    monkeypatch.setattr(mlflow_runs, "QUIET_SECONDS", 0.2)
    registry: Any = SimpleNamespace(runs=SimpleNamespace(finish=lambda *_: time.sleep(takes)))
    told: list[Event] = []
    with (
        watch(told.append),
        pytest.raises(Interrupted),
        signals_interrupt(),
        ending_with(registry, "run"),
    ):
        signal.raise_signal(signal.SIGINT)
    assert ["MLflow is waited for" in one.text for one in told if isinstance(one, Note)] == [
        True
    ] * (takes > 0)
