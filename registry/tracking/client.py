"""Open MLflow's store; an empty SQLite store is made whole, once, and appears complete."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import (
    _get_latest_schema_revision,
    _initialize_tables,
    _upgrade_db,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from modkernel.errors import SchemaVersionError, StoreError
from modkernel.registry.settings import Settings, masked, sqlite_path
from modkernel.registry.tracking.errors import failure, first_line
from modkernel.registry.tracking.login import PASSWORD, USER, log_in
from modkernel.registry.tracking.moved import follow_home
from modkernel.system.files import has_no_room, replace_file
from modkernel.system.locks import locked
from modkernel.system.outages import tell_away

# It logs the whole traceback of each error of its database, which we tell in one sentence.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
API = "/api/2.0/mlflow"
"""How the paths of MLflow's requests begin."""
REFUSED = "UNAUTHENTICATED"
"""Code by which it refuses whoever does not log in."""
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""The setting of MLflow's client, which it reads for every request."""


def open_mlflow(settings: Settings) -> MlflowClient:
    """A client of the tracking URI, which is made this process's default too.

    Raises:
        SchemaVersionError: MLflow's database has another schema version than this MLflow.
        StoreError: it cannot be reached.
    """
    path = sqlite_path(settings.mlflow_uri)
    if path is not None:
        _make_sqlite(path, settings)
        _check_version(path, settings)
        follow_home(path, settings)
    if settings.mlflow_uri.startswith("http"):
        os.environ.setdefault(RETRIES, str(retries(settings.outage_seconds)))
        _tell_of_retries(settings)
        log_in(settings)
    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)
    try:
        client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if getattr(error, "error_code", None) == REFUSED:
            raise StoreError(
                f"MLflow at {masked(settings.mlflow_uri)} asks for a login: set {USER} and "
                f"{PASSWORD} to one of its accounts."
            ) from error
        raise StoreError(
            f"{failure(settings.mlflow_uri, error)} Start it, or correct MODKERNEL_MLFLOW_URI."
        ) from error
    return client


class _Retries(logging.Handler):
    """Tells whoever watches that MLflow is waited for, which its HTTP library tells its log."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(logging.WARNING)
        self.what = f"MLflow at {masked(settings.mlflow_uri)}"
        self.seconds = settings.outage_seconds

    def emit(self, record: logging.LogRecord) -> None:
        path = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        if str(record.msg).startswith("Retrying") and str(path).startswith(API):
            tell_away(self.what, self.seconds)


def retries(seconds: int) -> int:
    """How often MLflow's client has to ask again to wait for so many seconds at least.

    It asks again at once, then after 4, 8, ... 64 s, then every 120 s; nine times at most.
    """
    return min(9, max(1, math.ceil(math.log2(seconds + 4)) - 1))


def _tell_of_retries(settings: Settings) -> None:
    """Of this server from now on; the log does not say of which one it speaks."""
    log = logging.getLogger("urllib3.connectionpool")
    log.handlers = [one for one in log.handlers if not isinstance(one, _Retries)]
    log.addHandler(_Retries(settings))


def upgrade_mlflow(settings: Settings) -> None:
    """Bring MLflow's own database, or an empty one, to the schema of the installed MLflow.

    Raises:
        StoreError: it cannot be upgraded, or the tracking URI is a server, which upgrades itself.
    """
    if "://" not in settings.mlflow_uri or settings.mlflow_uri.startswith("http"):
        raise StoreError(
            f"{masked(settings.mlflow_uri)} is a server: upgrade the database where it runs "
            "('mlflow db upgrade URL')."
        )
    path = sqlite_path(settings.mlflow_uri)
    if path is not None:
        _make_sqlite(path, settings)
    settings.ensure_home()
    engine = create_engine(settings.mlflow_uri)
    try:
        with locked(settings.home / "mlflow.lock"):
            # The migrations change tables that they expect to be there.
            if inspect(engine).has_table("alembic_version"):
                _upgrade_db(engine)
            else:
                _initialize_tables(engine)
    except Exception as error:  # alembic raises its own errors beside SQLAlchemy's
        raise StoreError(
            f"MLflow's database {masked(settings.mlflow_uri)} cannot be upgraded: "
            f"{first_line(error)}. Use the MLflow that wrote it."
        ) from error
    finally:
        engine.dispose()


def _make_sqlite(path: Path, settings: Settings) -> None:
    """Make MLflow's tables in a temporary file and put it there whole: nobody sees it half-made.

    Several processes that migrate one empty file leave it unusable, and so does one that is killed.
    """
    if _has_tables(path):
        return
    settings.ensure_home()
    with locked(settings.home / "mlflow.lock"):
        if _has_tables(path):
            return
        try:
            with tempfile.TemporaryDirectory() as folder:
                new = Path(folder) / "mlflow.db"
                store = SqlAlchemyStore(f"sqlite:///{new}", settings.artifact_root.as_uri())
                store.engine.dispose()
                with closing(sqlite3.connect(new)) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
                replace_file(path, new.read_bytes(), durable=True)
        except OSError as error:
            raise StoreError(
                f"MLflow's database {path} cannot be made: {error.strerror}. Correct "
                "MODKERNEL_MLFLOW_URI and 'artifact_root'."
            ) from error


def _has_tables(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    return bool(_select(path, "SELECT name FROM sqlite_master LIMIT 1"))


def _check_version(path: Path, settings: Settings) -> None:
    found = None
    if _select(path, "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"):
        rows = _select(path, "SELECT version_num FROM alembic_version")
        found = rows[0][0] if rows else None
    expected = _get_latest_schema_revision()
    if found != expected:
        raise SchemaVersionError(
            f"MLflow's database {masked(settings.mlflow_uri)} has schema version {found}, "
            f"MLflow {mlflow.__version__} needs {expected}: back it up, then run "
            "'modkernel doctor --upgrade'."
        )


def _select(path: Path, query: str) -> list[tuple[str, ...]]:
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error as error:
        if has_no_room(path.parent):
            raise StoreError(
                f"The disk of MLflow's database {path} is full: free some space, then run the same "
                "command again."
            ) from error
        raise StoreError(
            f"MLflow's database {path} cannot be read: {error}. Move it away, or correct "
            "MODKERNEL_MLFLOW_URI."
        ) from error
