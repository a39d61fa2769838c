"""Networks as versions of registered models in MLflow: saved once, whatever dies, and found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from modkernel.errors import ArtifactError, NameTakenError, StoreError
from modkernel.modules.network import assemble
from modkernel.registry import ModuleRecord, NetworkRecord, Registry, Settings
from modkernel.registry.flavor import load_model
from modkernel.registry.sql.tables import NetworkRow
from modkernel.registry.tracking.artifacts import local_path, location_of
from modkernel.registry.tracking.models import Models
from modkernel.registry.tracking.runs import Runs
from modkernel.registry.upkeep import pages
from tests.registry.conftest import seldom_postgres
from tests.registry.helpers.examples import EVALUATION, Examples, store_chain, store_one
from tests.registry.helpers.processes import start
from tests.registry.test_flavor import RAW, uri
from tests.registry.test_repair import KILLED, _die_after, models, wait_for_the_lease

pytestmark = pytest.mark.home("chain")
PICTURE = b"a picture"
STEPS: dict[str, tuple[Any, str]] = {
    "run made": (Runs, "start_network"),
    "files logged": (Models, "log"),
    "version made": (MlflowClient, "create_model_version"),
    "row complete": (pages, "module_page"),
}
"""Before which a process dies, and whose method it is."""
SELDOM = ("run made", "files logged", "row complete")
"""Of these, what `make test-long` runs."""


@pytest.fixture
def any_registry(any_settings: Settings) -> Iterator[Registry]:
    with Registry.open(any_settings) as opened:
        yield opened


def ids(records: Sequence[ModuleRecord]) -> list[str]:
    return [record.id for record in records]


def page(registry: Registry, record: ModuleRecord | NetworkRecord) -> ModelVersion:
    """What MLflow shows of a version; the newest where it was registered again."""
    return registry.backends.models.version(record.name, str(record.version))


def link(record: ModuleRecord | NetworkRecord) -> str:
    to = f"#/models/{record.name}/versions/{record.version}?workflowType=machine_learning"
    return f"[{record.name} version {record.version}]({to})"


@seldom_postgres
def test_a_network_is_a_version_that_names_its_modules(
    any_registry: Registry, examples: Examples
) -> None:
    records = any_registry.modules.find()
    made = any_registry.networks.add(
        "net", ids(records), EVALUATION, figures={"network.png": PICTURE}
    )
    assert (made.version, any_registry.networks.resolve("net")) == (1, made)
    found = page(any_registry, made)
    assert {key: found.tags[key] for key in ("network_id", "kind", "dataset", "accuracy")} == {
        "network_id": made.id,
        "kind": "network",
        "dataset": "digits",
        "accuracy": "0.7500",
    }
    assert found.tags["modules"] == "net.hidden-1/1, net.hidden-2/1, net.output/1"
    card = found.description.splitlines()
    assert card[0] == (
        "Network net: 2 hidden modules of resnet18 and an output module for 3 classes of digits; "
        "test accuracy 75.00%."
    )
    assert all(any(link(record) in line for line in card) for record in records)
    assert f"network.png&run_uuid={made.run_id})" in found.description
    run = any_registry.backends.client.get_run(made.run_id)
    assert {one.model_id for one in run.inputs.model_inputs} == {r.model_id for r in records}
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, run.data.metrics["worst_class_accuracy"]) == ("digits", 0.5)
    assert (run.data.params["kernel"], run.info.status) == ("relu_avgpool", "FINISHED")
    assert run.data.params["hidden modules"] == "2"
    assert all(link(record) in run.data.tags["mlflow.note.content"] for record in records)
    network = load_model(uri(made))
    expected = assemble(examples.chain()).predict(torch.from_numpy(RAW))
    torch.testing.assert_close(network.predict(torch.from_numpy(RAW)), expected)
    assert any_registry.networks.add("net", ids(records), EVALUATION) == made
    assert len(any_registry.backends.models.versions(made)) == 1
    assert (any_registry.verify(), any_registry.repair()) == ((), ())


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
@pytest.mark.home("network")
def test_what_serves_a_network_checks_its_modules(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    made = registry.networks.resolve("net")
    table = mlflow.pyfunc.load_model(uri(made)).predict(RAW)
    expected = assemble(examples.chain()).predict(torch.from_numpy(RAW)).numpy()
    probabilities = [[row[name] for name in "012"] for row in table["probabilities"]]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    assert registry.verify() == (), "loading it leaves nothing that is foreign"
    twin = store_one(registry, examples.first(seed=1))
    file = local_path(f"{location_of(registry.backends.client, made.model_id or '')}/MLmodel")
    assert file is not None
    text = file.read_text()
    file.write_text(text.replace(records[0].weights_sha256, twin.weights_sha256))
    with pytest.raises(ArtifactError, match="differs from what was stored"):
        load_model(uri(made))
    file.write_text(text.replace(records[0].id, twin.id))
    with pytest.raises(ArtifactError, match="names other modules than the network has"):
        load_model(uri(made))
    (problem,) = registry.verify()
    assert (problem.kind, problem.network_id) == ("artifact", made.id)
    (action,) = registry.repair()
    assert "is version 2, no longer version 1" in action.message
    np.testing.assert_array_equal(
        load_model(uri(registry.networks.resolve("net"))).predict(torch.from_numpy(RAW)), expected
    )


def _add_and_die(settings: Settings, module_ids: list[str], step: str) -> None:
    owner, name = STEPS[step]
    setattr(owner, name, _die_after(getattr(owner, name)))
    with Registry.open(settings) as registry:
        registry.networks.add("net", module_ids, EVALUATION)
    os._exit(1)


@pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=[pytest.mark.long] if step in SELDOM else []) for step in STEPS],
)
def test_a_network_whose_process_died_is_completed_once(settings: Settings, step: str) -> None:
    with Registry.open(settings) as registry:
        records = registry.modules.find()
        process = start(_add_and_die, settings, ids(records), step)
        process.join()
        assert process.exitcode == KILLED
        wait_for_the_lease(settings)
        problems = {(problem.kind, problem.name) for problem in registry.verify()}
        if step == "row complete":  # but its modules' pages do not tell of it
            assert problems == {("page", "net.hidden-2"), ("page", "net.output")}
        else:
            assert problems == {("unfinished", "net")}
        if step == "files logged":
            made = registry.networks.add("net", ids(records), EVALUATION)
        else:
            registry.repair()
            made = registry.networks.resolve("net")
        assert made.version == 1
        assert len(registry.backends.models.versions(made)) == 1
        assert len(models(registry)) == len(records) + 1
        assert [page(registry, one).tags["used_by"] for one in records] == ["1 network"] * 3
        assert (registry.verify(), registry.repair()) == ((), ())
        assert registry.backends.client.get_run(made.run_id).info.status == "FINISHED"


@pytest.mark.home("network")
def test_a_network_of_an_older_home_gets_its_version(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    made = registry.networks.resolve("net")
    client = registry.backends.client
    client.delete_registered_model("net")
    client.delete_logged_model(made.model_id)
    for record in records:  # as they were before versions had these tags
        client.delete_model_version_tag(record.name, str(record.version), "used_by")
    with registry.backends.database.writing() as session:
        row = session.get_one(NetworkRow, made.id)
        row.version = row.model_id = row.files = row.run_id = None
    assert {problem.kind for problem in registry.verify()} == {"page", "unfinished"}
    kinds = [action.kind for action in registry.repair()]
    assert kinds == ["rewritten"] * 3 + ["finished"]
    assert registry.networks.resolve("net").version == 1
    assert (registry.verify(), registry.repair()) == ((), ())


@pytest.mark.home("network")
def test_a_deleted_version_of_a_network_comes_back(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    registry.backends.client.delete_model_version("net", "1")
    assert [problem.kind for problem in registry.verify()] == ["version"]
    (action,) = registry.repair()
    assert "is version 2, no longer version 1" in action.message
    assert link(registry.networks.resolve("net")) in page(registry, records[0]).description
    assert (registry.verify(), registry.repair()) == ((), ())


def test_pages_link_both_ways(registry: Registry, records: tuple[ModuleRecord, ...]) -> None:
    first, second, output = records
    assert link(second) in page(registry, first).description
    assert link(first) in page(registry, second).description
    assert page(registry, output).tags["upstream"] == "net.hidden-2/1"
    assert page(registry, output).tags["accuracy"] == "0.7500"
    short = registry.networks.add("short", ids(records[:2]))
    whole = registry.networks.add("whole", ids(records), EVALUATION)
    assert [page(registry, one).tags["used_by"] for one in records] == [
        "2 networks",
        "2 networks",
        "1 network",
    ]
    assert all(link(one) in page(registry, first).description for one in (short, whole))
    assert f"Modules 1 to 2 are also in {link(whole)}" in page(registry, short).description
    assert f"Modules 1 to 2 are also in {link(short)}" in page(registry, whole).description
    found = registry.backends.client.search_model_versions("tags.used_by = '2 networks'")
    assert {one.name for one in found} == {first.name, second.name}
    with registry.backends.database.writing() as session:  # as a deletion leaves it
        row = session.get_one(NetworkRow, whole.id)
        for part in (*row.members, *row.evaluations, row):
            session.delete(part)
    pages.network_changed(registry.backends, whole)
    assert page(registry, output).tags["used_by"] == "0 networks"
    assert "whole" not in page(registry, first).description
    assert "Shared" not in page(registry, short).description


def test_a_module_of_many_networks_is_counted(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    made = [registry.networks.add(f"n{number}", [records[0].id]) for number in range(6)]
    found = page(registry, records[0])
    assert found.tags["used_by"] == "6 networks"
    assert f"{link(made[4])} and 1 more." in found.description
    assert f"{link(made[4])} and others" in page(registry, made[0]).description
    assert registry.verify() == ()


def test_a_network_and_a_module_have_no_name_in_common(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    with pytest.raises(NameTakenError, match=r"A network cannot be named 'net.output'"):
        registry.networks.add("net.output", ids(records))
    registry.networks.add("other.hidden-1", ids(records))
    with pytest.raises(NameTakenError, match=r"A module cannot be named 'other.hidden-1'"):
        registry.networks.check_names("other", ["other.hidden-1", "other.output"])
    with pytest.raises(NameTakenError, match=r"A module cannot be named 'other.hidden-1'"):
        store_one(registry, examples.first(seed=1), "other.hidden-1")
    assert len(registry.networks.find()) == 1


def test_what_mlflow_could_not_take_is_completed_by_the_next_add(
    registry: Registry, records: tuple[ModuleRecord, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StoreError("MLflow is away.")

    with monkeypatch.context() as patched:
        patched.setattr(Runs, "describe_network", away)
        with pytest.raises(StoreError, match="away"):
            registry.networks.add("net", ids(records), EVALUATION)
    assert registry.networks.resolve("net").version is None
    assert registry.networks.add("net", ids(records), EVALUATION).version == 1
    assert registry.verify() == ()


@pytest.mark.home("network")
def test_a_later_evaluation_is_on_the_page(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    again = registry.networks.add("net", ids(records), EVALUATION.changed(accuracy=0.8))
    assert "| accuracy&emsp; | 80.00% |" in page(registry, again).description
    assert page(registry, again).tags["accuracy"] == "0.8000"
    assert registry.backends.client.get_run(again.run_id).data.metrics["accuracy"] == 0.8


@pytest.mark.home("network")
def test_the_search_box_finds_the_names_whose_newest_version_has_a_tag(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    def found(condition: str) -> set[str]:
        models = registry.backends.client.search_registered_models(filter_string=condition)
        return {model.name for model in models}

    assert found("tags.dataset = 'digits' and tags.kind = 'network'") == {"net"}
    assert found("tags.used_by = '1 network'") == {record.name for record in records}
    assert found("tags.blocks LIKE '%layer1.0%'") == {"net", "net.hidden-2"}
    assert found("tags.upstream = 'net.hidden-2/1'") == {"net.output"}
    newer = store_one(registry, examples.first(seed=1))
    assert (newer.name, newer.version) == (records[0].name, 2)
    assert newer.name not in found("tags.used_by = '1 network'")
    registry.networks.add("again", [records[0].id])
    assert page(registry, records[0]).tags["used_by"] == "2 networks"
    assert found("tags.used_by = '2 networks'") == set(), "an older version's tags are its own"


def test_a_closed_forms_accuracy_is_on_the_page_of_a_hidden_module(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    registry.modules.tell_accuracy(records[0], 0.625)
    assert page(registry, records[0]).tags["accuracy"] == "0.6250"
    assert "| closed_form_accuracy&emsp; | 0.625 |" in page(registry, records[0]).description
    client = registry.backends.client
    metrics = client.get_run(records[0].run_id or "").data.metrics
    assert metrics["final.closed_form_accuracy"] == 0.625
    client.delete_model_version(records[0].name, "1")
    registry.repair()
    again = registry.modules.resolve(records[0].id)
    assert page(registry, again).tags["accuracy"] == "0.6250"
    assert registry.verify() == ()


@pytest.mark.home("empty")
def test_a_project_has_one_experiment(settings: Settings, examples: Examples) -> None:
    project = settings.model_copy(update={"experiment": "our project: birds"})
    with Registry.open(project) as registry:
        records = store_chain(registry, examples.chain())
        made = registry.networks.add("net", ids(records), EVALUATION)
        client = registry.backends.client
        names = {
            client.get_experiment(client.get_run(one.run_id or "").info.experiment_id).name
            for one in (*records, made)
        }
        assert names == {"our project: birds"}
    # Another setting, or an older home, leaves what is stored where it is.
    with Registry.open(settings) as registry:
        assert (registry.verify(), registry.repair()) == ((), ())
        later = registry.networks.add("later", ids(records))
        run = registry.backends.client.get_run(later.run_id or "")
        assert registry.backends.client.get_experiment(run.info.experiment_id).name == "digits"
