"""What every test stands on: no telemetry, one thread, and a home folder of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Before anything imports mlflow, prefect or torch. Tests that make a home of their own override
# MODKERNEL_HOME; this one is for those that forget, so that no test touches the user's.
_SCRATCH = tempfile.TemporaryDirectory(prefix="modkernel-tests-")
os.environ.update(
    {
        "MODKERNEL_HOME": str(Path(_SCRATCH.name) / "home"),
        "PREFECT_HOME": str(Path(_SCRATCH.name) / "prefect"),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
)

hypothesis.settings.register_profile("modkernel", deadline=None)
hypothesis.settings.load_profile("modkernel")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="where the core's tests compute (see helpers/devices.py): cpu, cuda, or auto",
    )


def pytest_configure(config: pytest.Config) -> None:
    os.environ["MODKERNEL_TEST_DEVICE"] = config.getoption("--device")
    # CUDA's matrix products repeat bit for bit only with it, and read it when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests first: a worker that began one last would end alone."""
    slow = {item.path for item in items if item.get_closest_marker("servers")}
    items.sort(key=lambda item: item.path not in slow)
