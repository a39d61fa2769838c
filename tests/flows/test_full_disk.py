"""Real file systems that are full: one sentence, and the same command works once there is room."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flows.helpers.commands import SMALL, Done, environment
from tests.flows.helpers.processes import ROOT
from tests.modkernel.helpers.small_disk import small_disk

# Each command with surroundings of its own, all in one process, as Prefect takes seconds to start.
STEPS = """
import contextlib, io, json, os, subprocess, sys
from modkernel.flows.cli import main
results = []
for changes, arguments, after in json.loads(sys.argv[1]):
    os.environ.update(changes)
    sys.argv = ["modkernel", *arguments]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
    for command in after:
        subprocess.run(command, check=True)
print(json.dumps(results))
"""


@pytest.fixture
def disks() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def in_one_process(steps: list[tuple[dict[str, str], list[str], list[list[str]]]]) -> list[Done]:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, json.dumps(steps)],
        cwd=ROOT,
        env=environment(Path(steps[0][0]["MODKERNEL_HOME"])),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [Done(*result) for result in json.loads(done.stdout)]


def one_sentence(done: Done) -> str:
    """What a failed command said last: the only line that is no progress."""
    assert done.code == 1, done
    assert done.out == ""
    assert "Traceback" not in done.err
    *_, last = done.err.strip().splitlines()
    assert last.startswith("modkernel: "), done.err
    return last


@pytest.mark.long
def test_training_and_storing_go_on_once_there_is_room(
    template: Path, tmp_path: Path, disks: ExitStack
) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text(SMALL)
    train = ["train", str(spec), "--json"]
    databases = {"registry.db": "DATABASE_URL", "mlflow.db": "MLFLOW_URI"}
    full = {"work": 20_000, "cache": 0, "artifacts": 30_000, "registry.db": 0, "mlflow.db": 0}
    steps: list[Any] = []
    for name, room in full.items():
        home = tmp_path / name
        shutil.copytree(template, home)
        changes = {
            "MODKERNEL_HOME": str(home),
            "MODKERNEL_DATABASE_URL": "",
            "MODKERNEL_MLFLOW_URI": "",
        }
        folder = home / name
        if name in databases:
            folder = tmp_path / "disks" / name
        disk = disks.enter_context(small_disk(folder))
        if name in databases:
            shutil.copyfile(home / name, folder / name)
            changes[f"MODKERNEL_{databases[name]}"] = f"sqlite:///{folder / name}"
        elif name == "cache":
            shutil.copytree(template / name, folder, dirs_exist_ok=True)
        disk.leave(room)
        steps += [(changes, train, [disk.grow]), (changes, train, []), (changes, ["verify"], [])]
    done = in_one_process(steps)
    for name, (failed, again, checked) in zip(
        full, zip(*[iter(done)] * 3, strict=True), strict=True
    ):
        assert "disk" in one_sentence(failed), name
        assert "full" in one_sentence(failed), name
        assert again.json["trained_modules"] >= 1, name
        assert checked.code == 0, (name, checked.err)
