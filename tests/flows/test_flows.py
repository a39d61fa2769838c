"""The flows on digits: what they train, reuse, record and refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from prefect.client.orchestration import get_client
from safetensors.torch import load_file

from modkernel.data import DataPlaces, load_dataset
from modkernel.errors import (
    CutError,
    DataError,
    InterfaceError,
    LabelBudgetError,
    ModkernelError,
    NotFoundError,
    ObjectiveError,
    PairError,
    SettingsError,
    SpecError,
    UnknownNameError,
)
from modkernel.flows.compose_network import compose_network
from modkernel.flows.maintenance import maintenance
from modkernel.flows.measure_modules import measure_modules
from modkernel.flows.plans import datasets
from modkernel.flows.plans.network import plan
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.runtime import shared
from modkernel.flows.runtime.events import EpochDone, Event, Planned, StateChanged, watch
from modkernel.flows.runtime.mlflow_runs import network_run
from modkernel.flows.train_baseline import train_baseline
from modkernel.flows.train_module import train_module
from modkernel.flows.train_network import train_network
from modkernel.modules.stored import WEIGHTS_FILE
from modkernel.registry import Registry
from modkernel.registry.bundles.elsewhere import Images, import_network
from modkernel.registry.saga import update
from modkernel.reuse.task import Task
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
)
from tests.flows.helpers.specs import hidden, tiny
from tests.flows.helpers.trained import store_network
from tests.modkernel.test_imported import saved


def test_a_run_that_died_is_resumed_where_there_is_no_spec(registry: Registry) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        network_run(registry, "net", "digits", "data", "compose this", lambda: False) as died,
    ):
        raise KeyboardInterrupt
    with network_run(registry, "net", "digits", "data", "compose that", lambda: False) as other:
        assert other != died
    with network_run(registry, "net", "digits", "others", "compose this", lambda: False) as theirs:
        assert theirs not in (died, other)
    with network_run(registry, "net", "digits", "data", "compose this", lambda: False) as again:
        assert again == died
    with network_run(registry, "net", "digits", "data", "compose this", lambda: False) as new:
        assert new not in (died, other)


def test_what_mlflow_does_not_take_is_one_of_our_errors(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="no such run"):
        registry.runs.finish("no such run")


def markdown(key: str) -> str:
    with get_client(sync_client=True) as client:
        (artifact, *_) = client._client.post(
            "/artifacts/filter",
            json={
                "artifacts": {"key": {"any_": [key]}},
                "sort": "CREATED_DESC",
            },
        ).json()
    return str(artifact["data"])


@pytest.mark.usefixtures("drawn")
def test_a_network_is_trained_once_and_then_reused(registry: Registry) -> None:
    spec = tiny("once", epochs=(3, 1))
    events: list[Event] = []
    with watch(events.append):
        first = train_network(spec)
    assert [module.name for module in first.modules] == [
        "once.hidden-1",
        "once.hidden-2",
        "once.output",
    ]
    assert (first.trained_modules, first.reused_modules) == (3, 0)
    assert first.evaluation is not None
    assert (first.evaluation.labels, first.evaluation.draws) == (10, 3)
    assert 0.2 < first.evaluation.accuracy_min <= first.evaluation.accuracy_all_labels
    assert registry.networks.resolve("once").module_ids == tuple(
        module.id for module in first.modules
    )
    assert registry.networks.resolve("once").evaluation == first.evaluation
    assert not list(registry.settings.work_dir.iterdir()), "work folders go once all is stored"

    assert events[0] == Planned(tuple(module.name for module in first.modules))
    epochs = [e for e in events if isinstance(e, EpochDone) and e.module == "once.hidden-1"]
    assert [event.epoch for event in epochs] == [1, 2, 3]
    states = [event for event in events if isinstance(event, StateChanged)]
    assert states[-1] == StateChanged("once.output", "stored")

    client = registry.backends.client
    run = client.get_run(first.modules[0].run_id or "")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == first.run_id
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "objective")]
    assert steps == [1, 2, 3]
    assert client.get_run(first.run_id or "").info.status == "FINISHED"

    card = markdown("module-once-hidden-1")
    assert card.startswith("Hidden module once.hidden-1")
    assert "data:image/png;base64" in card
    assert "| once.output | 1 |" in markdown("network-once")
    page = client.get_model_version("once", "1")
    assert page.description.startswith("Network once: 2 hidden modules of ")
    assert f"figures%2Fnetwork.png&run_uuid={first.run_id}" in page.description
    parent = client.get_run(first.run_id or "")
    assert parent.data.metrics["accuracy"] == first.evaluation.accuracy
    assert len(parent.inputs.model_inputs) == len(first.modules)

    runs = len(client.search_runs([run.info.experiment_id]))
    events.clear()
    with watch(events.append):
        second = train_network(spec)
    assert (second.trained_modules, second.reused_modules) == (0, 3)
    assert [module.id for module in second.modules] == [module.id for module in first.modules]
    assert second.id == first.id
    assert second.evaluation == first.evaluation
    assert not [event for event in events if isinstance(event, EpochDone)]
    assert len(client.search_runs([run.info.experiment_id])) == runs


def test_a_changed_module_is_trained_and_those_below_it_are_reused(with_net: Registry) -> None:
    first, *_ = with_net.networks.resolve("net").module_ids
    second = train_network(tiny("net", epochs=(1, 2)))
    assert [module.reused for module in second.modules] == [True, False, False]
    assert second.modules[0].id == first
    assert second.modules[1].version == 2


def test_composing_trains_the_output_module_alone(with_net: Registry) -> None:
    output = OutputSpec(method="ridge", labels_per_class=2)
    made = compose_network("made", "net.hidden-2", output=output)
    assert [module.name for module in made.modules] == [
        "net.hidden-1",
        "net.hidden-2",
        "made.output",
    ]
    assert [module.reused for module in made.modules] == [True, True, False]
    assert made.evaluation is not None
    assert made.evaluation.labels == 20
    again = compose_network("made", made.modules[1].id[:8], output=output)
    assert (again.id, again.trained_modules) == (made.id, 0)
    with_net.promotions.promote("net.hidden-1", "champion", 1)
    few = DatasetSpec(classes=("0", "1", "7"))
    lower = compose_network("lower", "net.hidden-1@champion", few, output)
    assert len(lower.modules) == 2
    assert lower.evaluation is not None
    assert len(lower.evaluation.confusion) == 3


def test_composing_refuses_before_it_trains(with_net: Registry) -> None:
    output = OutputSpec(labels_per_class=1)
    small = DatasetSpec(image_size=4)
    for error, arguments in [
        (NotFoundError, {"hidden": "net.hidden-9"}),
        (InterfaceError, {"hidden": "net.output"}),
        (InterfaceError, {"hidden": "net.hidden-2", "dataset": small}),
        (LabelBudgetError, {"output": OutputSpec(labels_per_class=5000)}),
    ]:
        with pytest.raises(error):
            compose_network(**{"name": "x", "hidden": "net.hidden-2", "output": output,
                               **arguments})  # fmt: skip
    assert not with_net.networks.find("x")
    assert not list(with_net.settings.work_dir.iterdir())


def test_modules_are_trained_one_on_another(registry: Registry) -> None:
    backbone = BackboneSpec(name="mlp", width=16, depth=3)
    first = train_module("chain.hidden-1", hidden(until="linear1"), backbone=backbone)
    second = train_module("chain.hidden-2", hidden(), upstream="chain.hidden-1")
    assert registry.modules.resolve(second.id).spec.blocks == ("linear2", "linear3")
    assert [m.id for m in registry.modules.chain(registry.modules.resolve(second.id))] == [
        first.id,
        second.id,
    ]
    assert train_module("chain.hidden-2", hidden(), upstream=first.id).reused
    with pytest.raises(CutError):
        train_module("chain.hidden-3", hidden(), upstream="chain.hidden-2")


@pytest.mark.long
def test_a_network_from_elsewhere_is_built_on_and_adapted(
    registry: Registry, tmp_path: Path
) -> None:
    weights = saved(torchvision.models.resnet18(weights=None), tmp_path / "resnet18.safetensors")
    data = DatasetSpec(name="digits", classes=("1", "3", "5"), image_size=32, channels=3)
    (far,) = import_network(
        registry,
        "resnet18",
        "far",
        ["layer1"],
        weights=weights,
        licence="bsd-3-clause",
        images=Images((32, 32)),
    ).modules
    with pytest.raises(SpecError, match="give 'dataset'"):
        compose_network("near", far.name)
    network = compose_network("near", far.name, data, OutputSpec(method="ridge"))
    assert network.evaluation is not None
    assert network.evaluation.accuracy > 0.5
    assert measure_modules(data, [far.name]).measured == (far.id,)
    info = datasets.info_of(registry, data)
    (ranked,) = registry.advice.rank(Task.of_classes(info.classes), info).ranked
    assert (ranked.module.id, ranked.fitted) == (far.id, False)

    recipe = hidden().recipe.changed(batch_size=64)
    adapting = HiddenSpec(recipe=recipe, start_from=far.name, freeze=0.5)
    adapted = train_module("adapted.hidden-1", adapting, dataset=data)
    record = registry.modules.resolve(adapted.id)
    assert record.spec.kind == "hidden"
    assert record.spec.hidden.start_from == far.id
    assert record.spec.preprocessing == far.spec.preprocessing
    old, new = (load_file(registry.modules.fetch(r).folder / WEIGHTS_FILE) for r in (far, record))
    assert torch.equal(old["conv1.conv1.weight"], new["conv1.conv1.weight"])
    last = "layer1_1_add.layer1.1.bn2.weight"
    assert not torch.equal(old[last], new[last])
    assert train_module("adapted.hidden-1", adapting, dataset=data).reused
    compose_network("near", "adapted.hidden-1", data, OutputSpec(method="ridge"))
    again = retrain_network("near", "1")
    assert (again.trained_modules, again.modules[0].id) == (0, adapted.id), "nothing has changed"
    # A chain above what it starts from is told apart, and other data are refused.
    with pytest.raises(InterfaceError, match="image_size"):
        train_module("adapted.hidden-1", adapting, dataset=DatasetSpec())
    wide = tiny("wide").changed(hidden=(adapting,))
    with pytest.raises(InterfaceError, match="same blocks"):
        train_network(wide)


def test_a_baseline_is_trained_once(registry: Registry) -> None:
    first = train_baseline(tiny("whole", epochs=(2, 2)))
    assert not first.reused
    run = registry.backends.client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["accuracy"] == first.evaluation.accuracy
    second = train_baseline(tiny("whole", epochs=(2, 2)))
    assert second.reused
    assert (second.run_id, second.evaluation) == (first.run_id, first.evaluation)
    assert "trained end to end" in markdown("baseline-whole")


def with_pairs(registry: Registry, path: Path, same: Sequence[int]) -> NetworkSpec:
    """A network without output module on pairs of digits, of which the k-th is same[k]."""
    places = DataPlaces(registry.settings.data_root, registry.settings.cache_dir)
    ids = load_dataset(tiny().dataset, places).training_part().ids
    pairs = zip(ids[: len(same)], ids[len(same) :], same, strict=False)
    path.write_text("".join(f"{i},{j},{value}\n" for i, j, value in pairs))
    return tiny("pairs").changed(pairs=str(path), output=None)


def test_hidden_modules_are_trained_on_a_file_of_pairs(registry: Registry, tmp_path: Path) -> None:
    spec = with_pairs(registry, tmp_path / "pairs.csv", [0, 1] * 150)
    result = train_network(spec.changed(hidden=spec.hidden[:1]))
    assert [module.name for module in result.modules] == ["pairs.hidden-1"]
    assert result.evaluation is None
    facts = registry.modules.resolve(result.modules[0].id).spec.dataset
    assert facts.pairs_fingerprint is not None


def test_a_network_is_refused_before_it_trains(registry: Registry, tmp_path: Path) -> None:
    spec = tiny("bad")
    neo = ObjectiveSpec(name="alignment_neo")
    wrong: list[tuple[type[ModkernelError], dict[str, Any]]] = [
        (UnknownNameError, {"dataset": DatasetSpec(name="digitz")}),
        (UnknownNameError, {"hidden": (HiddenSpec(kernel=KernelSpec(name="rbf")),) * 2}),
        (ObjectiveError, {"hidden": (HiddenSpec(kernel=KernelSpec(name="relu"), objective=neo),)}),
        (CutError, {"hidden": (hidden(),) * 3}),
        (DataError, {"dataset": DatasetSpec(classes=("3",))}),
        (LabelBudgetError, {"output": OutputSpec(labels_per_class=5000)}),
        (DataError, {"pairs": str(tmp_path / "nothing.csv")}),
        (PairError, {"pairs": with_pairs(registry, tmp_path / "p.csv", [0] * 20).pairs}),
    ]
    for error, change in wrong:
        with pytest.raises(error):
            plan(registry, spec.model_copy(update=change))  # With which the flow begins.
    error, change = wrong[-1]
    with pytest.raises(error):
        train_network(spec.model_copy(update=change))
    assert not list(registry.settings.work_dir.iterdir())
    assert not registry.modules.find()


def test_a_typed_error_of_a_child_reaches_the_caller(registry: Registry) -> None:
    explode = hidden().recipe.changed(learning_rate=1e30, schedule="constant")
    spec = tiny("nan").model_copy(update={"hidden": (hidden().changed(recipe=explode), hidden())})
    with pytest.raises(ModkernelError, match="learning_rate") as caught:
        train_network(spec)
    assert type(caught.value).__name__ == "NonFiniteError"
    client = registry.backends.client
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id], "tags.network = 'nan'")
    statuses = {run.info.status for run in runs}
    assert statuses == {"FAILED"}


@pytest.mark.long
def test_a_hidden_module_is_trained_on_several_devices(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a setting, which is no part of the recipe: what is there is reused."""
    monkeypatch.setenv("MODKERNEL_CPU_SLOTS", "2")
    monkeypatch.setenv("MODKERNEL_DEVICES_PER_MODULE", "2")
    result = train_network(tiny("together"))
    first, second, output = (registry.modules.resolve(module.id) for module in result.modules)
    reports = [registry.modules.report(record) for record in (first, second, output)]
    assert [report.devices for report in reports] == [2, 2, 1]
    shared.open_registry().close()
    monkeypatch.setenv("MODKERNEL_DEVICES_PER_MODULE", "1")
    assert [module.reused for module in train_network(tiny("together")).modules] == [True] * 3
    shared.open_registry().close()
    monkeypatch.setenv("MODKERNEL_DEVICES_PER_MODULE", "3")
    with pytest.raises(SettingsError, match="on 3 devices, and without a GPU 2 may"):
        train_network(tiny("more"))
    shared.open_registry().close()


