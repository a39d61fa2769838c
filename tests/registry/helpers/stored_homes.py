"""Homes that hold something already: made once a run of all tests, and copied for each test.

To store a module takes longer than most tests of what is stored. A test says with
`@pytest.mark.home("chain")` what its home holds when it begins; without that it is empty.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import pytest
from mlflow.store.db import utils as db_utils
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as ModelStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as RunStore
from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from sqlalchemy import delete, insert, select

from modkernel.registry import Registry, Settings
from modkernel.registry.bundles.write import export_bundle
from modkernel.registry.sql.engine import open_database
from modkernel.registry.sql.tables import Base, IdentityRow
from modkernel.registry.tracking import client
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.system.locks import locked
from tests.registry.helpers.bundles import store_network
from tests.registry.helpers.compiled import share_compiled_statements
from tests.registry.helpers.examples import (
    EVALUATION,
    Examples,
    store_chain,
    store_one,
    write_example_moments,
)
from tests.registry.helpers.joined import store_joined
from tests.registry.helpers.mixed import PACKAGE, store_mixed

# That of the installed MLflow, which reads all of its migrations for it, twice an opening.
latest_revision = cache(db_utils._get_latest_schema_revision)
db_utils._get_latest_schema_revision = client._get_latest_schema_revision = latest_revision
share_compiled_statements()
BUNDLE = "network.mkb"
"""The file among the trained modules of 'bundle' and 'mixed' that their network was exported to."""


def _store_network(registry: Registry, trained: Path) -> None:
    records = store_chain(registry, Examples(trained).chain())
    registry.networks.add("net", [record.id for record in records], EVALUATION)


def _store_bundle(registry: Registry, trained: Path) -> None:
    made = store_network(registry, Examples(trained), trained)
    export_bundle(registry, made.id, trained / BUNDLE)


def _store_mixed(registry: Registry, trained: Path) -> None:
    made = store_mixed(registry, trained)
    export_bundle(registry, made.id, trained / BUNDLE)


def _store_versions(registry: Registry, trained: Path) -> None:
    for seed in range(3):
        store_one(registry, Examples(trained).first(seed))


def _store_measured(registry: Registry, trained: Path) -> None:
    stored = Examples(trained).first()
    write_example_moments(stored.folder / MOMENTS_FILE, stored.id)
    store_one(registry, stored)


HOMES: dict[str, Callable[[Registry, Path], object]] = {
    "empty": lambda *_: None,
    "chain": lambda registry, trained: store_chain(registry, Examples(trained).chain()),
    "network": _store_network,
    "bundle": _store_bundle,
    "joined": lambda registry, trained: store_joined(registry, Examples(trained)),
    "mixed": _store_mixed,
    "one": lambda registry, trained: store_one(registry, Examples(trained).first()),
    "versions": _store_versions,
    "measured": _store_measured,
}
"""By the name of a home, what stores into its registry, with a folder for the trained modules.

Those of 'chain', 'network' and 'bundle' are `Examples.chain()`, stored as net.hidden-1,
net.hidden-2 and net.output; the latter two have a network 'net' of them. 'one' has
`Examples.first()` as net.hidden-1, 'measured' its moments too, and 'versions' those of three seeds.
"""


def copy_home(
    factory: pytest.TempPathFactory, name: str, home: Path, trained: Path | None = None
) -> None:
    """Put a copy of a home of `HOMES` somewhere.

    Args:
        factory: of this run.
        name: of the home.
        home: the copy.
        trained: gets the modules as training left them, where the copy's registry looks for them;
            if left out they are gone, as they are once a flow has ended.
    """
    made = made_once(factory, name, lambda folder: _store(factory, name, folder))
    _artifact_repos_cache.clear()  # By the ids of models, which lie elsewhere in each copy.
    shutil.copytree(made / "home", home, dirs_exist_ok=True)
    if (made / "trained").exists():
        if trained is not None:
            shutil.copytree(made / "trained", trained, dirs_exist_ok=True)
        with closing(sqlite3.connect(home / "registry.db")) as connection, connection:
            connection.execute(
                "UPDATE modules SET source = replace(source, ?, ?)",
                (str(made / "trained"), str(trained or "gone")),
            )


@contextmanager
def opened_copy(factory: pytest.TempPathFactory, name: str) -> Iterator[Registry]:
    """The registry of a copy of a home, for several tests that only read it."""
    settings = Settings(home=factory.mktemp(name) / "home", lease_seconds=1)
    copy_home(factory, name, settings.home)
    with Registry.open(settings) as registry:
        yield registry
    close_mlflow(settings.mlflow_uri)


def _store(factory: pytest.TempPathFactory, name: str, folder: Path) -> None:
    if name != "empty":
        copy_home(factory, "empty", folder / "home")
        (folder / "trained").mkdir()
    settings = Settings(home=folder / "home", trusted_packages=(PACKAGE,))
    with Registry.open(settings) as registry:
        HOMES[name](registry, folder / "trained")
    close_mlflow(settings.mlflow_uri)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all workers of a run share, filled by the first one that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made" / name
    folder.parent.mkdir(exist_ok=True)
    done = folder.with_suffix(".done")
    with locked(folder.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # Of a worker that failed.
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def pour_registry(settings: Settings, into: Settings) -> None:
    """Copy all rows of one registry's database into another's, which is empty."""
    source, target = open_database(settings), open_database(into)
    with source.reading() as there, target.writing() as here:
        here.execute(delete(IdentityRow))
        for table in Base.metadata.sorted_tables:
            columns = [column for column in table.c if column is not table.autoincrement_column]
            rows = [dict(row) for row in there.execute(select(*columns)).mappings()]
            if rows:
                here.execute(insert(table), rows)
    source.close()
    target.close()


def close_mlflow(uri: str) -> None:
    """MLflow keeps one engine and one client a database for the life of the process.

    Another test's database may have the same address, and none of the tables yet. It keeps the
    folder of each run and model as well, which in a copy of the same home is another.
    """
    _artifact_repos_cache.clear()
    for kept in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        kept._get_store_with_resolved_uri.cache_clear()
    for store in (RunStore, ModelStore):
        engine = store._engine_map.pop(uri, None)
        if engine is not None:
            engine.dispose()
