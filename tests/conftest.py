"""What every test stands on: no telemetry, one thread, and a home folder of its own."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from modkernel.system.collector import collect_seldom

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

collect_seldom()  # A worker loads all that there is.
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


SERVED = {
    "up": (
        "browser/test_cancel",
        "browser/test_follow",
        "browser/test_forms",
        "browser/test_schedule",
        "browser/test_search_and_study",
        "browser/test_train_and_promote",
        "test_busy_server",
        "test_cli_up",
        "test_crashed_runs",
        "test_deploy",
        "test_error_lines",
        "test_faults_while_storing",
        "test_form_choices",
        "test_security",
        "test_signals",
    ),
    "prefect_server": (
        "test_advise",
        "test_claims",
        "test_data_check",
        "test_deployments",
        "test_flows",
        "test_follow",
        "test_image_folders",
        "test_kills",
        "test_joins",
        "test_labels",
        "test_measure_modules",
        "test_promote_module",
        "test_once",
        "test_retrain",
        "test_search",
        "test_seen",
        "test_team_init",
        "test_shared_checkpoints",
        "test_spread_labels",
        "test_stitch",
        "test_study",
        "test_together",
        "test_trust",
        "test_views",
    ),
}
"""Files of tests/flows by the server that they share, a fixture. Such a server takes a third of a
core even when nobody asks it: one worker runs all of its tests, and it ends with the last one."""
SERVER_OF = {f"tests/flows/{file}.py": name for name, files in SERVED.items() for file in files}


def pytest_collection_finish() -> None:
    """Nothing that is loaded by now ever goes: no later collection of garbage looks through it."""
    gc.freeze()


def file_of(nodeid: str) -> str:
    return nodeid.split("::", 1)[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first: a worker that began it last would end alone.

    All folders advance together: some wait much and others compute, and so the cores are busy.
    """
    slow = {item.path for item in items if item.get_closest_marker("servers")}
    place = {name: number for number, name in enumerate(SERVED)}
    folders: dict[Path, dict[Path, int]] = {}
    for item in items:
        files = folders.setdefault(item.path.parent, {})
        files.setdefault(item.path, len(files))

    def order(item: pytest.Item) -> tuple[int, bool, float]:
        used = [name for name in SERVED if name in getattr(item, "fixturenames", ())]
        file = file_of(item.nodeid)
        if used and file not in SERVER_OF:
            raise pytest.UsageError(f"{file} uses '{used[0]}': name it in SERVED, in {__file__}.")
        files = folders[item.path.parent]
        server = min((place[name] for name in used), default=len(place))
        return server, item.path not in slow, files[item.path] / len(files)

    items.sort(key=order)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal out whole files, and those that share a server to one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = file_of(nodeid)
            return SERVER_OF.get(file, file)

    return ByServer(config, log) if config.getvalue("dist") == "loadscope" else None
