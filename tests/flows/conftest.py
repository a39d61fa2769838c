"""Fixtures: a Prefect server for the session, and homes whose databases are made already."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from modkernel.flows.plans import datasets
from modkernel.flows.runtime import shared
from modkernel.registry import Registry, Settings
from tests.flows.helpers.specs import tiny
from tests.registry.conftest import close_mlflow


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with empty databases that knows the digits already."""
    settings = Settings(home=tmp_path_factory.mktemp("template") / "home")
    with Registry.open(settings) as registry:
        datasets.describe(registry, tiny().dataset)
    close_mlflow(settings.mlflow_uri)
    return settings.home


@pytest.fixture
def registry(
    template: Path, prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
