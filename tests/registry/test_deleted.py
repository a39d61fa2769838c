"""What people delete in MLflow, and `mlflow gc` takes for good, behind the registry's back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from modkernel.errors import NotFoundError
from modkernel.registry import ModuleRecord, Registry, Settings, saga
from modkernel.registry.flavor import load_model
from modkernel.registry.tracking.models import Models
from modkernel.reuse.moments_file import MOMENTS_FILE
from tests.registry.helpers.examples import EVALUATION, Examples, store_one, write_example_moments
from tests.registry.helpers.processes import start
from tests.registry.test_repair import KILLED, wait_for_the_lease
from tests.registry.test_store import kept_folder

pytestmark = pytest.mark.home("chain")


@pytest.fixture
def chain(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> tuple[ModuleRecord, ...]:
    """A stored chain, of which the two hidden modules have private copies and the last has none.

    The first has moments, too.
    """
    write_example_moments(examples.folder / MOMENTS_FILE, records[0].id)
    registry.moments.store(records[0], examples.folder / MOMENTS_FILE)
    for record in records[:-1]:
        registry.modules.fetch(record)
    shutil.rmtree(examples.folder)
    return records


def gc(settings: Settings) -> None:
    """The real command, in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", settings.mlflow_uri],
        env=os.environ | {"MLFLOW_TRACKING_URI": settings.mlflow_uri},
        check=True,
        capture_output=True,
    )


def delete_experiment(registry: Registry, record: ModuleRecord) -> str:
    client = registry.backends.client
    found = str(client.get_run(record.run_id).info.experiment_id)
    client.delete_experiment(found)
    return found


def kinds(registry: Registry) -> dict[str, str]:
    """What is wrong, by name."""
    return {problem.name: problem.kind for problem in registry.verify()}


def test_what_gc_will_take_is_named_and_brought_back(
    registry: Registry, chain: tuple[ModuleRecord, ...]
) -> None:
    client = registry.backends.client
    run_id = registry.runs.start_network("again", "digits")
    registry.runs.finish(run_id)
    registry.networks.add("again", [record.id for record in chain], EVALUATION, run_id)
    client.delete_run(chain[1].run_id)
    client.delete_run(run_id)
    assert kinds(registry) == {"net.hidden-2": "deleted", "again": "deleted"}
    assert all("next 'mlflow gc' takes it" in problem.message for problem in registry.verify())
    assert [action.kind for action in registry.repair()] == ["restored"] * 2
    delete_experiment(registry, chain[0])
    assert set(kinds(registry)) == {"again", *(record.name for record in chain)}
    assert "MLflow's experiment digits (1) is deleted" in registry.verify()[0].message
    assert [action.kind for action in registry.repair()] == ["restored"]
    assert (registry.verify(), registry.repair()) == ((), ())
    gc(registry.settings)
    assert registry.verify() == ()


@pytest.mark.parametrize("left", [True, pytest.param(False, marks=pytest.mark.long)])
def test_after_gc_what_can_be_is_restored_and_the_rest_is_lost(
    registry: Registry, chain: tuple[ModuleRecord, ...], left: bool
) -> None:
    registry.promotions.promote("net.hidden-1", "champion", 1)
    delete_experiment(registry, chain[0])
    gc(registry.settings)
    if not left:  # MLflow forgets the models of an experiment, and leaves their files.
        shutil.rmtree(registry.settings.artifact_root)
    assert kinds(registry) == {record.name: "artifact" for record in chain}
    actions = registry.repair()
    last = "restored" if left else "lost"
    # The first module and its moments, the second, the last.
    assert [action.kind for action in actions] == ["restored", "restored", "restored", last]
    assert "version 2, no longer version 1; @champion means it still" in actions[0].message
    assert kinds(registry) == ({} if left else {"net.output": "lost"})
    assert registry.repair() == ()
    champion = registry.modules.resolve("net.hidden-1@champion")
    assert (champion.id, champion.version) == (chain[0].id, 2)
    top = registry.modules.resolve(chain[2 if left else 1].id)
    network = load_model(f"models:/{top.name}/{top.version}")
    assert [stored.id for stored in network.stored] == [r.id for r in chain[: 3 if left else 2]]


