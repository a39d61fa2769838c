"""What MLflow finds in the environment: telemetry off, unless the user has set otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from modkernel.registry.tracking.environment import SURROUNDINGS

ROOT = Path(__file__).parents[2]
PRINT = (
    "import json, os, sys; import modkernel.registry; from mlflow.telemetry import utils; "
    "print(json.dumps([dict(os.environ), utils.is_telemetry_disabled()]))"
)


def after_import(**chosen: str) -> tuple[dict[str, str], bool]:
    """The environment of a process that imports the registry, and whether telemetry is off."""
    bare = {name: value for name, value in os.environ.items() if name not in SURROUNDINGS}
    for name in ("CI", "PYTEST_CURRENT_TEST"):  # where MLflow sends nothing anyway
        bare.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        env=bare | {"PYTHONPATH": str(ROOT)} | chosen,
        capture_output=True,
        check=True,
    )
    environment, off = json.loads(done.stdout)
    return environment, off


def test_importing_the_registry_turns_telemetry_off_before_mlflow_looks() -> None:
    environment, off = after_import()
    assert off
    assert SURROUNDINGS.items() <= environment.items()


def test_importing_the_registry_overrides_nothing_that_a_user_set() -> None:
    chosen = {name: "false" for name in SURROUNDINGS} | {"MLFLOW_LOGGING_LEVEL": "ERROR"}
    environment, _ = after_import(**chosen)
    assert chosen.items() <= environment.items()


def test_a_machine_without_git_is_told_nothing_of_it(tmp_path: Path) -> None:
    ask = "import modkernel.registry; from mlflow.utils.git_utils import get_git_commit as of; "
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"{ask}print(of('.'))"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("None\n", "")
