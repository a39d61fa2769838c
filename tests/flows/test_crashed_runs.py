"""A run whose process is gone is Crashed, and starts again by itself: real servers, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger

from modkernel.flows.servers.automations import AGAIN, CRASHED, GONE, RESTARTS
from modkernel.flows.servers.prefect_password import prefect_password
from modkernel.flows.servers.up import UpState, running
from modkernel.registry import Registry, Settings
from tests.flows.helpers.prefect_client import deployment, prefect_client
from tests.flows.helpers.processes import ROOT, engines_of, processes_of, wait_until
from tests.flows.helpers.servers import Up, get, running_up, surroundings
from tests.flows.helpers.specs import endless, tiny
from tests.flows.test_kills import KILLED_AFTER, assert_stored_once, epochs_reported

LONG = 120
"""Epochs of the module that is killed: some seconds."""
SILENT = timedelta(seconds=45)
"""Instead of two minutes; more than between two heartbeats."""
GIVEN_UP = 30
"""Seconds after which a run that is not started again never will be: it takes less than ten."""

pytestmark = [
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@contextmanager
def doomed_up(home: Path, environment: dict[str, str]) -> Iterator[UpState]:
    """`modkernel up`, all of which the block kills; nothing is left if it fails before."""
    settings = Settings(home=home)
    command = [sys.executable, "-m", "modkernel.flows.cli", "up"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL):
        try:
            wait_until(lambda: running(settings) is not None, 200, "up has started")
            state = running(settings)
            assert state is not None
            yield state
        finally:
            kill_all(home)


def kill_all(home: Path) -> None:
    """SIGKILL to every process of a home at once: up, serve, engine, children, servers."""
    while found := processes_of(home):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def automation(client: SyncPrefectClient, name: str) -> Automation:
    (found,) = client.read_automations_by_name(name)
    return found


def change(client: SyncPrefectClient, found: Automation, **changes: Any) -> None:
    """As a person does in Prefect's page."""
    changed = AutomationCore(**found.model_dump(exclude={"id", "owner_resource"}) | changes)
    client.update_automation(found.id, changed)


def is_heard_of(url: str, password: str, run: UUID) -> bool:
    asked = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "any_resource": {"id": [f"prefect.flow-run.{run}"]},
        }
    }
    return bool(json.loads(get(f"{url}/api/events/filter", asked, password))["events"])


def states(client: SyncPrefectClient, run: FlowRun) -> list[tuple[str | None, str | None]]:
    found = sorted(client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
    return [(state.name, state.message) for state in found]


def test_a_run_whose_processes_are_killed_starts_again(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    environment, _, _ = surroundings(home)
    environment["MODKERNEL_LEASE_SECONDS"] = "2"
    spec = tiny("gone", epochs=(1, LONG))
    with doomed_up(home, environment) as up, prefect_client(up.prefect_url, home) as client:
        found = automation(client, CRASHED)
        assert isinstance(found.trigger, EventTrigger)
        quick = found.trigger.model_copy(update={"within": SILENT})
        change(client, found, trigger=quick)
        run = client.create_flow_run_from_deployment(
            deployment(client, "train-network").id,
            parameters={"spec": spec.model_dump(mode="json")},
        )
        password = prefect_password(Settings(home=home))
        wait_until(lambda: is_heard_of(up.prefect_url, password, run.id), 60, "a heartbeat")
        with Registry.open(Settings(home=home)) as registry:
            wait_until(
                lambda: len(epochs_reported(registry, "linear2")) >= KILLED_AFTER,
                120,
                "the second module trains",
            )
        kill_all(home)

    with running_up(home, environment) as up, prefect_client(up.prefect, home) as client:
        trigger = automation(client, CRASHED).trigger
        assert isinstance(trigger, EventTrigger)
        assert trigger.within == SILENT, "what a person set stays"
        wait_until(
            lambda: client.read_flow_run(run.id).state_type == StateType.COMPLETED,
            300,
            "the run finishes",
        )
        ended = client.read_flow_run(run.id)
        assert ended.run_count == 2
        passed = states(client, ended)
        assert ("Crashed", GONE) in passed
        assert ("AwaitingRetry", AGAIN) in passed
    with Registry.open(Settings(home=home)) as registry:
        (network,) = registry.networks.find("gone")
        modules = registry.networks.members(network)
        assert_stored_once(registry, "gone", modules)
        done = registry.modules.report(modules[1]).history
        assert [line.epoch for line in done] == list(range(1, LONG + 1))


def test_a_run_that_crashes_again_and_again_is_given_up(up: Up) -> None:
    spec = endless("doomed")
    with prefect_client(up.prefect, up.home) as client:
        run = client.create_flow_run_from_deployment(
            deployment(client, "train-network").id,
            parameters={"spec": spec.model_dump(mode="json")},
        )
        for begun in range(1, RESTARTS + 2):
            runs = partial(is_running, client, run.id, begun)
            wait_until(runs, 300, f"start {begun}")
            for pid in engines_of(up.home):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda runs=runs: not runs(), 60, "the crash is seen")
        time.sleep(GIVEN_UP)
        ended = client.read_flow_run(run.id)
    assert (ended.state_type, ended.run_count) == (StateType.CRASHED, 1 + RESTARTS)


def is_running(client: SyncPrefectClient, run: UUID, begun: int) -> bool:
    """Whether a run is in hand for the so-manieth time."""
    found = client.read_flow_run(run)
    return (found.state_type, found.run_count) == (StateType.RUNNING, begun)
