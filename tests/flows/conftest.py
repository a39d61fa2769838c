"""Fixtures: a Prefect server for the session, and homes whose databases are made already."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import prefect
import pytest
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_URL,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from modkernel.flows.plans import datasets
from modkernel.flows.runtime import shared
from modkernel.registry import Registry, Settings
from tests.flows.helpers.certificates import self_signed
from tests.flows.helpers.servers import Up, running_up, surroundings
from tests.flows.helpers.specs import tiny
from tests.flows.helpers.trained import store_network
from tests.registry.helpers.stored_homes import close_mlflow, copy_home, made_once

BLANK = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)
"""A PNG of one white point."""
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
def prefect_server(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the API of a bare Prefect server, which this process' flows use.

    Its tables are those of the template, neither logs nor events are sent to it, and its clients
    load one certificate in place of a hundred: each of these is most of what a flow takes.
    """
    folder = tmp_path_factory.mktemp("prefect")
    shutil.copyfile(template / "prefect" / "prefect.db", folder / "prefect-test.db")
    lean = {
        PREFECT_LOGGING_TO_API_ENABLED: False,
        PREFECT_API_SSL_CERT_FILE: str(self_signed(folder, "127.0.0.1")[0]),
    }
    with _shared("prefect_server") as stack:
        EventsWorker.set_client_override(NullEventsClient)
        stack.callback(EventsWorker.set_client_override, None)
        stack.enter_context(temporary_settings(lean))
        with patch("prefect.testing.utilities.mkdtemp", lambda: str(folder)):
            stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A home with empty databases that knows the digits already; one for all workers."""
    fill = partial(_fill, tmp_path_factory, getattr(pytestconfig, "cache", None))
    return made_once(tmp_path_factory, "template", fill) / "home"


def _fill(factory: pytest.TempPathFactory, cache: pytest.Cache | None, folder: Path) -> None:
    settings = Settings(home=folder / "home")
    before = os.umask(0o077)
    settings.ensure_home()
    copy_home(factory, "empty", folder / "empty")
    # With rights of our umask.
    shutil.copyfile(folder / "empty" / "mlflow.db", settings.home / "mlflow.db")
    with Registry.open(settings) as registry:
        datasets.describe(registry, tiny().dataset)
    close_mlflow(settings.mlflow_uri)
    kept = folder if cache is None else cache.mkdir(f"prefect-{prefect.__version__}")
    if not (kept / "prefect.db").exists():
        new = kept / f"{os.getpid()}.db"  # Another run of the tests may be at it, too.
        shutil.copyfile(migrated_prefect(factory.mktemp("migrated")), new)
        new.replace(kept / "prefect.db")
    (settings.home / "prefect").mkdir(mode=0o700)
    shutil.copyfile(kept / "prefect.db", settings.home / "prefect" / "prefect.db")
    os.umask(before)


def migrated_prefect(folder: Path) -> Path:
    """A database with Prefect's tables: to make them takes half a minute, so pytest keeps it."""
    ours = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
        env=ours | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        check=True,
        capture_output=True,
    )
    return folder / "prefect.db"


@pytest.fixture(scope="session")
def up(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A `modkernel up` that tests share which disturb nothing in it."""
    home = tmp_path_factory.mktemp("up") / "ein Häuschen & mehr"
    shutil.copytree(template, home)
    environment, _, _ = surroundings(home)
    with _shared("up") as stack:
        yield stack.enter_context(running_up(home, environment))


@pytest.fixture(scope="session")
def trained_home(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that holds the network `net` of `tiny`, too."""
    settings = Settings(home=tmp_path_factory.mktemp("trained") / "home")
    shutil.copytree(template, settings.home)
    with Registry.open(settings) as registry:
        store_network(registry, tiny("net"))
    close_mlflow(settings.mlflow_uri)
    return settings.home


@contextmanager
def registry_of(home: Path) -> Iterator[Registry]:
    """The registry that flows of this process use; leases of two seconds."""
    os.environ["MODKERNEL_HOME"] = str(home)
    os.environ["MODKERNEL_LEASE_SECONDS"] = "2"
    os.environ["MODKERNEL_CPU_SLOTS"] = str(os.cpu_count())  # One thread a child.
    opened = shared.open_registry()
    try:
        yield opened
    finally:
        opened.close()
        close_mlflow(opened.settings.mlflow_uri)
        shared._open.cache_clear()


@pytest.fixture
def registry(
    template: Path, prefect_server: str, tmp_path: Path, blank_figures: None
) -> Iterator[Registry]:
    """The registry that flows of this test use, in a home of its own; see `registry_of`."""
    with registry_of(shutil.copytree(template, tmp_path / "home")) as opened:
        yield opened


@pytest.fixture
def with_net(
    trained_home: Path, prefect_server: str, tmp_path: Path, blank_figures: None
) -> Iterator[Registry]:
    """Like `registry`, with the network `net` in it."""
    with registry_of(shutil.copytree(trained_home, tmp_path / "home")) as opened:
        yield opened


@pytest.fixture
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of modules and networks are one white point, but where a test asks for `drawn`.

    To draw them takes a flow as long as all else in this process.
    """
    if "drawn" in request.fixturenames:
        return
    curve, judged = {"objective.png": BLANK}, {"evaluation.png": BLANK}
    monkeypatch.setattr(
        "modkernel.flows.display.figures.module_figures",
        lambda report, *_: (
            (curve if report.history else {}) | (judged if report.evaluation else {})
        ),
    )
    monkeypatch.setattr("modkernel.flows.display.figures.network_figure", lambda *_: BLANK)


@pytest.fixture
def drawn() -> None:
    """The figures of this test are real; see `blank_figures`."""


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """Commands in this process choose a Prefect server by the environment: for one test only."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
