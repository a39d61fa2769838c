"""The doctor and a Prefect server that does, or does not, create the runs of schedules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from modkernel.flows.servers.scheduler_check import due_schedules
from tests.flows.helpers.commands import run_here
from tests.flows.helpers.processes import free_ports

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 180
DOCTOR = """
import sys
from modkernel.flows.servers import scheduler_check
scheduler_check.without_runs.__defaults__ = (float(sys.argv.pop(1)),)
from modkernel.flows.cli import main
main()
"""


@contextmanager
def prefect_server(home: Path, port: int, scheduler: bool) -> Iterator[str]:
    """A Prefect server with or without its scheduler: the URL of its API."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": str(scheduler),
    }
    url, log = f"http://127.0.0.1:{port}/api", home.with_suffix(".log")
    with log.open("w") as told:
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def deploy(name: str, schedule: SCHEDULE_TYPES, active: bool = True, paused: bool = False) -> None:
    """A deployment that nobody serves, in the server of the settings in force."""
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("anything")
        client.create_deployment(
            flow,
            name,
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=active)],
            paused=paused,
        )


def examine(home: Path, url: str, patience: float) -> dict[str, Any]:
    """What `modkernel doctor` finds of schedules, when it waits at most so many seconds."""
    done = subprocess.run(
        [sys.executable, "-c", DOCTOR, str(patience), "doctor", "--json"],
        cwd=ROOT,
        env=os.environ | {"MODKERNEL_HOME": str(home), "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    found = {one["check"]: one for one in json.loads(done.stdout)}["schedules"]
    assert done.returncode == (1 if found["status"] == "wrong" else 0), done.stdout
    return dict(found)


@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_doctor_says_so_when_schedules_create_no_runs(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    prefect, home = tmp_path / "prefect", tmp_path / "home"
    prefect.mkdir()
    hourly, daily = CronSchedule(cron="0 * * * *"), IntervalSchedule(interval=timedelta(days=1))
    far = IntervalSchedule(
        interval=timedelta(days=900), anchor_date=datetime.now(UTC) + timedelta(days=400)
    )
    with prefect_server(prefect, port, scheduler=False) as url:
        with temporary_settings({PREFECT_API_URL: url}):
            deploy("hourly", hourly)
            deploy("daily", daily)
            deploy("far-away", far)
            deploy("switched-off", hourly, active=False)
            deploy("paused", hourly, paused=True)
            with get_client(sync_client=True) as client:
                assert sorted(due_schedules(client).values()) == ["daily", "hourly"]
        found = examine(home, url, patience=1)
        assert found["status"] == "wrong"
        assert "no scheduled runs for daily, hourly" in found["found"]
        assert "SCHEDULER_ENABLED" in found["remedy"]
    with prefect_server(prefect, port, scheduler=True) as url:
        assert examine(home, url, patience=200)["status"] == "ok"


def test_the_doctor_says_that_the_server_is_not_there(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("MODKERNEL_HOME", str(shutil.copytree(template, tmp_path / "home")))
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    done = run_here("doctor", "--json")
    found = {one["check"]: one for one in json.loads(done.out)}["schedules"]
    assert (found["status"], done.code) == ("wrong", 1)
    assert "does not answer" in found["found"]