def test_what_is_reused_has_its_bytes(
    registry: Registry, chain: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    for record in chain:
        shutil.rmtree(kept_folder(registry, record))
    first, second, output = (registry.modules.find_ready(r.recipe_digest) for r in chain)
    assert (first is not None and first.id, second is not None and second.id, output) == (
        chain[0].id,
        chain[1].id,
        None,
    )
    assert kinds(registry) == {"net.output": "lost"}
    again = store_one(registry, examples.chain()[-1], "net.output")
    assert again.id == chain[2].id
    assert registry.verify() == ()


def test_modules_above_one_that_was_restored_are_served_with_it(
    registry: Registry, chain: tuple[ModuleRecord, ...]
) -> None:
    shutil.rmtree(kept_folder(registry, chain[0]))
    assert {action.name for action in registry.repair()} == {record.name for record in chain}
    assert (registry.verify(), registry.repair()) == ((), ())
    top = registry.modules.resolve(chain[2].id)
    assert len(load_model(f"models:/{top.name}/{top.version}").stored) == 3


@pytest.mark.home("empty")
def test_a_deleted_version_keeps_the_meaning_of_its_aliases(
    registry: Registry, examples: Examples
) -> None:
    old, new = (store_one(registry, examples.first(seed)) for seed in (0, 1))
    assert (old.version, new.version) == (1, 2)
    for alias, version in {"champion": 1, "first": 1, "newest": 2}.items():
        registry.promotions.promote(old.name, alias, version)
    client = registry.backends.client
    client.delete_registered_model_alias(old.name, "first")
    registry.promotions.sync()
    client.delete_model_version(old.name, "1")
    assert registry.promotions.sync() == ()
    (action,) = registry.repair()
    assert "is version 3, no longer version 1; @champion means it still" in action.message
    assert registry.backends.models.aliases(old.name) == {"champion": 3, "newest": 2}
    assert registry.modules.resolve(f"{old.name}@champion").id == old.id
    (seen,) = registry.promotions.sync()
    assert (seen.alias, seen.version, seen.module_id) == ("champion", 3, old.id)
    assert registry.repair() == ()

    # Back is what was there before, whatever its number is now: the repair was no move.
    with pytest.raises(NotFoundError, match="no other version before version 3"):
        registry.promotions.rollback(old.name, "champion")
    registry.promotions.promote(old.name, "champion", 2)
    assert registry.promotions.rollback(old.name, "champion").version == 3


@pytest.mark.home("empty")
@pytest.mark.parametrize("renamed", [False, True])
def test_a_registered_model_that_is_gone_keeps_the_meaning_of_its_aliases(
    registry: Registry, examples: Examples, renamed: bool
) -> None:
    """Its versions are counted anew: they may have the numbers that they had."""
    old, new = (store_one(registry, examples.first(seed)) for seed in (0, 1))
    for alias, version in {"champion": 1, "first": 1, "newest": 2}.items():
        registry.promotions.promote(old.name, alias, version)
    client = registry.backends.client
    client.delete_registered_model_alias(old.name, "first")
    registry.promotions.sync()
    if renamed:
        client.rename_registered_model(old.name, "renamed")
    else:
        client.delete_registered_model(old.name)
    assert registry.promotions.sync() == ()
    assert [action.kind for action in registry.repair()] == ["registered"] * 2
    assert registry.modules.resolve(f"{old.name}@champion").id == old.id
    assert registry.modules.resolve(f"{old.name}@newest").id == new.id
    assert "first" not in registry.backends.models.aliases(old.name)
    assert (registry.promotions.sync(), registry.verify(), registry.repair()) == ((), (), ())


def _repair_and_die(settings: Settings) -> None:
    Models.set_alias = lambda *_: os._exit(KILLED)  # type: ignore[method-assign]
    with Registry.open(settings) as registry:
        registry.repair()


@pytest.mark.home("network")
@pytest.mark.parametrize("name", ["net", "net.hidden-1"])
def test_a_repair_that_dies_before_an_alias_leaves_it_to_the_next(
    settings: Settings, name: str
) -> None:
    with Registry.open(settings) as registry:
        registry.promotions.promote(name, "champion", 1)
        target = registry.promotions.history(name)[-1].module_id
        registry.backends.client.delete_registered_model(name)
        process = start(_repair_and_die, settings)
        process.join()
        assert process.exitcode == KILLED
        assert registry.backends.models.stored_as(name, 1) == target
        wait_for_the_lease(settings)
        assert registry.promotions.sync() == (), "nobody removed it"
        assert name in kinds(registry)
        done = [action.kind for action in registry.repair() if action.name == name]
        assert done == ["registered"]
        assert registry.backends.models.aliases(name) == {"champion": 1}
        assert (registry.promotions.sync(), registry.verify(), registry.repair()) == ((), (), ())
        assert len(registry.promotions.history(name)) == 1


@pytest.mark.home("empty")
@pytest.mark.long
def test_a_run_that_is_gone_stops_no_repair(settings: Settings, examples: Examples) -> None:
    with Registry.open(settings) as registry:
        record = store_one(registry, examples.first())
        client = registry.backends.client
        client.delete_run(record.run_id)
        client.delete_model_version(record.name, "1")
        gc(settings)
        assert [action.kind for action in registry.repair()] == ["registered"]
        assert (registry.verify(), registry.repair()) == ((), ())
        again = registry.modules.resolve(record.id)
        assert client.get_run(again.run_id).info.status == "FINISHED"


@pytest.mark.home("empty")
@pytest.mark.parametrize("content", [": [", "flavors: {}", "flavors: {modkernel: {chain: 3}}"])
def test_an_mlmodel_file_that_is_no_longer_ours_stops_no_repair(
    registry: Registry, examples: Examples, content: str
) -> None:
    """Of a module that an older schema stored, whose files have no known hashes."""
    record = saga.update(registry.backends, store_one(registry, examples.first()), files=None)
    (kept_folder(registry, record) / "MLmodel").write_text(content)
    assert kinds(registry) == {record.name: "artifact"}
    assert [action.kind for action in registry.repair()] == ["restored"]
    assert registry.verify() == ()
