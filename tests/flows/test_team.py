"""A team: servers, workers and a client on hosts of their own, with what goes wrong between them.

Training sleeps where it should take long: cores are short here. All else is real.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from tests.flows.helpers.hosts import can_make_hosts
from tests.flows.helpers.team import Team, team

pytestmark = [
    pytest.mark.servers,
    pytest.mark.postgres,
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not can_make_hosts(), reason="cannot make network namespaces here"),
]

SLOW = """
import time
from torch import nn
from modkernel.backbones import Block

class Slow(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
    def forward(self, x):
        if self.training:
            time.sleep(self.seconds)
        return x

def linear(takes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8))

def blocks(spec):
    # A batch of digits takes so long, and an epoch has five of them.
    return [Block("one", lambda takes: nn.Sequential(Slow(spec.width / 1000), linear(takes)))]
"""
BATCHES = 5
"""Of the digits' training part at batch size 256."""


def backbone(epoch_seconds: float) -> dict[str, Any]:
    return {"name": "slow:blocks", "width": round(1000 * epoch_seconds / BATCHES)}


def network(name: str, epochs: int, epoch_seconds: float) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": {"name": "digits"},
        "backbone": backbone(epoch_seconds),
        "hidden": [{"kernel": {"name": "relu"}, "recipe": recipe(epochs)}],
        "output": {"labels_per_class": 1, "method": "ridge"},
        "seed": crc32(name.encode()),  # A module of its own, whoever asks.
    }


def recipe(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": 256}


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Servers, two machines with two devices each, and one for the flows that wait."""
    folder = tmp_path_factory.mktemp("team")
    code = folder / "code"
    code.mkdir()
    (code / "slow.py").write_text(SLOW)
    with team(["one", "two", "client"], folder) as found:
        for host in found.hosts.values():
            host.environment["PYTHONPATH"] += f":{code}"
            host.environment |= {"MODKERNEL_SPREAD": "always", "MODKERNEL_CPU_SLOTS": "2"}
        found.work("client", "flows")
        for name in ("one", "two"):
            found.work(name, "gpu")
        patiently(lambda: workers(found) == 4, 200, "four workers poll")
        yield found


def patiently(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds; each look is a process, which workers need the cores for."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(3)


def workers(found: Team) -> int:
    listed = found.ask("/work_pools/gpu/workers/filter", {})
    return sum(one["status"] == "ONLINE" for one in listed)


def start(found: Team, flow: str, parameters: dict[str, Any], *tags: str) -> str:
    """A run as a person starts it in Prefect's page: its id."""
    id = found.ask(f"/deployments/name/{flow}/{flow}", method="GET")["id"]
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "tags": list(tags)}
    return str(found.ask(f"/deployments/{id}/create_flow_run", body)["id"])


def run(found: Team, id: str) -> dict[str, Any]:
    return dict(found.ask(f"/flow_runs/{id}", method="GET"))


def wait_for(found: Team, id: str, state: str, seconds: float) -> dict[str, Any]:
    def is_there() -> bool:
        now = run(found, id)["state"]
        assert now["type"] in (state, "SCHEDULED", "PENDING", "RUNNING", "CRASHED"), now
        return bool(now["type"] == state)

    patiently(is_there, seconds, f"run is {state}")
    return run(found, id)


def host_of(one: dict[str, Any]) -> str:
    return str(one["labels"]["prefect.worker.name"]).partition(" ")[0]


def children(found: Team, name: str) -> list[dict[str, Any]]:
    return [one for one in found.runs("module-work") if one["name"].startswith(name)]


def test_a_study_of_eight_tasks_uses_both_machines_at_once(squad: Team) -> None:
    tasks = [f"{a}, {b}" for a, b in ("01", "23", "45", "67", "89", "02", "13", "46")]
    study = {
        "name": "eight",
        "dataset": {"name": "digits"},
        "tasks": tasks,
        "backbone": {"name": "slow:blocks", "width": 1500},
        "hidden": {"kernel": {"name": "relu"}, "recipe": {"epochs": 4, "batch_size": 256}},
    }
    began = time.monotonic()
    wait_for(squad, start(squad, "transfer-study", {"spec": study}), "COMPLETED", 900)
    trained = children(squad, "eight.")
    print(f"{time.monotonic() - began:.0f} s", Counter(map(host_of, trained)), len(trained))
    assert set(map(host_of, trained)) == {"one", "two"}
    assert most_at_once(trained) >= 3


