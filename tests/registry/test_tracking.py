from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modkernel.registry import Registry
from modkernel.spec import NetworkSpec
from tests.registry.helpers.examples import Examples, report_of

NAME = "net.hidden-1"


@pytest.fixture
def spec(examples: Examples) -> Any:
    return examples.first().spec


def run(registry: Registry, run_id: str) -> Any:
    return registry.backends.client.get_run(run_id)


def test_a_run_tells_what_decided_the_training(registry: Registry, spec: Any) -> None:
    parent = registry.runs.start_network("net", "digits", NetworkSpec(name="net"))
    run_id = registry.runs.start_module(NAME, spec, parent)
    seen = run(registry, run_id)
    assert seen.info.run_name == NAME
    assert seen.data.tags["mlflow.parentRunId"] == parent
    assert seen.data.tags["recipe_digest"] == spec.digest()
    params = seen.data.params
    assert params["hidden.objective.name"] == spec.hidden.objective.name
    assert params["hidden.recipe.epochs"] == str(spec.hidden.recipe.epochs)
    assert params["interface.takes"] == "1, 8, 8"
    assert (params["blocks"], params["seed"]) == ("stem", "0")
    experiment = registry.backends.client.get_experiment(seen.info.experiment_id)
    assert experiment.name == "digits"
    assert run(registry, parent).info.experiment_id == experiment.experiment_id


def test_the_data_set_is_an_input_under_our_own_digest(registry: Registry, spec: Any) -> None:
    (entry,) = run(registry, registry.runs.start_module(NAME, spec)).inputs.dataset_inputs
    assert entry.dataset.name == "digits"
    assert spec.dataset.fingerprint.startswith(entry.dataset.digest)
    assert json.loads(entry.dataset.source)["fingerprint"] == spec.dataset.fingerprint


def test_many_runs_of_a_new_experiment_start_at_once(registry: Registry, spec: Any) -> None:
    specs = [spec.changed(seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda one: registry.runs.start_module(NAME, one), specs))
    assert len(set(runs)) == 8
    for run_id in runs:
        (entry,) = run(registry, run_id).inputs.dataset_inputs
        assert entry.dataset.name == "digits"


def test_epochs_are_steps_and_are_logged_once(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    run_id = registry.runs.start_module(NAME, stored.spec)
    first, second = (line.event(epochs=2) for line in report_of(stored).history)
    third = second | {"epoch": 3, "objective": float("nan")}
    registry.runs.log_epochs(run_id, [first])
    registry.runs.log_epochs(run_id, [first, second, third])
    history = registry.backends.client.get_metric_history(run_id, "objective")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.25), (2, 0.5)]
    assert set(run(registry, run_id).data.metrics) == {
        "objective",
        "validation",
        "learning_rate",
        "seconds",
    }


def test_a_run_that_died_is_resumed(registry: Registry, spec: Any) -> None:
    run_id = registry.runs.start_module(NAME, spec)
    assert registry.runs.start_module(NAME, spec) == run_id
    registry.runs.finish(run_id, "FAILED")
    parent = registry.runs.start_network("net", "digits")
    assert registry.runs.start_module(NAME, spec, parent) == run_id
    assert run(registry, run_id).info.status == "RUNNING"
    assert run(registry, run_id).data.tags["mlflow.parentRunId"] == parent
    registry.runs.finish(run_id)
    assert registry.runs.start_module(NAME, spec) != run_id


def test_a_composition_that_died_is_resumed(registry: Registry) -> None:
    run_id = registry.runs.start_network("net", "digits", digest="d" * 64)
    assert registry.runs.start_network("net", "digits", digest="d" * 64) == run_id
    assert registry.runs.start_network("net", "digits", digest="e" * 64) != run_id
    registry.runs.finish(run_id)
    assert registry.runs.start_network("net", "digits", digest="d" * 64) != run_id


def test_an_experiment_that_a_person_deleted_comes_back(registry: Registry, spec: Any) -> None:
    client = registry.backends.client
    before = run(registry, registry.runs.start_module(NAME, spec)).info.experiment_id
    client.delete_experiment(before)
    assert run(registry, registry.runs.start_module(NAME, spec)).info.experiment_id == before


def test_a_baseline_is_found_once_its_run_is_finished(
    registry: Registry, examples: Examples
) -> None:
    report = report_of(examples.chain()[-1])
    spec, digest = NetworkSpec(name="net"), "d" * 64
    run_id = registry.baselines.start_run("net", spec, digest)
    assert registry.baselines.start_run("net", spec, digest) == run_id
    kept = registry.baselines.store(run_id, report, {"curve.png": b"picture"})
    assert registry.baselines.find(digest) is None
    registry.runs.finish(run_id)
    assert registry.baselines.find(digest) == kept
    assert registry.baselines.find("e" * 64) is None
    assert registry.runs.start_network("net", "digits", spec) != run_id
