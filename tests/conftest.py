"""What every test stands on: no telemetry, one thread, and a home folder of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

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


SERVERS = ("up", "prefect_server")
"""Fixtures that start servers which take a third of a core even when nobody asks them: all their
tests run in one worker, one after the other, and the servers end with the last of them."""


def shared_server(item: pytest.Item) -> str | None:
    """The fixture of `SERVERS` that a test uses, the first if it uses both."""
    names = getattr(item, "fixturenames", ())
    return next((name for name in SERVERS if name in names), None)


@pytest.hookimpl(tryfirst=True)  # Before xdist reads the groups.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first: a worker that began it last would end alone."""
    slow = {item.path for item in items if item.get_closest_marker("servers")}
    place = {**{name: number for number, name in enumerate(SERVERS)}, None: len(SERVERS)}
    items.sort(key=lambda item: (place[shared_server(item)], item.path not in slow))
    for item in items:
        if (name := shared_server(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal out files as a whole, but for the tests of a group."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFileOrGroup(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group: str = super()._split_scope(nodeid)
            return group.split("::", 1)[0]

    return ByFileOrGroup(config, log) if config.getvalue("dist") == "loadgroup" else None
