"""Real MLflow servers as child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError

from modkernel.registry import Settings

ROOT = Path(__file__).parents[3]


@contextmanager
def mlflow_server(settings: Settings, port: int, files: Path) -> Iterator[str]:
    """Address of a tracking server over a home's database, which keeps artifacts in `files`."""
    address = f"http://127.0.0.1:{port}"
    command = [
        *("server", "--backend-store-uri", settings.mlflow_uri, "--host", "127.0.0.1"),
        *("--port", str(port), "--workers", "1", "--artifacts-destination", str(files)),
    ]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(command, f"{address}/health", environment):
        yield address


@contextmanager
def serving(command: list[str], health: str, environment: dict[str, str]) -> Iterator[None]:
    """A real server as a child process, until it answers and then until the block ends."""
    # MLflow looks for uvicorn on the path, as it is in an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryFile() as said:  # A pipe that nobody reads would fill up and stop it.
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path} | environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not _answers(health):
                assert process.poll() is None, f"{command} ended"
                time.sleep(0.2)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            said.seek(0)
            print(said.read().decode())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
