"""A team: servers, workers and a client on hosts of their own, with what goes wrong between them.

Training sleeps where it should take long: cores are short here. All else is real.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.helpers.hosts import can_make_hosts
from tests.flows.helpers.processes import wait_until
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
    # A batch of digits takes so long, and an epoch has six of them.
    return [Block("one", lambda takes: nn.Sequential(Slow(spec.width / 1000), linear(takes)))]
"""
BATCHES = 6
"""Of the digits' training part at batch size 256."""


def backbone(epoch_seconds: float) -> dict[str, Any]:
    return {"name": "slow:blocks", "width": round(1000 * epoch_seconds / BATCHES)}


def network(name: str, epochs: int, epoch_seconds: float, seed: int = 0) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": {"name": "digits"},
        "backbone": backbone(epoch_seconds),
        "hidden": [{"kernel": {"name": "relu"}, "recipe": recipe(epochs)}],
        "output": {"labels_per_class": 1, "method": "ridge"},
        "seed": seed,
    }


def recipe(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": 256}


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    code = folder / "code"
    code.mkdir()
    (code / "slow.py").write_text(SLOW)
    with team(["one", "two", "client"], folder) as found:
        for host in found.hosts.values():
            host.environment["PYTHONPATH"] += f":{code}"
            host.environment |= {
                "MODKERNEL_SPREAD": "always",
                "MODKERNEL_CPU_SLOTS": "2",
                "MODKERNEL_CHECKPOINT_SECONDS": "2",
            }
        for name in ("one", "two"):
            found.work(name)
        wait_until(lambda: workers(found) == 4, 200, "four workers poll")
        yield found


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

    wait_until(is_there, seconds, f"run is {state}")
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
