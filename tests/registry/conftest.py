"""Fixtures: a home that is a copy of one that was made before, a real PostgreSQL, small modules."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from modkernel.registry import ModuleRecord, Registry, Settings
from tests.registry.helpers.examples import Examples
from tests.registry.helpers.stored_homes import close_mlflow, copy_home, pour_registry

__all__ = ["close_mlflow"]
POSTGRES_PARAM = pytest.param("postgresql", marks=pytest.mark.postgres)
LONG_POSTGRES = [pytest.mark.postgres, pytest.mark.long]
seldom_postgres = pytest.mark.parametrize(
    "any_settings", ["sqlite", pytest.param("postgresql", marks=LONG_POSTGRES)], indirect=True
)
"""Marks tests of what both kinds of database do alike, without a lock: PostgreSQL is long."""


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database, with its tables and nothing in it, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    copy_home(tmp_path_factory, "empty", folder)
    return folder / "mlflow.db"


@pytest.fixture
def settings(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Settings]:
    """Settings of a home that holds what the mark 'home' names, or nothing; leases of one second.

    Both databases have their tables.
    """
    for name in [name for name in os.environ if name.startswith("MODKERNEL_")]:
        monkeypatch.delenv(name)
    marker = request.node.get_closest_marker("home")
    held = "empty" if marker is None else marker.args[0]
    copy_home(tmp_path_factory, held, tmp_path / "home", tmp_path / "trained")
    made = Settings(home=tmp_path / "home", lease_seconds=1)
    yield made
    close_mlflow(made.mlflow_uri)


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture
def other_settings(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, settings: Settings
) -> Iterator[Settings]:
    """Settings of a second home, which is empty."""
    copy_home(tmp_path_factory, "empty", tmp_path / "other")
    made = Settings(home=tmp_path / "other", lease_seconds=1)
    yield made
    close_mlflow(made.mlflow_uri)


@pytest.fixture
def other(other_settings: Settings) -> Iterator[Registry]:
    with Registry.open(other_settings) as opened:
        yield opened


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    """Trained modules: in the folder where those lie that a home holds."""
    return Examples(tmp_path / "trained")


@pytest.fixture
def records(registry: Registry) -> tuple[ModuleRecord, ...]:
    """The modules that the home holds, in the order in which they were stored."""
    return registry.modules.find()


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server of our own."""

    url: str
    """Without a database name."""
    control: list[Any]
    options: str
    folder: Path

    def start(self) -> None:
        command = [*self.control, "-o", self.options, "-l", self.folder / "log", "start"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def stop(self, mode: str = "fast") -> None:
        command = [*self.control, "-m", mode, "stop"]
        subprocess.run(command, stdout=subprocess.DEVNULL, cwd=self.folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries (initdb, postgres) on this machine")
    folder = Path(tempfile.mkdtemp(prefix="modkernel-postgres-"))
    as_owner: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    data, port = folder / "data", free_port()
    initdb = [binaries / "initdb", "-D", data, "-U", "modkernel", "-A", "trust", "--no-sync"]
    subprocess.run([*as_owner, *initdb], check=True, capture_output=True, cwd=folder)
    server = Postgres(
        f"postgresql://modkernel:secret-word@127.0.0.1:{port}",
        [*as_owner, binaries / "pg_ctl", "-D", data, "-w"],
        f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off",
        folder,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(postgres: Postgres) -> str:
    """URL of a server of our own, without a database name."""
    return postgres.url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of an empty database."""
    url = f"{postgres_server}/postgres"
    engine = create_engine(url.replace("://", "+psycopg://"))
    with engine.begin() as connection:
        # Much cheaper than a database a test, which is a thousand files.
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url


@pytest.fixture(params=["sqlite", POSTGRES_PARAM])
def any_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """The settings, over each kind of database in turn."""
    if request.param == "sqlite":
        return settings
    url = request.getfixturevalue("postgres_url")
    made = Settings(home=settings.home, lease_seconds=1, database_url=url)
    if request.node.get_closest_marker("home") is not None:
        pour_registry(settings, made)
    return made


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _postgres_binaries() -> Path | None:
    found = shutil.which("initdb")
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found is not None:
        candidates.insert(0, Path(found).resolve().parent)
    for folder in candidates:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_ctl")):
            return folder
    return None
