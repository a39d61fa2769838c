"""The make targets."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_make_sets_up_once_and_again_when_stale(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    pyproject, ready = tmp_path / "pyproject.toml", tmp_path / ".venv/ready"
    constraints = tmp_path / "requirements/constraints.txt"
    constraints.parent.mkdir()
    sources = (pyproject, constraints)

    def plan(target: str) -> str:
        command = ["make", "--dry-run", target]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    for source in sources:
        source.touch()
    for target in ("demo", "test"):
        assert "-m venv" in plan(target)
    ready.parent.mkdir()
    ready.touch()
    for source in sources:
        os.utime(source, (1, 1))
    for target in ("demo", "test"):
        assert "-m venv" not in plan(target)
    for source in sources:
        os.utime(source)
        os.utime(ready, (2, 2))
        assert "-m venv" in plan("demo")
        os.utime(source, (1, 1))
        assert "-m venv" not in plan("demo")


def test_make_test_runs_every_check() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert tool in plan
    assert "make test" in (ROOT / ".ci/run").read_text()
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
