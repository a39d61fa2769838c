"""What docs/storage.md promises: equal trainings on a CPU give equal weights, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = 200
"""A difference in one of fifty runs stays unseen once in 57 times (0.98 to the power of 200)."""
FEW = 8
"""In every run of the tests: one of fifty is seen in one of seven of those."""
SMALL = ("--steps", "2", "--batch", "24", "--side", "8", "--width", "16")


def equal_runs(precision: str, threads: int, runs: int, load: int = 2) -> dict[str, int]:
    """Runs of one recipe by the weights that they end with, half of them beside other load."""
    given = ("--precision", precision, "--threads", str(threads), "--load", str(load))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.equal_runs", *given, "--runs", str(runs), *SMALL],
        cwd=ROOT,
        # Threads that spin while they wait would take minutes beside the other tests.
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seen: dict[str, int] = json.loads(done.stdout)
    return seen


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("precision", "threads", "runs"),
    # One thread has nobody to race with: fewer runs tell as much.
    [
        ("float32", 2, FEW),
        pytest.param("float32", 2, RUNS, marks=pytest.mark.long),
        pytest.param("bfloat16", 1, 50, marks=pytest.mark.long),
    ],
)
def test_equal_runs_end_with_equal_weights(precision: str, threads: int, runs: int) -> None:
    seen = equal_runs(precision, threads, runs)
    assert list(seen.values()) == [runs], seen