def most_at_once(runs: list[dict[str, Any]]) -> int:
    spans = [(one["start_time"], one["end_time"]) for one in runs]
    return max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans)


def test_sixteen_modules_take_little_more_than_their_own_time(squad: Team) -> None:
    minute = 60.0
    candidates = [
        {"kernel": {"name": "relu"}, "recipe": recipe(10) | {"learning_rate": 0.01 + n / 1000}}
        for n in range(16)
    ]
    search = {
        "name": "sixteen",
        "dataset": {"name": "digits"},
        "backbone": backbone(minute / 10),
        "stages": [{"candidates": candidates}],
        "score": "lda",
        "output": {"method": "ridge"},
    }
    wait_for(squad, start(squad, "search-modules", {"spec": search}), "COMPLETED", 900)
    runs = children(squad, "sixteen.hidden-1")
    took = seconds_between(
        min(one["created"] for one in runs), max(one["end_time"] for one in runs)
    )
    ideal = len(runs) / 4 * minute
    print(f"{took:.0f} s, {took / ideal:.2f} x the ideal time", Counter(map(host_of, runs)))
    begun = min(one["created"] for one in runs)
    for one in runs:  # Which part of it went where.
        spans = [seconds_between(begun, one[name]) for name in ("start_time", "end_time")]
        print(one["labels"]["prefect.worker.name"], *(f"{at:.1f}" for at in spans))
    assert len(runs) == 16
    assert set(map(host_of, runs)) == {"one", "two"}
    assert took <= 1.25 * ideal


def test_a_flow_that_is_cancelled_ends_its_modules(squad: Team) -> None:
    flow, at_work = doomed(squad, "unwanted")
    cancel = {"state": {"type": "CANCELLING"}}
    squad.ask(f"/flow_runs/{flow}/set_state", cancel)

    def ended(id: str) -> bool:
        return bool(run(squad, id)["state"]["type"] == "CANCELLED")

    patiently(lambda: ended(at_work["id"]), 90, "the module's run is cancelled")
    patiently(lambda: ended(flow), 90, "the flow is cancelled")


def in_hand(found: Team, name: str) -> dict[str, Any] | None:
    """The run of a module that is at work, and has written checkpoints."""
    runs = [one for one in children(found, name) if one["state_type"] == "RUNNING"]
    if not runs:
        return None
    log = (found.hosts[host_of(runs[0])].folder / "worker.log").read_text()
    return runs[0] if f"Task run '{name}' - Epoch 3 of" in log else None


def doomed(found: Team, name: str) -> tuple[str, dict[str, Any]]:
    """A network whose module takes a minute and a half: its run, and the module's, at work."""
    flow = start(found, "train-network", {"spec": network(name, epochs=24, epoch_seconds=4)})
    module = f"{name}.hidden-1"
    patiently(lambda: in_hand(found, module) is not None, 240, "the module is in hand")
    time.sleep(6)  # A checkpoint of the last epoch is on its way.
    at_work = in_hand(found, module)
    assert at_work is not None
    return flow, at_work


