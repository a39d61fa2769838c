"""`modkernel up` for real: both servers answer, the deployments are served, one at a time.

The fixture `up` runs it in a folder that holds packages of the user's own called flows, registry
and tests, and sees that nothing is left of it after Ctrl-C.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from modkernel.errors import ServiceError
from modkernel.flows.maintenance import NAME
from modkernel.flows.servers import up as servers
from modkernel.registry import Settings
from modkernel.registry.sql.engine import VERSION_TABLE
from tests.flows.helpers.own_packages import OWN
from tests.flows.helpers.prefect_client import deployment, prefect_client, wait_for_end
from tests.flows.helpers.processes import descendants, free_ports
from tests.flows.helpers.servers import Up, get, refused, surroundings

DEPLOYMENTS = {
    "compose-network",
    "maintenance",
    "train-baseline",
    "train-module",
    "train-network",
}


def test_a_database_of_another_version_is_told_once(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    with closing(sqlite3.connect(home / "registry.db")) as connection, connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")
    environment, _, _ = surroundings(home)
    assert "has schema version 0001, this program needs" in refused(environment, "up")


def test_what_killed_the_preparation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    mlflow, prefect = free_ports(2)
    settings = Settings(home=tmp_path / "home", mlflow_port=mlflow, prefect_port=prefect)
    with pytest.raises(ServiceError, match="was ended by SIGKILL: nothing was started"):
        servers.up(settings, print)


@pytest.mark.servers
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_up_starts_and_serves(up: Up) -> None:
    assert f"{up.mlflow}/#/models?workflowType=machine_learning" in up.told
    assert up.prefect in up.told
    assert get(f"{up.mlflow}/health") == "OK"
    assert "<html" in get(f"{up.mlflow}/")
    assert json.loads(get(f"{up.prefect}/api/health")) is True
    assert "<html" in get(f"{up.prefect}/").lower()
    deployments = json.loads(get(f"{up.prefect}/api/deployments/filter", {}, up.password))
    assert {one["name"] for one in deployments} >= DEPLOYMENTS

    state = servers.running(Settings(home=up.home))
    assert state is not None
    assert (state.pid, state.prefect_url) == (up.process.pid, up.prefect)
    assert len(descendants(up.process.pid)) >= 3
    assert "already runs" in refused(up.environment, "up", folder=up.folder)
    loaded = Path(f"/proc/{state.pid}/maps").read_text()
    assert "/python3" in loaded
    assert "numpy" not in loaded, "it keeps no more in memory than it needs for weeks"

    assert {package.name for package in up.folder.iterdir()} == set(OWN)
    with prefect_client(up.prefect, up.home) as client:
        run = client.create_flow_run_from_deployment(deployment(client, NAME).id)
        assert wait_for_end(client, run.id).state_type == StateType.COMPLETED
