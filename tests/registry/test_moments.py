"""Moments beside a module: kept once, hashed where they are, restored or dropped when lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from sqlalchemy import func, select

from modkernel.errors import ArtifactError, MomentsError, NotFoundError
from modkernel.registry import ModuleRecord, MomentsRecord, Registry, Settings
from modkernel.registry.beside.moments import StoredMoments
from modkernel.registry.sql.tables import MomentsRow
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.moments_file import MOMENTS_FILE
from tests.modkernel.helpers.stored_examples import FACTS
from tests.registry.helpers.examples import Examples, store_one, write_example_moments
from tests.registry.helpers.processes import start
from tests.registry.test_repair import KILLED, kill_while_storing, wait_for_the_lease
from tests.registry.test_store import alter, kept_folder

pytestmark = pytest.mark.home("measured")
OTHER = "e" * 64
"""Fingerprint of data that no module was trained on."""


def equal(one: ModuleMoments, other: ModuleMoments) -> bool:
    return (one.module_id, one.seconds) == (other.module_id, other.seconds) and all(
        torch.equal(getattr(mine, name), getattr(theirs, name))
        for mine, theirs in ((one.train, other.train), (one.validation, other.validation))
        for name in ("counts", "sums", "products", "squares", "fourths")
    )


def in_mlflow(registry: Registry, record: ModuleRecord, there: MomentsRecord) -> Path:
    return kept_folder(registry, record) / there.path


def private_copy(registry: Registry, there: MomentsRecord) -> Path:
    return registry.moments.copy_of(there)


def rows(registry: Registry) -> int:
    with registry.backends.database.reading() as session:
        return session.scalar(select(func.count()).select_from(MomentsRow)) or 0


@pytest.fixture
def measured(registry: Registry, examples: Examples) -> tuple[ModuleRecord, MomentsRecord]:
    """A module that training has measured on its own data; the files it left are gone."""
    (record,) = registry.modules.find()
    (there,) = registry.moments.of(record)
    shutil.rmtree(examples.folder)
    return record, there


def test_storing_keeps_the_moments_of_the_folder(
    registry: Registry, measured: tuple[ModuleRecord, MomentsRecord], tmp_path: Path
) -> None:
    record, there = measured
    written = write_example_moments(tmp_path / "same", record.id)
    assert equal(registry.moments.load(record, FACTS.fingerprint), written)
    assert registry.moments.has(record, FACTS.fingerprint)
    assert not registry.moments.has(record, OTHER)
    assert (there.dataset, there.classes) == (FACTS.name, FACTS.classes)
    assert (there.examples, there.dimension, there.seconds) == (120, 4, 0.25)
    assert there.size_bytes == in_mlflow(registry, record, there).stat().st_size
    assert registry.verify() == ()


def test_a_file_that_goes_while_it_is_kept_is_one_of_our_errors(
    registry: Registry,
    measured: tuple[ModuleRecord, MomentsRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record, _ = measured
    file = tmp_path / "new.safetensors"
    write_example_moments(file, record.id, fingerprint=OTHER)

    def look(*_: object) -> None:
        file.unlink()

    monkeypatch.setattr(StoredMoments, "get", look)
    with pytest.raises(ArtifactError, match=r"Cannot read .*new\.safetensors.*measures the module"):
        registry.moments.store(record, file)
    assert rows(registry) == 1


def test_moments_of_other_data_are_kept_beside_them(
    registry: Registry, measured: tuple[ModuleRecord, MomentsRecord], tmp_path: Path
) -> None:
    record, own = measured
    file = tmp_path / "new.safetensors"
    written = write_example_moments(file, record.id, fingerprint=OTHER)
    kept = registry.moments.store(record, file, "other digits")
    file.unlink()
    assert registry.moments.of(record) == (own, kept)
    assert kept.dataset == "other digits"
    assert equal(registry.moments.load(record, OTHER), written)


def test_data_that_a_module_was_not_measured_on(
    registry: Registry, measured: tuple[ModuleRecord, MomentsRecord]
) -> None:
    record, _ = measured
    with pytest.raises(MomentsError, match=rf"{record.short_id}.*no moments.*modkernel advise"):
        registry.moments.load(record, OTHER)


def test_keeping_twice_changes_nothing(
    registry: Registry, measured: tuple[ModuleRecord, MomentsRecord], tmp_path: Path
) -> None:
    record, there = measured
    other = write_example_moments(tmp_path / "again", record.id, seed=7)
    assert registry.moments.store(record, tmp_path / "again") == there
    assert not equal(registry.moments.load(record, FACTS.fingerprint), other)
    assert rows(registry) == 1


@pytest.mark.home("one")
def test_many_that_keep_at_once_all_get_the_first_ones(
    any_settings: Settings, tmp_path: Path
) -> None:
    with Registry.open(any_settings) as registry:
        (record,) = registry.modules.find()
        files = [tmp_path / f"{seed}.safetensors" for seed in range(4)]
        for seed, file in enumerate(files):
            write_example_moments(file, record.id, seed=seed)
        with ThreadPoolExecutor(4) as pool:
            kept = list(pool.map(lambda file: registry.moments.store(record, file), files))
        assert kept == [kept[0]] * 4
        assert registry.moments.of(record) == (kept[0],)
        registry.moments.load(record, FACTS.fingerprint)
        assert registry.verify() == ()


def test_moments_of_another_module_are_refused(
    registry: Registry, measured: tuple[ModuleRecord, MomentsRecord], tmp_path: Path
) -> None:
    write_example_moments(tmp_path / "foreign", "a" * 64)
    with pytest.raises(MomentsError, match="moments of module aaaaaaaaaaaa, not of"):
        registry.moments.store(measured[0], tmp_path / "foreign")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.home("one")
def test_what_is_no_file_of_moments_is_refused(
    registry: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    (record,) = records
    file = tmp_path / "new.safetensors"
    for damage in (cut_short, lambda path: path.write_bytes(b"?"), Path.unlink):
        write_example_moments(file, record.id)
        damage(file)
        with pytest.raises(ArtifactError):
            registry.moments.store(record, file)
        assert registry.moments.of(record) == ()


@pytest.mark.home("one")
def test_a_module_that_is_not_stored(
    registry: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    record = records[0].model_copy(update={"id": "b" * 64})
    write_example_moments(tmp_path / "new", record.id)
    with pytest.raises(NotFoundError, match="bbbbbbbbbbbb"):
        registry.moments.store(record, tmp_path / "new")


@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_a_damaged_private_copy_is_fetched_again(
    registry: Registry,
    measured: tuple[ModuleRecord, MomentsRecord],
    damage: Callable[[Path], None],
) -> None:
    record, there = measured
    copy = private_copy(registry, there)
    whole, before = copy.read_bytes(), registry.moments.load(record, FACTS.fingerprint)
    damage(copy)
    assert equal(registry.moments.load(record, FACTS.fingerprint), before)
    assert copy.read_bytes() == whole
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_lost_bytes_are_restored_from_the_private_copy(
    registry: Registry,
    measured: tuple[ModuleRecord, MomentsRecord],
    damage: Callable[[Path], None],
) -> None:
    record, there = measured
    damage(in_mlflow(registry, record, there))
    assert [(p.kind, p.module_id) for p in registry.verify()] == [("moments", record.id)]
    assert [action.kind for action in registry.repair()] == ["restored"]
    assert (registry.verify(), registry.repair()) == ((), ())
    private_copy(registry, there).unlink()
    registry.moments.load(record, FACTS.fingerprint)


@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_moments_whose_bytes_are_nowhere_are_dropped_and_can_be_kept_again(
    registry: Registry,
    measured: tuple[ModuleRecord, MomentsRecord],
    damage: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    record, there = measured
    damage(in_mlflow(registry, record, there))
    private_copy(registry, there).unlink()
    with pytest.raises(ArtifactError, match="modkernel repair"):
        registry.moments.load(record, FACTS.fingerprint)
    assert [action.kind for action in registry.repair()] == ["dropped"]
    assert (registry.verify(), registry.repair()) == ((), ())
    assert (registry.moments.of(record), registry.modules.resolve(record.id)) == ((), record)
    write_example_moments(tmp_path / "new", record.id)
    assert registry.moments.store(record, tmp_path / "new").sha256 == there.sha256
    assert registry.verify() == ()


def test_keeping_again_mends_what_was_lost_in_mlflow(
    registry: Registry, measured: tuple[ModuleRecord, MomentsRecord], tmp_path: Path
) -> None:
    record, there = measured
    in_mlflow(registry, record, there).unlink()
    other = write_example_moments(tmp_path / "again", record.id, seed=7)
    registry.moments.store(record, tmp_path / "again")
    assert equal(registry.moments.load(record, FACTS.fingerprint), other)
    assert (registry.verify(), rows(registry)) == ((), 1)


@pytest.mark.parametrize(("copied", "kinds"), [(True, "restored"), (False, "dropped")])
def test_a_model_that_is_made_again_has_its_moments_or_they_are_dropped(
    registry: Registry,
    measured: tuple[ModuleRecord, MomentsRecord],
    copied: bool,
    kinds: str,
) -> None:
    record, there = measured
    registry.modules.fetch(record)  # so that there is a copy to make the model from
    if not copied:
        private_copy(registry, there).unlink()
    assert record.model_id is not None
    registry.backends.client.delete_logged_model(record.model_id)
    assert [action.kind for action in registry.repair()] == ["restored", kinds]
    assert (registry.verify(), registry.repair()) == ((), ())
    again = registry.modules.resolve(record.id)
    assert again.model_id != record.model_id
    assert registry.moments.has(again, FACTS.fingerprint) == copied
    if copied:
        private_copy(registry, there).unlink()
        registry.moments.load(again, FACTS.fingerprint)


def _store_and_die_before_keeping(settings: Settings, folder: Path) -> None:
    import os

    from modkernel.modules.stored import read_module

    StoredMoments.store = lambda *_: os._exit(KILLED)  # type: ignore[assignment]
    with Registry.open(settings) as registry:
        store_one(registry, read_module(folder))


@pytest.mark.home("empty")
def test_a_crash_before_the_moments_are_kept_loses_only_them(
    settings: Settings, examples: Examples
) -> None:
    stored = examples.first()
    write_example_moments(stored.folder / MOMENTS_FILE, stored.id)
    process = start(_store_and_die_before_keeping, settings, stored.folder)
    process.join()
    assert process.exitcode == KILLED
    wait_for_the_lease(settings)
    with Registry.open(settings) as registry:
        record = registry.modules.resolve(stored.id)
        assert (registry.verify(), registry.moments.of(record)) == ((), ())
        assert store_one(registry, stored) == record
        assert registry.moments.has(record, FACTS.fingerprint)


def test_undoing_a_module_forgets_its_moments(settings: Settings, examples: Examples) -> None:
    with Registry.open(settings) as registry:
        (record,) = registry.modules.find()
        assert rows(registry) == 1
        shutil.rmtree(kept_folder(registry, record))
        shutil.rmtree(examples.folder)
        assert [action.kind for action in registry.repair()] == ["lost"]
    again = examples.first()
    kill_while_storing(settings, again, "row pending")
    shutil.rmtree(again.folder)
    wait_for_the_lease(settings)
    with Registry.open(settings) as registry:
        assert [action.kind for action in registry.repair()] == ["undone"]
        assert rows(registry) == 0