def assert_stored_once(found: Team, name: str) -> None:
    listed = found.hosts["client"].modkernel("modules", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    names = [one["name"] for one in json.loads(listed.stdout)]
    assert names.count(f"{name}.hidden-1") == 1
    assert names.count(f"{name}.output") == 1


def epochs_after(found: Team, host: str, name: str) -> list[int]:
    log = (found.hosts[host].folder / "worker.log").read_text()
    return [int(n) for n in re.findall(rf"Task run '{name}' - Epoch (\d+) of", log)]


def epochs_done(found: Team, host: str) -> int:
    """Epochs that children of a host have done, of what is not stored yet."""
    folder = found.hosts[host].folder / "home" / "work"
    return sum(file.read_text().count('"epoch"') for file in folder.glob("*/progress.jsonl"))


def test_a_machine_that_dies_is_replaced_and_training_goes_on(squad: Team) -> None:
    for name in ("one", "two"):  # Every few minutes, unless it is set: that takes cores, too.
        squad.hosts[name].environment["MODKERNEL_CHECKPOINT_SECONDS"] = "2"
        squad.stop_work(name)
        squad.work(name, "gpu")
    patiently(lambda: workers(squad) == 4, 200, "four workers poll")
    flow, at_work = doomed(squad, "killed")
    dead = host_of(at_work)
    (other,) = {"one", "two"} - {dead}
    done = max(epochs_after(squad, dead, "killed.hidden-1"))
    squad.hosts[dead].kill()
    began = time.monotonic()

    def crashed_or_again() -> bool:
        """It may run again before it is looked at."""
        found = run(squad, at_work["id"])
        return found["run_count"] > 1 or found["state"]["name"] != "Running"

    patiently(crashed_or_again, 180, "it is Crashed")
    crashed = time.monotonic() - began
    wait_for(squad, flow, "COMPLETED", 600)
    resumed = epochs_after(squad, other, "killed.hidden-1")
    print(f"Crashed after {crashed:.0f} s, done after {time.monotonic() - began:.0f} s:", resumed)
    assert 1 < resumed[0] <= done + 1
    assert_stored_once(squad, "killed")
    squad.work(dead, "gpu")
    patiently(lambda: workers(squad) == 4, 200, "four workers poll again")


def test_a_machine_without_network_for_two_minutes_goes_on(squad: Team) -> None:
    flow, at_work = doomed(squad, "cut")
    cut = host_of(at_work)
    squad.hosts[cut].unplug()
    before = epochs_done(squad, cut)
    time.sleep(120)
    assert epochs_done(squad, cut) > before + 10, "it trained meanwhile"
    squad.hosts[cut].plug_in()
    wait_for(squad, flow, "COMPLETED", 600)
    assert_stored_once(squad, "cut")


def test_all_servers_start_again_in_the_middle(squad: Team) -> None:
    flow, _ = doomed(squad, "restarted")
    squad.restart_postgres()
    for name in ("prefect", "mlflow"):
        squad.stop_service(name)
        time.sleep(10)
        squad.start_service(name)
    wait_for(squad, flow, "COMPLETED", 600)
    assert_stored_once(squad, "restarted")


def test_runs_go_where_the_data_are(squad: Team) -> None:
    x = np.random.default_rng(0).normal(size=(240, 6)).astype("float32")
    y = np.arange(240) % 3
    x[:, 0] += 4 * y
    for name in ("client", "two"):
        np.savez(squad.hosts[name].folder / "cells.npz", x=x, y=y)
    # On each machine elsewhere, under one name.
    for name in ("client", "one", "two"):
        squad.stop_work(name)
        squad.hosts[name].environment["MODKERNEL_DATA_PATHS"] = (
            f"cells={squad.hosts[name].folder / 'cells.npz'}"
        )
    squad.work("client", "flows")
    for name in ("one", "two"):
        squad.work(name, "gpu")
    patiently(lambda: workers(squad) == 4, 200, "four workers poll again")
    spec = network("cells", 1, 0.1) | {
        "dataset": {"name": "arrays", "path": "cells"},
        "backbone": {"name": "mlp", "width": 8, "depth": 1},
    }
    wait_for(squad, start(squad, "train-network", {"spec": spec}), "COMPLETED", 200)
    assert {host_of(one) for one in children(squad, "cells.")} == {"two"}
    (squad.hosts["two"].folder / "cells.npz").unlink()
    began = time.monotonic()
    spec |= {"name": "lost", "seed": 1}
    flow = start(squad, "train-network", {"spec": spec})
    failed = wait_for(squad, flow, "FAILED", 150)
    asked = children(squad, "lost.")[0]
    waited = seconds_between(asked["created"], failed["end_time"])
    print(f"{time.monotonic() - began:.0f} s, {waited:.0f} s after the module's run was made")
    told = failed["state"]["message"]
    assert "No machine can take this run: one lacks data set" in told
    assert "; two lacks data set" in told
    assert waited < 60


def seconds_between(one: str, other: str) -> float:
    return (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds()
