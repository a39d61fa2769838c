"""Whatever dies in the middle, the same call resumes it: real processes, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from modkernel.flows.runtime.events import EpochDone, Event, Note, watch
from modkernel.flows.runtime.results import ModuleResult, NetworkResult
from modkernel.flows.train_network import train_network
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import NetworkSpec
from tests.flows.helpers.specs import tiny

LONG = 80
"""Epochs of the module that is killed: some seconds."""
KILLED_AFTER = 5


def start_flow(spec: NetworkSpec, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Run the flow in a process, on the same home and the same Prefect server."""
    source, result = folder / "spec.json", folder / "result.json"
    source.write_text(spec.canonical_json())
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    with (folder / "flow.log").open("wb") as log:
        flow = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.helpers.run_flow", str(source), str(result)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return flow, result


def progress_of(registry: Registry, block: str) -> list[dict[str, Any]]:
    """What the children that train the module with this block have reported."""
    for job in registry.settings.work_dir.glob("*/job.json"):
        if block in (json.loads(job.read_text())["module"]["blocks"] or []):
            path = job.with_name("progress.jsonl")
            lines = path.read_text().splitlines() if path.exists() else []
            return [json.loads(line) for line in lines if line.endswith("}")]
    return []


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {seconds} s")


def epochs_reported(registry: Registry, block: str) -> list[int]:
    """The epochs that the children of `progress_of` have reported."""
    return [e["epoch"] for e in progress_of(registry, block) if e["event"] == "epoch"]


def assert_stored_once(
    registry: Registry, name: str, modules: Sequence[ModuleResult | ModuleRecord]
) -> None:
    """Three modules, each with one version, one run and every epoch once."""
    client = registry.backends.client
    assert {record.id for record in registry.modules.find()} == {module.id for module in modules}
    for module in modules:
        assert len(client.search_model_versions(f"name = '{module.name}'")) == 1
        steps = [m.step for m in client.get_metric_history(module.run_id or "", "objective")]
        epochs = len(registry.modules.report(registry.modules.resolve(module.id)).history)
        assert sorted(steps) == list(range(1, epochs + 1))
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id], f"tags.network = '{name}'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert not registry.verify()


def assert_resumed(registry: Registry, epochs: list[int], result: NetworkResult) -> None:
    """The second module's epochs after the kill are those that were left."""
    assert epochs[0] > KILLED_AFTER
    assert epochs == list(range(epochs[0], LONG + 1))
    history = registry.modules.report(registry.modules.resolve(result.modules[1].id)).history
    assert [line.epoch for line in history] == list(range(1, LONG + 1))
    assert_stored_once(registry, result.name, result.modules)


@pytest.mark.long
@pytest.mark.parametrize("with_child", [False, True], ids=["flow", "flow and child"])
def test_a_killed_flow_is_resumed(registry: Registry, tmp_path: Path, with_child: bool) -> None:
    spec = tiny("killed", epochs=(1, LONG))
    flow, _ = start_flow(spec, tmp_path)
    until(
        lambda: len(epochs_reported(registry, "linear2")) >= KILLED_AFTER or flow.poll() is not None
    )
    assert flow.poll() is None, (tmp_path / "flow.log").read_text()
    (started,) = (e for e in progress_of(registry, "linear2") if e["event"] == "started")
    flow.kill()
    if with_child:
        os.kill(started["pid"], signal.SIGKILL)
    flow.wait()
    events: list[Event] = []
    with watch(events.append):
        result = train_network(spec)
    assert [module.reused for module in result.modules] == [True, False, False]
    later = [e for e in events if isinstance(e, EpochDone) and e.module == "killed.hidden-2"]
    assert_resumed(registry, [event.epoch for event in later], result)


def test_a_killed_child_is_followed_by_another(registry: Registry) -> None:
    killed: list[int] = []
    later: list[int] = []

    def kill(event: Event) -> None:
        if not isinstance(event, EpochDone) or event.module != "killed.hidden-2":
            return
        children = [e for e in progress_of(registry, "linear2") if e["event"] == "started"]
        if not killed and event.epoch == KILLED_AFTER:
            os.kill(children[0]["pid"], signal.SIGKILL)
            killed.append(children[0]["pid"])
        elif len(children) == 2:
            later.append(event.epoch)

    with watch(kill):
        result = train_network(tiny("killed", epochs=(1, LONG)))
    assert killed
    assert result.trained_modules == 3
    assert_resumed(registry, later, result)


@pytest.mark.long
def test_four_flows_of_one_spec_make_one_network_and_one_run(
    registry: Registry, tmp_path: Path
) -> None:
    spec = tiny("both", epochs=(400, 20))
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    flows = [start_flow(spec, folder) for folder in folders]
    until(lambda: epochs_reported(registry, "linear1"))
    events: list[Event] = []
    with watch(events.append):
        results = [train_network(spec)]
    for (flow, path), folder in zip(flows, folders, strict=True):
        assert flow.wait(120) == 0, (folder / "flow.log").read_text()
        results.append(NetworkResult.model_validate_json(path.read_bytes()))
    assert sum(result.trained_modules for result in results) == 3
    assert sum(result.reused_modules for result in results) == 9
    assert len({result.id for result in results}) == 1
    told = [event.text for event in events if isinstance(event, Note)]
    (waited,) = {text.partition(" on ")[0] for text in told}
    processes = [flow.pid for flow, _ in flows]
    start = "both: another flow makes just this, which is waited for: process"
    assert waited in [f"{start} {process}" for process in processes]
    assert_stored_once(registry, spec.name, results[0].modules)
