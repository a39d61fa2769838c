from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from modkernel.errors import SchemaVersionError, StoreError
from modkernel.registry import Registry, Settings
from modkernel.registry.sql import claims
from modkernel.registry.sql import engine as engine_module
from modkernel.registry.sql.engine import VERSION_TABLE, _engine, open_database, upgrade_database
from modkernel.registry.sql.tables import SCHEMA_VERSION, Base, ClaimRow
from modkernel.registry.tracking.client import open_mlflow, upgrade_mlflow
from tests.modkernel.helpers.stored_examples import PREPROCESSING, hidden_spec
from tests.registry.conftest import close_mlflow


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of a home whose registry has no database yet."""
    (settings.home / "registry.db").unlink()
    return settings


def differences(settings: Settings) -> list[Any]:
    """Of a database's tables from the models'."""
    database = open_database(settings)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_server_default": True}
        )
        found = compare_metadata(context, Base.metadata)
    database.close()
    return list(found)


def test_migrations_make_exactly_the_tables_of_the_models(any_settings: Settings) -> None:
    assert differences(any_settings) == []


def test_the_expected_version_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "modkernel.registry.sql:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]


def test_many_open_an_empty_database_at_once(any_settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(open_database, [any_settings] * 8))
    for database in opened:
        with database.reading() as session:
            assert session.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")).all() == [
                SCHEMA_VERSION
            ]
        database.close()


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("0000", "modkernel doctor --upgrade"), ("9999", "pip install --upgrade modkernel")],
)
def test_another_schema_version_is_refused(
    any_settings: Settings, version: str, remedy: str
) -> None:
    database = open_database(any_settings)
    with database.writing() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
    database.close()
    with pytest.raises(SchemaVersionError, match=rf"{version}.*{SCHEMA_VERSION}.*{remedy}") as e:
        open_database(any_settings)
    assert "secret-word" not in str(e.value)


@pytest.mark.parametrize("version", ["0000", "0001x"])
def test_a_schema_version_that_nobody_made_is_not_upgraded(
    settings: Settings, version: str
) -> None:
    database = open_database(settings)
    with database.writing() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
    database.close()
    with pytest.raises(SchemaVersionError, match=rf"{version}, which no modkernel has made: re"):
        upgrade_database(settings)


FIRST_MODULE = """
INSERT INTO modules VALUES (
    'aaaa000000000000000000000000000000000000000000000000000000000000',
    :recipe_digest, 'old.hidden-1', 3, 'hidden', 'READY', :sha256, :sha256, 1234, :spec,
    '{}', '{"objective": 0.5}', '/gone', 12.5, '2025-02-03 04:05:06.000000', 'run', 'm-1'
)
"""
FIRST_INTERFACE = """
INSERT INTO interfaces VALUES (
    'aaaa000000000000000000000000000000000000000000000000000000000000',
    :upstream, '1x8x8', '16', 'float32', 'relu'
)
"""


FIRST_NETWORK = """
INSERT INTO networks VALUES (:id, 'old', '2025-02-03 04:05:06.000000', NULL, NULL)
"""


def make_first_database(settings: Settings) -> None:
    """A database as modkernel 0.1 left it, with a module."""
    spec = hidden_spec(("stem",), (1, 8, 8), (2, 8, 8), PREPROCESSING.id)
    values = {"recipe_digest": spec.digest(), "spec": spec.canonical_json(), "sha256": "5" * 64}
    engine = _engine(settings.registry_url)
    with engine.execution_options(modkernel_write=True).begin() as connection:
        config = Config()
        config.set_main_option("script_location", "modkernel.registry.sql:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text(FIRST_MODULE), values)
        connection.execute(text(FIRST_INTERFACE), {"upstream": PREPROCESSING.id})
        connection.execute(text(FIRST_NETWORK), {"id": "b" * 64})
    assert "moments" not in inspect(engine).get_table_names()
    engine.dispose()


def test_a_database_of_the_first_schema_is_upgraded_with_all_that_is_in_it(
    any_settings: Settings,
) -> None:
    make_first_database(any_settings)
    with pytest.raises(
        SchemaVersionError, match=rf"0001.*needs {SCHEMA_VERSION}.*doctor --upgrade"
    ):
        Registry.open(any_settings)
    assert upgrade_database(any_settings) == SCHEMA_VERSION
    assert differences(any_settings) == []
    with Registry.open(any_settings) as registry:
        (record,) = registry.modules.find()
        assert (record.name, record.version, record.metrics) == (
            "old.hidden-1",
            3,
            {"objective": 0.5},
        )
        assert record.created_at == datetime(2025, 2, 3, 4, 5, 6, tzinfo=UTC)
        assert registry.moments.of(record) == ()
        network = registry.networks.resolve("old")
        assert (network.id, network.created_at) == ("b" * 64, record.created_at)


def test_upgrading_what_is_up_to_date_changes_nothing(any_settings: Settings) -> None:
    open_database(any_settings).close()
    assert upgrade_database(any_settings) == SCHEMA_VERSION
    open_database(any_settings).close()


def test_a_newer_database_is_not_touched_by_an_upgrade(settings: Settings) -> None:
    database = open_database(settings)
    with database.writing() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.close()
    with pytest.raises(SchemaVersionError, match="install a newer modkernel"):
        upgrade_database(settings)


def test_an_error_leaves_nothing_half_written(any_settings: Settings) -> None:
    database = open_database(any_settings)

    def write_and_fail() -> None:
        with database.writing() as session:
            session.add(ClaimRow(key="k", owner="o", token="t", expires_at=0.0))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with database.reading() as session:
        assert session.get(ClaimRow, "k") is None
    database.close()


def test_sqlite_keeps_foreign_keys_and_readers_beside_a_writer(settings: Settings) -> None:
    database = open_database(settings)
    with database.reading() as session:
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
    with database.writing() as writer, database.reading() as reader:
        writer.add(ClaimRow(key="k", owner="o", token="t", expires_at=0.0))
        writer.flush()
        assert reader.get(ClaimRow, "k") is None
    database.close()


@pytest.mark.postgres
def test_postgresql_starts_no_workers_for_a_question(settings: Settings, postgres_url: str) -> None:
    database = open_database(Settings(home=settings.home, database_url=postgres_url))
    for _ in range(2):  # Also on a connection that is used again.
        with database.reading() as session:
            assert session.scalar(text("SHOW max_parallel_workers_per_gather")) == "0"
    database.close()


@pytest.mark.postgres
def test_postgresql_ends_a_transaction_of_a_stopped_writer(
    settings: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(Settings(home=settings.home, database_url=postgres_url))
    claim = claims.take(database, "k" * 64, "me", 30)
    monkeypatch.setattr(engine_module, "IDLE_MS", 200)
    assert claim is not None

    def stop_while_writing() -> None:
        with database.writing() as session:
            claim.check(session)
            time.sleep(1)  # As a process that is stopped: its lock on the claim is let go.
            claim.renew()
            claim.check(session)

    with pytest.raises(StoreError):
        stop_while_writing()
    with database.reading() as session:
        time.sleep(0.5)
        assert session.scalar(text("SELECT 1")) == 1, "who reads locks nothing"
    database.close()


@pytest.mark.postgres
def test_an_unreachable_database_names_itself_without_its_password(
    settings: Settings, postgres_url: str
) -> None:
    gone = Settings(home=settings.home, database_url=f"{postgres_url}_gone")
    with pytest.raises(StoreError, match=r"modkernel:\*\*\*@127.*MODKERNEL_DATABASE_URL") as caught:
        open_database(gone)
    assert "secret-word" not in str(caught.value)


def test_mlflows_empty_store_is_made_once_by_many(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with ThreadPoolExecutor(4) as pool:
        clients = list(pool.map(open_mlflow, [settings] * 4))
    assert [e.name for e in clients[0].search_experiments()] == ["Default"]
    with closing(sqlite3.connect(settings.home / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not list(settings.home.glob(".mlflow-*"))
    close_mlflow(settings.mlflow_uri)


def test_mlflows_database_of_another_version_is_refused(settings: Settings) -> None:
    path = settings.home / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'abc'")
    with pytest.raises(SchemaVersionError, match=r"version abc, MLflow .*doctor --upgrade"):
        Registry.open(settings)
    with pytest.raises(StoreError, match=r"cannot be upgraded: .*Use the MLflow that wrote it"):
        upgrade_mlflow(settings)


def test_what_is_no_database_is_refused(settings: Settings) -> None:
    (settings.home / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"cannot be read: .*MODKERNEL_MLFLOW_URI"):
        open_mlflow(settings)
    (settings.home / "registry.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"registry database .*failed"):
        open_database(settings)


@pytest.mark.parametrize("uri", ["/a/folder", "http://anna:hunter2@127.0.0.1:1"])
def test_an_mlflow_that_cannot_be_used_is_one_sentence(
    settings: Settings, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError, match=r"failed: .*MODKERNEL_MLFLOW_URI") as caught:
        open_mlflow(Settings(home=settings.home, mlflow_uri=uri))
    assert "hunter2" not in str(caught.value)


def test_an_mlflow_database_where_no_file_can_be_made(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    uri = f"sqlite:///{tmp_path}/file/mlflow.db"
    with pytest.raises(StoreError, match="cannot be made: File exists"):
        open_mlflow(Settings(home=settings.home, mlflow_uri=uri))


def test_upgrading_before_there_is_a_database_makes_one(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    upgrade_database(settings)
    upgrade_mlflow(settings)
    with Registry.open(settings) as registry:
        assert registry.modules.find() == ()
    close_mlflow(settings.mlflow_uri)


@pytest.mark.postgres
def test_upgrading_makes_mlflows_tables_in_an_empty_database(
    tmp_path: Path, postgres_url: str
) -> None:
    settings = Settings(home=tmp_path / "new", mlflow_uri=postgres_url)
    for _ in range(2):
        upgrade_mlflow(settings)
    assert [one.name for one in open_mlflow(settings).search_experiments()] == ["Default"]
    close_mlflow(settings.mlflow_uri)
