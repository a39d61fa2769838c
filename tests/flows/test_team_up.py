"""A team on one machine: what `modkernel up` serves is one of its machines, for flows."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.states import Cancelling

from modkernel.registry import Settings
from modkernel.spec import NetworkSpec
from tests.flows.helpers.prefect_client import deployment, prefect_client, wait_for_end
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import running_up, surroundings
from tests.flows.helpers.specs import endless, tiny

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.timeout(900)]


def test_up_becomes_a_machine_of_a_team_that_is_made_while_it_runs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment, _, _ = surroundings(home)
    log = home / "logs" / "deployments.log"
    with running_up(home, environment) as up, prefect_client(up.prefect, home) as client:
        train = deployment(client, "train-network").id

        def started(spec: NetworkSpec) -> UUID:
            parameters = {"spec": spec.model_dump(mode="json")}
            return client.create_flow_run_from_deployment(train, parameters=parameters).id

        def state_of(run: UUID) -> str | None:
            return client.read_flow_run(run).state_name

        in_hand = started(endless("before"))
        begun, work = "*/progress.jsonl", Settings(home=home).work_dir
        wait_until(lambda: any(work.glob(begun)), 300, "it trains: nothing of it is sent elsewhere")
        made = up.shell()("team", "init")
        assert made.code == 0, made.err
        assert "Made work pool 'gpu'" in made.err
        told = "The server has a team by now"
        wait_until(lambda: told in log.read_text(), 120, "what serves has seen the team")
        assert state_of(in_hand) == "Running"
        client.set_flow_run_state(in_hand, Cancelling())
        assert wait_for_end(client, in_hand).state_name == "Cancelled"

        run = started(tiny("team"))
        assert wait_for_end(client, run).state_name == "Completed"
        assert {one.name: one.work_pool_name for one in client.read_flow_runs()}["team"] == "flows"


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
            stderr=subprocess.DEVNULL,
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
