"""Do the installed versions work together? `make newest` runs this alone, on the newest ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from modkernel.flows.servers.up import running
from modkernel.registry import Settings
from tests.flows.helpers.servers import surroundings

ROOT = Path(__file__).parents[1]
UP_SECONDS = 600


@pytest.mark.servers
@pytest.mark.timeout(1500)
def test_a_schedule_creates_a_run_that_stores_its_modules(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment, mlflow_port, _ = surroundings(home)
    told = tmp_path / "up.log"
    with (
        told.open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "modkernel.flows.cli", "up"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + UP_SECONDS
            while running(Settings(home=home)) is None:
                assert process.poll() is None, told.read_text()
                assert time.monotonic() < deadline, told.read_text()
                time.sleep(0.5)
            done = subprocess.run(
                [sys.executable, "-m", "tests.flows.helpers.run_schedule"],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            run = json.loads(done.stdout)
            assert (run["state"]["name"], run["auto_scheduled"]) == ("Completed", True), run
            models = f"http://127.0.0.1:{mlflow_port}/api/2.0/mlflow/registered-models/search"
            with urllib.request.urlopen(models, timeout=60) as response:
                names = {model["name"] for model in json.load(response)["registered_models"]}
            assert names == {"tiny.hidden-1", "tiny.hidden-2", "tiny.output"}
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=90)
            finally:
                process.kill()
    assert process.returncode == 0, told.read_text()
