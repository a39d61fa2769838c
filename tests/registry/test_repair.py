"""A process is killed after each step of storing; another one finds and fixes what it left."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from modkernel.errors import NotFoundError, StoreError
from modkernel.modules.stored import StoredModule, read_module
from modkernel.registry import ModuleRecord, Registry, Settings, saga
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.fields import RECIPE_TAG
from modkernel.registry.tracking.models import MODULE_TAG, Models
from modkernel.registry.tracking.runs import Runs
from tests.registry.helpers.examples import Examples, report_of, store_one
from tests.registry.helpers.processes import start
from tests.registry.test_store import alter, kept_folder, versions

STEPS: dict[str, tuple[Any, str]] = {
    "row pending": (saga, "begin"),
    "run made": (Runs, "start_module"),
    "figures logged": (Runs, "log_figures"),
    "model made without files": (mlflow, "initialize_logged_model"),
    "model shown": (MlflowClient, "log_outputs"),
    "files copied": (MlflowClient, "log_model_artifacts"),
    "files logged": (Models, "log"),
    "name registered": (MlflowClient, "create_registered_model"),
    "version made": (MlflowClient, "create_model_version"),
}
SELDOM = (
    "run made",
    "figures logged",
    "model made without files",
    "model shown",
    "files copied",
    "name registered",
)
"""Of these, what `make test-long` runs."""
KILLED = 137


def _die_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*arguments: Any, **named: Any) -> None:
        function(*arguments, **named)
        os._exit(KILLED)

    return dying


def _store_and_die(settings: Settings, folder: Path, step: str) -> None:
    owner, name = STEPS[step]
    setattr(owner, name, _die_after(getattr(owner, name)))
    with Registry.open(settings) as registry:
        store_one(registry, read_module(folder))


def kill_while_storing(settings: Settings, stored: StoredModule, step: str) -> None:
    process = start(_store_and_die, settings, stored.folder, step)
    process.join()
    assert process.exitcode == KILLED


def wait_for_the_lease(settings: Settings) -> None:
    time.sleep(settings.lease_seconds + 0.1)


def models(registry: Registry) -> list[Any]:
    client = registry.backends.client
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_logged_models(experiments))


@pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=[pytest.mark.long] if step in SELDOM else []) for step in STEPS],
)
def test_whatever_dies_is_found_and_finished(
    settings: Settings, examples: Examples, step: str
) -> None:
    stored = examples.first()
    kill_while_storing(settings, stored, step)
    with Registry.open(settings) as registry:
        assert registry.modules.find_ready(stored.spec.digest()) is None
        wait_for_the_lease(settings)
        assert [(p.kind, p.module_id) for p in registry.verify()] == [("unfinished", stored.id)]
        assert [action.kind for action in registry.repair()] == ["finished"]
        assert (registry.verify(), registry.repair()) == ((), ())
        record = registry.modules.resolve(stored.id)
        assert (record.state, record.version) == ("READY", 1)
        assert store_one(registry, stored) == record
        assert len(versions(registry, record)) == len(models(registry)) == 1
        assert registry.modules.fetch(record).id == stored.id


@pytest.mark.parametrize("step", ["row pending", "files logged", "version made"])
def test_storing_again_resumes_from_there(
    settings: Settings, examples: Examples, step: str
) -> None:
    stored = examples.first()
    kill_while_storing(settings, stored, step)
    with Registry.open(settings) as registry:
        record = store_one(registry, stored)
        assert (record.state, record.version) == ("READY", 1)
        assert len(versions(registry, record)) == len(models(registry)) == 1
        assert (registry.verify(), registry.repair()) == ((), ())


def test_what_is_being_stored_is_left_alone(settings: Settings, examples: Examples) -> None:
    stored = examples.first()
    with Registry.open(settings) as registry:
        kill_while_storing(settings, stored, "files logged")
        with claims_on(registry, stored.id):
            assert (registry.verify(), registry.repair()) == ((), ())
            (sentence,) = registry.at_work()
            assert f"{stored.id[:12]} (" in sentence
            assert "is being stored by" in sentence
            assert "somebody who is storing it" in sentence
        assert registry.at_work() == ()
        assert [problem.kind for problem in registry.verify()] == ["unfinished"]


def claims_on(registry: Registry, key: str) -> Any:
    wait_for_the_lease(registry.settings)
    claim = registry.claim(key, "somebody who is storing it")
    assert claim is not None
    return claim


@pytest.mark.parametrize("step", ["row pending", "model made without files"])
def test_what_lost_its_bytes_is_undone(settings: Settings, examples: Examples, step: str) -> None:
    stored = examples.first()
    kill_while_storing(settings, stored, step)
    shutil.rmtree(stored.folder)
    wait_for_the_lease(settings)
    with Registry.open(settings) as registry:
        assert [action.kind for action in registry.repair()][:1] == ["undone"]
        assert (registry.verify(), registry.repair(), models(registry)) == ((), (), [])
        assert registry.modules.find() == ()
        again = store_one(registry, examples.first())
        assert (again.id, again.version) == (stored.id, 1)


def test_finished_from_the_bytes_that_mlflow_already_has(
    settings: Settings, examples: Examples
) -> None:
    stored = examples.first()
    kill_while_storing(settings, stored, "files logged")
    shutil.rmtree(stored.folder)
    wait_for_the_lease(settings)
    with Registry.open(settings) as registry:
        assert [action.kind for action in registry.repair()] == ["finished"]
        record = registry.modules.resolve(stored.id)
        assert registry.modules.fetch(record).id == stored.id
        run = registry.backends.client.get_run(record.run_id or "")
        assert run.info.status == "FINISHED"


@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_bytes_come_back_from_where_they_still_are(
    registry: Registry, examples: Examples, damage: Callable[[Path], None]
) -> None:
    stored = examples.first()
    record = store_one(registry, stored)
    registry.promotions.promote(record.name, "champion", 1)
    registry.modules.fetch(record)
    shutil.rmtree(stored.folder)
    damage(kept_folder(registry, record) / "weights.safetensors")
    assert [problem.kind for problem in registry.verify()] == ["artifact"]
    assert [action.kind for action in registry.repair()] == ["restored"]
    assert (registry.verify(), registry.repair()) == ((), ())
    restored = registry.modules.resolve(f"{record.name}@champion")
    assert (restored.id, restored.version) == (record.id, 2)
    assert restored.model_id != record.model_id
    assert len(versions(registry, restored)) == 1


@pytest.mark.home("network")
def test_what_is_lost_is_not_reused_and_comes_back_when_trained_again(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    network = registry.networks.resolve("net")
    shutil.rmtree(kept_folder(registry, records[0]))
    shutil.rmtree(examples.first().folder)
    assert [action.kind for action in registry.repair()] == ["lost"]
    assert [problem.kind for problem in registry.verify()] == ["lost"]
    assert registry.repair() == ()
    assert registry.modules.find_ready(records[0].recipe_digest) is None
    trained_again = examples.first()
    assert store_one(registry, trained_again).id == records[0].id
    # Those above, and the network, name the MLflow model below them, which is another now.
    restored = [action.name for action in registry.repair()]
    assert restored == [*(record.name for record in records[1:]), "net"]
    assert registry.verify() == ()
    assert [member.state for member in registry.networks.members(network)] == ["READY"] * 3


def test_what_is_lost_can_be_forgotten(registry: Registry, examples: Examples) -> None:
    for seed in (0, 1):
        stored = examples.first(seed)
        record = store_one(registry, stored)
        shutil.rmtree(kept_folder(registry, record))
        shutil.rmtree(stored.folder)
        assert [action.kind for action in registry.repair()] == ["lost"]
        with pytest.raises(NotFoundError, match="is LOST"):
            registry.modules.resolve(record.id)
        reference = f"{record.name}/{record.version}" if seed else record.short_id
        (problem,) = registry.verify()
        assert f"modules delete {record.short_id}" in problem.message
        registry.delete_module(registry.modules.resolve_to_forget(reference))
        assert registry.verify() == registry.repair() == ()
        with pytest.raises(NotFoundError):
            registry.modules.resolve_to_forget(reference)


def test_a_disk_that_was_away_costs_nothing(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    record = store_one(registry, stored)
    shutil.rmtree(stored.folder)
    disk = registry.settings.artifact_root
    away = disk.rename(disk.with_name("away"))
    assert [action.kind for action in registry.repair()] == ["lost"]
    assert registry.repair() == ()
    away.rename(disk)
    assert [action.kind for action in registry.repair()] == ["restored"]
    assert (registry.verify(), registry.repair()) == ((), ())
    assert registry.modules.resolve(f"{record.name}/1") == record


@pytest.mark.home("chain")
def test_what_cannot_be_read_keeps_nobody_from_the_others(
    registry: Registry, records: tuple[ModuleRecord, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, output = records
    check = artifacts.check_model

    def breaks(client: MlflowClient, model_id: str, *arguments: Any) -> None:
        if model_id == first.model_id:
            raise StoreError("Input/output error")
        check(client, model_id, *arguments)

    alter(kept_folder(registry, output) / "weights.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "check_model", breaks)
        found = [(problem.kind, problem.module_id) for problem in registry.verify()]
        assert found == [("unread", first.id), ("artifact", output.id)]
        done = [(action.kind, action.module_id) for action in registry.repair()]
        assert done == [("failed", first.id), ("restored", output.id)]
    assert (registry.verify(), registry.repair()) == ((), ())


@pytest.mark.parametrize("code", [INTERNAL_ERROR, INVALID_PARAMETER_VALUE])
def test_what_mlflow_cannot_take_is_undone(
    registry: Registry, examples: Examples, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    whole = store_one(registry, examples.first())
    alter(kept_folder(registry, whole) / "weights.safetensors")
    refused = examples.first(seed=1)

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("Python int too large", code)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", refuse)
        with pytest.raises(StoreError, match="too large"):
            store_one(registry, refused)
        if code == INTERNAL_ERROR:  # It says nothing of what it was given.
            done = [action.kind for action in registry.repair()]
            assert done == ["failed", "restored"]
            shutil.rmtree(refused.folder)  # As an import does.
            assert [action.kind for action in registry.repair()] == ["undone"]
        else:
            assert [action.kind for action in registry.repair()] == ["undone", "restored"]
    assert (registry.verify(), registry.repair()) == ((), ())
    assert store_one(registry, examples.first(seed=1)).state == "READY"


def test_an_mlflow_that_does_not_answer_loses_nothing(
    registry: Registry, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = store_one(registry, examples.first())
    for name in ("get_logged_model", "get_model_version", "get_model_version_by_alias"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, name, _does_not_answer)
            if name == "get_model_version_by_alias":
                with pytest.raises(StoreError, match="is away"):
                    registry.modules.resolve(f"{record.name}@champion")
            else:
                (action,) = registry.repair()
                assert action.kind == "failed"
                assert "is away" in action.message
    assert (registry.verify(), registry.repair()) == ((), ())
    assert registry.modules.resolve(record.id) == record


def _does_not_answer(*_: Any) -> None:
    raise MlflowException("the server is away")


def test_a_version_that_a_person_deleted_is_registered_again(
    registry: Registry, examples: Examples
) -> None:
    record = store_one(registry, examples.first())
    registry.backends.client.delete_registered_model(record.name)
    assert [problem.kind for problem in registry.verify()] == ["version"]
    assert [action.kind for action in registry.repair()] == ["registered"]
    assert registry.verify() == ()
    assert registry.modules.resolve(f"{record.name}/1").id == record.id


def test_another_version_under_the_old_number_is_noticed(
    registry: Registry, examples: Examples
) -> None:
    old = store_one(registry, examples.first(0))
    registry.backends.client.delete_registered_model(old.name)
    new = store_one(registry, examples.first(1))
    assert (old.version, new.version) == (1, 1)
    assert [(p.kind, p.module_id) for p in registry.verify()] == [("version", old.id)]
    registry.repair()
    assert registry.modules.resolve(f"{old.name}/1").id == new.id
    assert registry.modules.resolve(f"{old.name}/2").id == old.id


def test_a_model_deleted_in_mlflow_is_logged_again(registry: Registry, examples: Examples) -> None:
    record = store_one(registry, examples.first())
    assert record.model_id is not None
    registry.backends.client.delete_logged_model(record.model_id)
    assert [problem.kind for problem in registry.verify()] == ["artifact"]
    assert [action.kind for action in registry.repair()] == ["restored"]
    assert registry.verify() == ()


def test_a_run_is_marked_failed_when_its_module_is_undone(
    settings: Settings, examples: Examples
) -> None:
    stored = examples.first()
    kill_while_storing(settings, stored, "figures logged")
    shutil.rmtree(stored.folder)
    wait_for_the_lease(settings)
    with Registry.open(settings) as registry:
        registry.repair()
        client = registry.backends.client
        experiment = client.get_experiment_by_name("digits")
        runs = client.search_runs([experiment.experiment_id])
        assert [run.info.status for run in runs] == ["FAILED"]
    assert report_of(stored).recipe_digest == runs[0].data.tags[RECIPE_TAG]
    assert MODULE_TAG not in runs[0].data.tags
