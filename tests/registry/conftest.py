"""Fixtures: a home on copied templates, a real PostgreSQL, small stored modules."""

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
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as ModelStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as RunStore
from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry
from sqlalchemy import create_engine, text

from modkernel.registry import Registry, Settings
from modkernel.registry.tracking.client import open_mlflow
from tests.registry.helpers.examples import Examples

POSTGRES_PARAM = pytest.param("postgresql", marks=pytest.mark.postgres)


def close_mlflow(uri: str) -> None:
    """MLflow keeps one engine and one client a database for the life of the process.

    Another test's database may have the same address, and none of the tables yet.
    """
    for kept in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        kept._get_store_with_resolved_uri.cache_clear()
    for store in (RunStore, ModelStore):
        engine = store._engine_map.pop(uri, None)
        if engine is not None:
            engine.dispose()


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(home=tmp_path_factory.mktemp("template"))
    open_mlflow(settings)
    close_mlflow(settings.mlflow_uri)
    return settings.home / "mlflow.db"


@pytest.fixture
def settings(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings of a home with MLflow's tables made; leases of one second."""
    for name in [name for name in os.environ if name.startswith("MODKERNEL_")]:
        monkeypatch.delenv(name)
    made = Settings(home=tmp_path / "home", lease_seconds=1)
    made.ensure_home()
    shutil.copyfile(mlflow_template, made.home / "mlflow.db")
    yield made
    close_mlflow(made.mlflow_uri)


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture
def other_settings(tmp_path: Path, mlflow_template: Path, settings: Settings) -> Iterator[Settings]:
    """Settings of a second home."""
    made = Settings(home=tmp_path / "other", lease_seconds=1)
    made.ensure_home()
    shutil.copyfile(mlflow_template, made.home / "mlflow.db")
    yield made
    close_mlflow(made.mlflow_uri)


@pytest.fixture
def other(other_settings: Settings) -> Iterator[Registry]:
    with Registry.open(other_settings) as opened:
        yield opened


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    return Examples(tmp_path / "trained")


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
    return Settings(home=settings.home, lease_seconds=1, database_url=url)


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
