"""Real file systems that are full: one sentence, and the same command works once there is room."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.flows.helpers.commands import SMALL, Done, shell
from tests.modkernel.helpers.small_disk import small_disk


@pytest.fixture
def disks() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


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
    with shell(tmp_path / "work") as run:  # It ends before the file systems that it used.
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
            failed = run(*train, **changes)
            subprocess.run(disk.grow, check=True)
            again, checked = run(*train), run("verify")
            assert "disk" in one_sentence(failed), name
            assert "full" in one_sentence(failed), name
            assert again.json["trained_modules"] >= 1, name
            assert checked.code == 0, (name, checked.err)
