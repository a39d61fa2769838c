"""A home that was moved or copied works where it lies."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from modkernel.modules.stored import WEIGHTS_FILE
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.flavor import load_model
from modkernel.registry.tracking.moved import PLACES
from tests.registry.conftest import close_mlflow
from tests.registry.helpers.examples import Examples, store_one
from tests.registry.test_repair import kill_while_storing, wait_for_the_lease
from tests.registry.test_store import alter, kept_folder

pytestmark = pytest.mark.home("chain")


@pytest.fixture
def records(settings: Settings, examples: Examples) -> tuple[ModuleRecord, ...]:
    """Those of the home, which are nowhere else any more."""
    with Registry.open(settings) as registry:
        records = registry.modules.find()
    close_mlflow(settings.mlflow_uri)
    shutil.rmtree(settings.cache_dir)
    shutil.rmtree(examples.folder)
    return records


@contextmanager
def opened(home: Path, **values: object) -> Iterator[Registry]:
    settings = Settings.model_validate({"home": home, "lease_seconds": 1, **values})
    with Registry.open(settings) as registry:
        yield registry
    close_mlflow(settings.mlflow_uri)


def places(database: Path) -> set[str]:
    """Every place that MLflow's database names."""
    with closing(sqlite3.connect(database)) as connection:
        return {
            place
            for table, column in PLACES.items()
            for (place,) in connection.execute(f"SELECT {column} FROM {table}")
        }


@pytest.mark.parametrize("name", ["later", "später & wo_anders"])
def test_a_moved_home_works_where_it_lies(
    settings: Settings, records: tuple[ModuleRecord, ...], tmp_path: Path, name: str
) -> None:
    home = settings.home.rename(tmp_path / name)
    with opened(home) as registry:
        assert (registry.verify(), registry.repair()) == ((), ())
        assert registry.modules.fetch(records[0]).id == records[0].id
        assert len(load_model("models:/net.output/1").stored) == 3
        assert kept_folder(registry, records[0]).is_relative_to(home)
        store_one(registry, Examples(tmp_path / "more").first(seed=1), "net.hidden-1")
    assert not settings.home.exists()
    assert not [place for place in places(home / "mlflow.db") if str(settings.home) in place]
    with opened(home.rename(settings.home)) as registry:
        assert registry.verify() == ()


def test_what_was_deleted_before_a_move_is_collected_where_it_lies(
    settings: Settings, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    with opened(settings.home) as registry:
        registry.delete_module(registry.modules.resolve(records[-1].id))
    with opened(shutil.copytree(settings.home, tmp_path / "später & wo_anders")) as copy:
        for garbage in copy.garbage():
            copy.collect(garbage)
        assert copy.garbage() == ()
        left = [*copy.settings.artifact_root.rglob(WEIGHTS_FILE)]
        assert len(left) == len(records) - 1
    first = [*settings.artifact_root.rglob(WEIGHTS_FILE)]
    assert len(first) == len(records), "that of the first home is its own"


def test_a_copied_home_leaves_the_first_one_alone(
    settings: Settings, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    before = places(settings.home / "mlflow.db")
    copy = Path(shutil.copytree(settings.home, tmp_path / "copy"))
    with opened(copy) as registry:
        alter(kept_folder(registry, records[0]) / "weights.safetensors")
        assert [problem.kind for problem in registry.verify()] == ["artifact"]
    assert places(settings.home / "mlflow.db") == before
    with opened(settings.home) as registry:
        assert registry.verify() == ()


@pytest.mark.usefixtures("records")
def test_what_lies_elsewhere_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(settings.home)
    before = places(settings.home / "mlflow.db")
    with opened(link) as registry:
        assert registry.verify() == ()
    assert places(settings.home / "mlflow.db") == before
    shared = tmp_path / "shared.db"
    shutil.copyfile(settings.home / "mlflow.db", shared)
    home = Path(shutil.copytree(settings.home, tmp_path / "copy"))
    with opened(home, mlflow_uri=f"sqlite:///{shared}") as registry:
        assert registry.verify() == ()
    assert places(shared) == before


@pytest.mark.home("empty")
def test_what_was_being_stored_is_finished_in_the_moved_home(
    settings: Settings, tmp_path: Path
) -> None:
    stored = Examples(settings.work_dir / "digest").first()
    kill_while_storing(settings, stored, "row pending")
    home = settings.home.rename(tmp_path / "later")
    wait_for_the_lease(settings)
    with opened(home) as registry:
        assert [action.kind for action in registry.repair()] == ["finished"]
        assert registry.verify() == ()
