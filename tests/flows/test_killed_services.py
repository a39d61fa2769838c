"""What `modkernel up` runs is killed, one after the other, while a run goes on: it finishes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from modkernel.registry import Registry, Settings
from tests.flows.helpers.prefect_client import deployment, prefect_client
from tests.flows.helpers.processes import leaders, wait_until
from tests.flows.helpers.servers import running_up, surroundings
from tests.flows.helpers.specs import tiny
from tests.flows.test_kills import assert_stored_once, epochs_reported

SERVICES = ("mlflow server", "modkernel.flows.servers.prefect_server", "modkernel.flows.cli serve")
LONG = 1500
"""Epochs of the module that trains meanwhile: a minute or two."""

pytestmark = [
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def test_a_run_outlives_the_services_that_are_killed(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    environment, _, _ = surroundings(home)
    environment["MODKERNEL_LEASE_SECONDS"] = "2"
    spec = tiny("outlives", epochs=(1, LONG))
    with running_up(home, environment) as up, prefect_client(up.prefect, home) as client:
        run = client.create_flow_run_from_deployment(
            deployment(client, "train-network").id,
            parameters={"spec": spec.model_dump(mode="json")},
        )
        with Registry.open(Settings(home=home)) as registry:
            wait_until(lambda: bool(epochs_reported(registry, "linear2")), 300, "it trains")
        for command in SERVICES:
            (killed,) = leaders(home, command)
            os.kill(killed, signal.SIGKILL)
            again = f"{command} is started again"
            wait_until(lambda c=command, k=killed: bool(leaders(home, c) - {k}), 120, again)
        wait_until(
            lambda: client.read_flow_run(run.id).state_type == StateType.COMPLETED,
            600,
            "the run finishes",
        )
    with Registry.open(Settings(home=home)) as registry:
        (network,) = registry.networks.find("outlives")
        assert_stored_once(registry, "outlives", registry.networks.members(network))
