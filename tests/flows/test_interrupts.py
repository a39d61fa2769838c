"""A signal ends what runs; others, which come while that ends, break nothing off."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

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
