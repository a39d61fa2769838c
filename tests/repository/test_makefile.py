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


def test_make_sets_up_again_where_the_folder_was_moved(tmp_path: Path) -> None:
    """The programs of a virtual environment name the interpreter by its whole path."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    ready = tmp_path / ".venv/ready"
    for file in (tmp_path / "pyproject.toml", tmp_path / "requirements/constraints.txt", ready):
        file.parent.mkdir(exist_ok=True)
        file.touch()

    def plan() -> str:
        command = ["make", "--dry-run", "demo"]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    ready.write_text("/before/.venv\n")
    (stamp,) = [line for line in plan().splitlines() if ">.venv/ready" in line]
    subprocess.run(stamp, shell=True, cwd=tmp_path, check=True)
    assert ready.read_text() == f"{tmp_path}/.venv\n"
    assert "-m venv" not in plan()


def test_make_without_python_says_what_to_install(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements/constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(["make", "PYTHON=", "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "modkernel needs Python 3.11" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_whole_check_installs_what_a_bare_machine_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname"):
        (folder / name).symlink_to(str(shutil.which(name)))
    (folder / "apt-get").write_text('#!/bin/sh\necho "$@" >>asked\n')
    (folder / "apt-get").chmod(0o755)
    script = tmp_path / "checkout/.ci/run"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", script)
    subprocess.run([script], env={"PATH": str(folder)}, capture_output=True)
    asked = (tmp_path / "checkout/asked").read_text().split()
    assert {"chromium", "git", "make", "python3", "python3-venv"} <= set(asked)


def test_make_test_runs_every_check() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert tool in plan
    assert "make test" in (ROOT / ".ci/run").read_text()
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
