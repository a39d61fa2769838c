"""`modkernel up` for real: both servers answer, the deployments are served, nothing is left.

It runs, as do a command and a run of a deployment, in a folder that holds packages of the user's
own called flows, registry and tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from modkernel.flows.maintenance import NAME
from modkernel.flows.servers.prefect_password import prefect_password
from modkernel.flows.servers.up import running
from modkernel.registry import Settings
from tests.flows.helpers.prefect_client import deployment, prefect_client, wait_for_end
from tests.flows.helpers.processes import ROOT, descendants, processes
from tests.flows.helpers.servers import get, surroundings

OWN = ("flows", "registry", "tests")
DEPLOYMENTS = {
    "compose-network",
    "maintenance",
    "train-baseline",
    "train-module",
    "train-network",
}


def own_folder(folder: Path) -> Path:
    """A folder with a package of each of our folders' names, which ends whoever imports it."""
    for name in OWN:
        package = folder / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise SystemExit('the user's own {name}')\n")
    return folder


@pytest.mark.servers
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_up_starts_serves_and_stops(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment, mlflow_port, prefect_port = surroundings(home)
    folder = own_folder(tmp_path / "project")
    environment["PYTHONPATH"] = os.pathsep.join((".", str(ROOT)))
    modkernel = [sys.executable, "-m", "modkernel.flows.cli"]
    command = [*modkernel, "up"]
    settings = Settings(home=home, mlflow_port=mlflow_port, prefect_port=prefect_port)
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "Ctrl-C stops" in line:
                    break
            told = "".join(said)
            mlflow, prefect = (f"http://127.0.0.1:{port}" for port in (mlflow_port, prefect_port))
            assert f"{mlflow}/#/models?workflowType=machine_learning" in told
            assert prefect in told

            assert get(f"{mlflow}/health") == "OK"
            assert "<html" in get(f"{mlflow}/")
            assert json.loads(get(f"{prefect}/api/health")) is True
            assert "<html" in get(f"{prefect}/").lower()
            password = prefect_password(settings)
            assert password not in told, "a log file may be read by others"
            assert str(home / "prefect-password") in told
            deployments = json.loads(get(f"{prefect}/api/deployments/filter", {}, password))
            assert {one["name"] for one in deployments} >= DEPLOYMENTS

            state = running(settings)
            assert state is not None
            assert (state.pid, state.prefect_url) == (process.pid, prefect)
            second = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert second.returncode == 1
            assert "already runs" in second.stderr

            demo = subprocess.run(
                [*modkernel, "demo"], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert demo.returncode == 0, demo.stderr
            with prefect_client(prefect, home) as client:
                run = client.create_flow_run_from_deployment(deployment(client, NAME).id)
                assert wait_for_end(client, run.id).state_type == StateType.COMPLETED

            family = descendants(process.pid)
            assert len(family) >= 3
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0
    deadline = time.monotonic() + 20
    while left := family & set(processes()):
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.1)
    assert running(settings) is None
    assert not (home / "up.json").exists()
