"""Networks whose hidden modules are trained in one pass: stored, reused, resumed, told apart."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from modkernel.errors import SpecError, StoreError
from modkernel.flows.compose_network import compose_network
from modkernel.flows.plans.network import plan
from modkernel.flows.plans.steps import stored_already
from modkernel.flows.runtime.events import EpochDone, Event, watch
from modkernel.flows.tasks.work_folder import left_work
from modkernel.flows.train_network import train_network
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.modules import Modules
from modkernel.spec import NetworkSpec
from tests.flows.helpers.specs import tiny
from tests.flows.test_kills import LONG, assert_stored_once, start_flow, until


def together(name: str, epochs: int = 2) -> NetworkSpec:
    return tiny(name, epochs=(epochs, epochs)).changed(train="together")


def events_of(registry: Registry) -> list[dict[str, Any]]:
    """What the children of the group have reported."""
    for job in registry.settings.work_dir.glob("*/job.json"):
        path = job.with_name("progress.jsonl")
        if json.loads(job.read_text())["kind"] == "together" and path.exists():
            return [json.loads(line) for line in path.read_text().splitlines() if line[-1:] == "}"]
    return []


def test_each_module_is_stored_by_itself_and_found_again(registry: Registry) -> None:
    spec = together("pass")
    events: list[Event] = []
    with watch(events.append):
        result = train_network(spec)
    assert result.trained_modules == 3
    lower, upper = (registry.modules.resolve(one.id) for one in result.modules[:2])
    assert lower.spec.kind == upper.spec.kind == "hidden"
    assert lower.spec.together is not None
    assert upper.spec.together == lower.spec.together.changed(position=2)
    assert upper.spec.interface.stands_on == (lower.id,)
    assert_stored_once(registry, "pass", result.modules)
    assert not list(left_work(registry))
    for name in ("pass.hidden-1", "pass.hidden-2"):
        told = [e for e in events if isinstance(e, EpochDone) and e.module == name]
        assert [event.epoch for event in told] == [1, 2]
    model = registry.backends.client.get_model_version("pass.hidden-2", "1")
    assert "module 2 of 2 that were trained together" in (model.description or "")
    assert model.tags["together"] == lower.spec.together.group[:12]

    again = train_network(spec.changed(name="again"))
    assert [one.id for one in again.modules] == [one.id for one in result.modules]
    assert again.reused_modules == 3
    for other in (spec.changed(train="in turn"), spec.changed(seed=1)):
        assert stored_already(registry, plan(registry, other)) == ()


@pytest.mark.long
def test_a_killed_flow_and_its_child_are_resumed(registry: Registry, tmp_path: Path) -> None:
    spec = together("killed", LONG)
    flow, _ = start_flow(spec, tmp_path)

    def epochs() -> list[int]:
        return [e["epoch"] for e in events_of(registry) if e["event"] == "epoch"]

    until(lambda: len(epochs()) >= 5 or flow.poll() is not None)
    assert flow.poll() is None, (tmp_path / "flow.log").read_text()
    (started,) = (e for e in events_of(registry) if e["event"] == "started")
    flow.kill()
    os.kill(started["pid"], signal.SIGKILL)
    flow.wait()
    assert not list(left_work(registry)), "it has the checkpoint"
    events: list[Event] = []
    with watch(events.append):
        result = train_network(spec)
    later = [e.epoch for e in events if isinstance(e, EpochDone) and e.module == "killed.hidden-2"]
    assert later[0] > 5
    assert later == list(range(later[0], LONG + 1))
    assert result.trained_modules == 3
    assert_stored_once(registry, "killed", result.modules)


@pytest.mark.long
def test_what_is_left_between_two_modules_is_stored_without_training(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = together("half"), Modules.store

    def fail(self: Modules, *args: Any, **kwargs: Any) -> ModuleRecord:
        if kwargs["name"] == "half.hidden-2":
            raise StoreError("The store is away.")
        return store(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Modules, "store", fail)
        with pytest.raises(StoreError, match="away"):
            train_network(spec)
    (lower,) = registry.modules.find()
    events: list[Event] = []
    with watch(events.append):
        result = train_network(spec)
    assert not [e for e in events if isinstance(e, EpochDone) and "hidden" in e.module]
    assert result.modules[0].id == lower.id
    assert_stored_once(registry, "half", result.modules)
    alone = compose_network("alone", [lower.id], output=spec.output)
    assert alone.modules[0].id == lower.id
    assert alone.evaluation is not None


def test_what_cannot_share_a_pass_is_refused_before_anything_is_trained(
    registry: Registry,
) -> None:
    unequal = tiny("unequal", epochs=(1, 2)).changed(train="together")
    with pytest.raises(SpecError, match=r"hidden\[1\].recipe differs .* in epochs \(2 and 1\)"):
        train_network(unequal)
    assert not registry.modules.find()