def test_the_data_of_a_module_that_no_flow_trained_is_asked_for(with_net: Registry) -> None:
    module = with_net.modules.resolve("net.hidden-1")
    update(with_net.backends, module, dataset=None)
    with pytest.raises(SpecError, match="give 'dataset'"):
        compose_network("plain", module.id)


def test_maintenance_follows_promotions_and_repairs_altered_bytes(registry: Registry) -> None:
    first, _ = store_network(registry, tiny("kept").changed(output=None))
    registry.modules.fetch(first)  # To where it can be restored from, as for what is trained on it.
    client = registry.backends.client
    client.set_registered_model_alias(first.name, "champion", str(first.version))
    found = maintenance()
    assert [(p.name, p.alias, p.module_id) for p in found.promotions] == [
        (first.name, "champion", first.id)
    ]
    assert not found.repairs
    assert not maintenance().promotions

    record = registry.modules.resolve(first.id)
    assert record.model_id is not None
    folder = client.get_logged_model(record.model_id).artifact_location.removeprefix("file://")
    weights = Path(folder, "weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    repairs = maintenance().repairs
    # The weights and the moments, also of the module above: it names where MLflow keeps the first.
    # So does the network.
    assert [action.kind for action in repairs] == ["restored"] * 5
    names = ["kept.hidden-1"] * 2 + ["kept.hidden-2"] * 2 + ["kept"]
    assert [action.name for action in repairs] == names
    assert registry.verify() == ()
    assert registry.modules.resolve(f"{first.name}@champion").id == first.id


def test_a_flow_that_died_after_its_last_module_is_recorded_by_the_next(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError("died")

    spec = tiny("almost", epochs=(1,))
    with monkeypatch.context() as patched:
        patched.setattr("modkernel.flows.tasks.train_plan.record_network", die)
        with pytest.raises(RuntimeError, match="died"):
            train_network(spec)
    assert registry.networks.find("almost") == ()
    result = train_network(spec)
    assert (result.trained_modules, result.reused_modules) == (0, 2)
    (network,) = registry.networks.find("almost")
    assert network.run_id is not None
    run = registry.backends.client.get_run(network.run_id)
    assert run.info.status == "FINISHED"
    children = {registry.modules.resolve(module.id).run_id for module in result.modules}
    for child in children:
        assert child is not None
        tags = registry.backends.client.get_run(child).data.tags
        assert tags["mlflow.parentRunId"] == network.run_id
