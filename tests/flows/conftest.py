"""Fixtures: a Prefect server for the session, and homes whose databases are made already."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from modkernel.flows.plans import datasets
from modkernel.flows.runtime import shared
from modkernel.registry import Registry, Settings
from modkernel.system.locks import locked
from tests.flows.helpers.servers import Up, running_up, surroundings
from tests.flows.helpers.specs import tiny
from tests.registry.conftest import close_mlflow

_running: dict[str, ExitStack] = {}
"""What ends each server of `SERVED` that runs."""


@contextmanager
def _shared(name: str) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        _running[name] = stack
        yield stack


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the servers that the next test does not use: their tests come one after the other."""
    for name, stack in _running.items():
        if name not in getattr(nextitem, "fixturenames", ()):
            stack.close()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The URL of the API of a bare Prefect server, which this process' flows use."""
    with _shared("prefect_server") as stack:
        stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with empty databases that knows the digits already; one for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared_folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    settings = Settings(home=shared_folder / "template" / "home")
    done = settings.home.parent / "done"
    settings.home.parent.mkdir(exist_ok=True)
    with locked(settings.home.parent / "lock"):
        if not done.exists():
            before = os.umask(0o077)
            with Registry.open(settings) as registry:
                datasets.describe(registry, tiny().dataset)
            close_mlflow(settings.mlflow_uri)
            migrate_prefect(settings)
            os.umask(before)
            done.touch()
    return settings.home


def migrate_prefect(settings: Settings) -> None:
    """Make the tables of the home's Prefect, which takes its server seconds at its first start."""
    folder = settings.home / "prefect"
    folder.mkdir(mode=0o700)
    ours = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
        env=ours | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def up(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A `modkernel up` that tests share which disturb nothing in it."""
    home = tmp_path_factory.mktemp("up") / "ein Häuschen & mehr"
    shutil.copytree(template, home)
    environment, _, _ = surroundings(home)
    with _shared("up") as stack:
        yield stack.enter_context(running_up(home, environment))


@pytest.fixture
def registry(
    template: Path, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """The registry that flows of this test use, in a home of its own; leases of two seconds."""
    home = tmp_path / "home"
    shutil.copytree(template, home)
    monkeypatch.setenv("MODKERNEL_HOME", str(home))
    monkeypatch.setenv("MODKERNEL_LEASE_SECONDS", "2")
    monkeypatch.setenv("MODKERNEL_CPU_SLOTS", str(os.cpu_count()))  # One thread a child.
    opened = shared.open_registry()
    yield opened
    opened.close()
    close_mlflow(opened.settings.mlflow_uri)
    shared._open.cache_clear()


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """Commands in this process choose a Prefect server by the environment: for one test only."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
