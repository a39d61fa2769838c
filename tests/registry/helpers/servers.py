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
    """Address of a tracking server over a home's database, which keeps artifacts in `files`.

    It is what `mlflow server` runs, with the variables that it sets: its imports take seconds.
    """
    address = f"http://127.0.0.1:{port}"
    command = ["mlflow.server.fastapi_app:app", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "_MLFLOW_SERVER_FILE_STORE": settings.mlflow_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": settings.mlflow_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(files),
    }
    with serving(command, f"{address}/health", environment, module="uvicorn"):
        yield address


@contextmanager
def serving(
    command: list[str], health: str, environment: dict[str, str], module: str = "mlflow"
) -> Iterator[None]:
    """A real server as a child process, until it answers and then until the block ends."""
    # MLflow looks for uvicorn on the path, as it is in an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryFile() as said:  # A pipe that nobody reads would fill up and stop it.
        process = subprocess.Popen(
            [sys.executable, "-m", module, *command],
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
