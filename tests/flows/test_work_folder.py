"""Work folders: which are of no use, which are given up, and which are waited for."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modkernel.flows.cli.delete import _garbage, _remove, gc
from modkernel.flows.tasks.work_folder import ABANDONED_DAYS, RESUMED, left_work
from modkernel.registry import Registry, Settings
from modkernel.spec import NetworkSpec
from tests.registry.conftest import close_mlflow
from tests.registry.helpers.examples import Examples, report_of

DAY = 86_400


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Iterator[Registry]:
    settings = Settings(home=Path(shutil.copytree(template, tmp_path / "home")))
    with Registry.open(settings) as opened:
        yield opened
    close_mlflow(settings.mlflow_uri)


def leave(registry: Registry, key: str, kind: str, days: float = 0) -> Path:
    """The work folder of a flow that died so long ago."""
    folder = registry.settings.work_dir / key
    checkpoint = folder / "checkpoint" / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(bytes(1000))
    (folder / "job.json").write_text(json.dumps({"kind": kind}))
    then = time.time() - days * DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))
    return folder


def garbage(registry: Registry) -> dict[tuple[str, str], int]:
    return {(one.kind, one.id): one.size_bytes for one in _garbage(registry)}


def test_training_that_nobody_has_gone_on_with_is_given_up(registry: Registry) -> None:
    old, new = ABANDONED_DAYS + 1, ABANDONED_DAYS - 1
    unfinished = [leave(registry, f"{n}" * 64, kind, old) for n, kind in enumerate(RESUMED)]
    leave(registry, "a" * 64, "hidden", new)
    lately = leave(registry, "b" * 64, "hidden", old)
    os.utime(lately / "checkpoint" / "checkpoint.safetensors")
    leave(registry, "c" * 64, "hidden", old)
    useless = leave(registry, "d" * 64, "measure")
    with registry.claim("c" * 64, "somebody"):
        found = garbage(registry)
        assert found.keys() == {
            ("work", str(useless)),
            *(("training", str(folder)) for folder in unfinished),
        }
        assert min(found.values()) > 1000
        assert list(left_work(registry)) == [useless], "maintenance leaves what may be resumed"
        for one in _garbage(registry):
            _remove(registry, one)
    kept = {folder.name[0] for folder in registry.settings.work_dir.iterdir()}
    assert kept == {"a", "b", "c"}
    assert f"{ABANDONED_DAYS} days" in (gc.__doc__ or "")


def test_the_folder_of_a_stored_baseline_is_left(registry: Registry, tmp_path: Path) -> None:
    folder = leave(registry, "d" * 64, "end_to_end")
    run_id = registry.baselines.start_run("net", NetworkSpec(name="net"), folder.name)
    assert list(left_work(registry)) == []
    report = report_of(Examples(tmp_path / "trained").chain()[-1])
    registry.baselines.store(run_id, report, {})
    registry.runs.finish(run_id)
    assert list(left_work(registry)) == [folder]
    assert garbage(registry).keys() == {("work", str(folder))}
