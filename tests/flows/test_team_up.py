"""A team on one machine: what `modkernel up` serves is one of its machines, for flows."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.helpers.prefect_client import deployment, prefect_client, wait_for_end
from tests.flows.helpers.servers import running_up, surroundings
from tests.flows.helpers.specs import tiny

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.timeout(900)]


def test_up_and_a_worker_of_one_machine_are_a_team(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment, _, _ = surroundings(home)
    environment |= {"MODKERNEL_SPREAD": "always"}
    with running_up(home, environment) as before:
        made = before.shell()("team", "init")
        assert made.code == 0, made.err
        assert "Made work pool 'gpu'" in made.err
    with running_up(home, environment) as up:
        worker = subprocess.Popen(
            [sys.executable, "-m", "modkernel.flows.cli", "worker", "gpu"],
            cwd=up.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with prefect_client(up.prefect, home) as client:
                run = client.create_flow_run_from_deployment(
                    deployment(client, "train-network").id,
                    parameters={"spec": tiny("team").model_dump(mode="json")},
                )
                assert wait_for_end(client, run.id).state_name == "Completed"
                ended = client.read_flow_runs()
                pools = {one.name: one.work_pool_name for one in ended}
            assert pools["team"] == "flows"
            assert pools["team.hidden-1"] == "gpu"
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(90) == 0
