"""MLflow goes away, or the flow dies, while a real flow trains or stores: it ends all the same."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun, StateType

from modkernel.registry import Registry, Settings
from tests.flows.helpers.prefect_client import deployment, prefect_client
from tests.flows.helpers.processes import engines_of, free_ports, wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny
from tests.flows.test_kills import assert_stored_once, epochs_reported
from tests.flows.test_signals import START_SECONDS, command, what_it_said
from tests.registry.helpers.servers import mlflow_server

pytestmark = [
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
AWAY = 5.0
"""Seconds without MLflow's server."""
LONG = 400
"""Epochs of a module that trains for longer than that."""

PAUSED = """
import sys, time
from pathlib import Path
from modkernel.registry.modules import Modules

store, storing, on = Modules.store, Path(sys.argv.pop(1)), Path(sys.argv.pop(1))

def paused(self, *arguments, **named):
    storing.touch()
    while not on.exists():
        time.sleep(0.05)
    return store(self, *arguments, **named)

Modules.store = paused
from modkernel.flows.cli import main
main()
"""
"""The command line, which waits before it stores a module until a file is there."""


@pytest.mark.parametrize("when", ["training", "storing"])
def test_a_flow_outlives_mlflows_outage(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    (port,) = free_ports(1)
    far = Settings(home=tmp_path / "far")
    far.ensure_home()
    storing, on = tmp_path / "storing", tmp_path / "on"
    if when == "training":
        on.touch()
    monkeypatch.setenv("MODKERNEL_MLFLOW_URI", f"http://127.0.0.1:{port}")
    spec = tiny("away", epochs=(1, LONG))
    with ExitStack() as stack:
        server = stack.enter_context(ExitStack())
        server.enter_context(mlflow_server(far, port, tmp_path / "files"))
        process = stack.enter_context(command(home, spec, "-c", PAUSED, str(storing), str(on)))
        if when == "training":
            with Registry.open(Settings(home=home)) as registry:
                wait_until(
                    lambda: bool(epochs_reported(registry, "linear2")), START_SECONDS, "it trains"
                )
        else:
            wait_until(storing.exists, START_SECONDS, "a module is about to be stored")
        server.close()
        on.touch()
        time.sleep(AWAY)
        stack.enter_context(mlflow_server(far, port, tmp_path / "files"))
        told = what_it_said(process)
        assert process.returncode == 0, told
        assert "Traceback" not in told
        assert "waiting for it" in told
        with Registry.open(Settings(home=home)) as registry:
            (network,) = registry.networks.find("away")
            assert_stored_once(registry, "away", registry.networks.members(network))


def killed_while_storing(home: Path, name: str) -> bool:
    """Kill the run's process when a module of a network is PENDING; whether one still is then."""
    ask, modules = "SELECT state FROM modules WHERE name LIKE ?", (f"{name}.%",)
    with closing(sqlite3.connect(f"file:{home / 'registry.db'}?mode=ro", uri=True)) as rows:

        def pending() -> bool:
            return ("PENDING",) in rows.execute(ask, modules).fetchall()

        deadline = time.monotonic() + START_SECONDS
        while not pending():
            assert time.monotonic() < deadline, "nothing was stored"
            time.sleep(0.002)
        for pid in engines_of(home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pending()


def test_a_served_run_that_is_killed_while_it_stores_stores_once(up: Up) -> None:
    with prefect_client(up.prefect, up.home) as client:
        for attempt in range(5):
            spec = tiny(f"cut-{attempt}", seed=1000 + attempt)
            run = client.create_flow_run_from_deployment(
                deployment(client, "train-network").id,
                parameters={"spec": spec.model_dump(mode="json")},
            )
            half = killed_while_storing(up.home, spec.name)

            def completed(run: FlowRun = run) -> bool:
                return client.read_flow_run(run.id).state_type == StateType.COMPLETED

            wait_until(completed, START_SECONDS, "the run finishes")
            if half:
                break
        assert half, "no kill came while a module was being stored"
        assert client.read_flow_run(run.id).run_count == 2
    with Registry.open(Settings(home=up.home)) as registry:
        (network,) = registry.networks.find(spec.name)
        for module in registry.networks.members(network):
            versions = registry.backends.client.search_model_versions(f"name = '{module.name}'")
            assert len(versions) == 1
        assert not registry.verify()
