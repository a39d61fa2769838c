"""The registry's database: open, migrate an empty one, read and write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    create_engine,
    event,
    inspect,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from modkernel.errors import SchemaVersionError, StoreError
from modkernel.registry.records import Identity
from modkernel.registry.settings import Settings, masked, sqlite_path
from modkernel.registry.sql.tables import SCHEMA_VERSION, IdentityRow
from modkernel.system.files import disk_is_full, has_no_room
from modkernel.system.locks import locked
from modkernel.system.outages import patiently

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "modkernel_schema"
"""Beside alembic's own in one database."""
IDLE_MS = 30_000
"""Within a transaction that writes, until PostgreSQL ends it."""
BUSY_MILLISECONDS = 30_000
"""How long a writer waits for another one of a SQLite database."""
MIGRATION_LOCK = 0x6D6F646B
"""Key of PostgreSQL's advisory lock while an empty database is migrated."""

NOW_SECONDS = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())",
}
"""Seconds since 1970 by the database's own clock, so that machines need not agree on the time."""


@dataclass(frozen=True)
class Database:
    """An open database at the expected schema version. Safe to share between threads."""

    engine: Engine
    identity: Identity
    outage_seconds: int = 0
    """How long a server that is away is waited for when a session begins."""

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads.

        Raises:
            StoreError: the database failed; the message names it, without its password.
        """
        with (
            _translated(self.engine),
            self._connected(self.engine) as connection,
            Session(connection) as session,
        ):
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits at the end, or leaves nothing behind on an error.

        Raises:
            StoreError: the database failed; the message names it, without its password.
        """
        engine = self.engine.execution_options(modkernel_write=True)
        with (
            _translated(self.engine),
            self._connected(engine) as connection,
            Session(connection) as session,
            session.begin(),
        ):
            yield session

    def _connected(self, engine: Engine) -> Connection:
        """A connection that answered just now; its server is waited for where it is away."""
        return patiently(engine.connect, _named(engine), self.outage_seconds, _is_away)

    @property
    def now(self) -> ColumnElement[float]:
        """Seconds since 1970 by the database's clock."""
        return literal_column(NOW_SECONDS[self.engine.dialect.name], Float)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_database(settings: Settings) -> Database:
    """Open the registry's database; an empty one is migrated, by one process at a time.

    Raises:
        SchemaVersionError: it has another schema version than this program.
        StoreError: it cannot be reached.
    """
    settings.ensure_home()
    engine = _engine(settings.registry_url, settings.outage_seconds)
    with _translated(engine):
        found = _found_version(engine)
        if found is None:
            with locked(settings.home / "registry.lock"):
                _migrate(engine, only_if_empty=True)
            found = _found_version(engine)
    if found != SCHEMA_VERSION:
        engine.dispose()
        raise SchemaVersionError(_version_message(settings, found))
    with _translated(engine), engine.connect() as connection:
        row = connection.execute(select(IdentityRow.id, IdentityRow.has_untagged)).one()
        identity = Identity(row.id, row.has_untagged)
    return Database(engine, identity, settings.outage_seconds)


def upgrade_database(settings: Settings) -> str:
    """Bring the database to this program's schema version, which is returned.

    Raises:
        SchemaVersionError: the database is newer than this program, or of a version that no
            modkernel has made.
        StoreError: it cannot be reached.
    """
    settings.ensure_home()
    engine = _engine(settings.registry_url, settings.outage_seconds)
    try:
        with _translated(engine), locked(settings.home / "registry.lock"):
            found = _found_version(engine)
            if found is not None and found > SCHEMA_VERSION:
                raise SchemaVersionError(_version_message(settings, found))
            if found not in (None, *_known_versions()):
                raise SchemaVersionError(
                    f"The registry database {masked(settings.registry_url)} has schema version "
                    f"{found}, which no modkernel has made: restore it from a copy, or set "
                    "MODKERNEL_DATABASE_URL to another database."
                )
            _migrate(engine, only_if_empty=False)
    finally:
        engine.dispose()
    return SCHEMA_VERSION


def _engine(url: str, outage_seconds: int = 0) -> Engine:
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        from modkernel.registry.sql.answers import expect_answers

        event.listen(engine, "connect", _configure_postgresql)
        event.listen(engine, "begin", _begin_postgresql)
        expect_answers(engine, _named(engine), outage_seconds)
    return engine


def _named(engine: Engine) -> str:
    return f"The registry database {masked(engine.url.render_as_string(hide_password=False))}"


def _configure_sqlite(connection: Any, _: Any) -> None:
    # The driver would begin transactions by itself, and too late for BEGIN IMMEDIATE.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {BUSY_MILLISECONDS}",
        "foreign_keys = ON",
        "synchronous = FULL",  # What was told to be stored is stored, whatever happens then.
    ):
        connection.execute(f"PRAGMA {pragma}")


def _configure_postgresql(connection: Any, _: Any) -> None:
    # Of 100,000 modules any question takes a few milliseconds, and to start workers for it 35.
    connection.execute("SET max_parallel_workers_per_gather = 0")
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    # A process that is stopped while it writes holds what it has locked: others wait for this.
    if connection.get_execution_options().get("modkernel_write", False):
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer that begins as a reader fails at once when another writes in between.
    write = connection.get_execution_options().get("modkernel_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _found_version(engine: Engine) -> str | None:
    """Version of the schema; none if there is no table of ours."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        version = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return None if version is None else str(version)


def _known_versions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {
        script.revision for script in ScriptDirectory.from_config(_migrations()).walk_revisions()
    }


def _migrations() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "modkernel.registry.sql:migrations")
    return config


def _migrate(engine: Engine, only_if_empty: bool) -> None:
    from alembic import command

    if engine.dialect.name == "sqlite":
        with closing(engine.raw_connection()) as plain:
            plain.cursor().execute("PRAGMA journal_mode = WAL")
    with engine.execution_options(modkernel_write=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        if only_if_empty and inspect(connection).has_table(VERSION_TABLE):
            return
        config = _migrations()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _version_message(settings: Settings, found: str | None) -> str:
    remedy = (
        "install a newer modkernel (pip install --upgrade modkernel)"
        if found is not None and found > SCHEMA_VERSION
        else "back it up, then run 'modkernel doctor --upgrade'"
    )
    return (
        f"The registry database {masked(settings.registry_url)} has schema version {found}, "
        f"this program needs {SCHEMA_VERSION}: {remedy}."
    )


def _is_away(error: Exception) -> bool:
    """Whether a server does not answer; a SQLite file is never away."""
    return isinstance(error, OperationalError) and not isinstance(error.orig, sqlite3.Error)


def _lies_without_room(engine: Engine) -> bool:
    path = sqlite_path(engine.url.render_as_string())
    return path is not None and has_no_room(path.parent)


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        if disk_is_full(error) or _lies_without_room(engine):
            raise StoreError(
                f"The disk of {_named(engine)[0].lower()}{_named(engine)[1:]} is full: free some "
                "space, then run the same command again."
            ) from error
        said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        reason = " ".join(said.split()).rstrip(".")
        raise StoreError(
            f"{_named(engine)} failed: {reason}. "
            "Check that it runs and that MODKERNEL_DATABASE_URL is right ('modkernel doctor')."
        ) from error
