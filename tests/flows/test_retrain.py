"""Replacing a stored network's modules from one stage on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modkernel.data import load_dataset
from modkernel.errors import (
    CutError,
    DataError,
    InterfaceError,
    LabelBudgetError,
    NotFoundError,
    ObjectiveError,
    SpecError,
)
from modkernel.flows.cli.retrain import _changes
from modkernel.flows.compose_network import compose_network
from modkernel.flows.plans import datasets
from modkernel.flows.plans.retrain import Changes, plan_retraining
from modkernel.flows.plans.steps import Below
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.runtime.events import Event, Note, Planned, watch
from modkernel.flows.runtime.results import NetworkResult
from modkernel.flows.specs.read import parse_spec
from modkernel.flows.train_network import train_network
from modkernel.registry import Registry
from modkernel.registry.saga import update
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    ObjectiveSpec,
    OutputSpec,
)
from tests.flows.helpers.specs import RELU, hidden, tiny
from tests.flows.test_flows import with_pairs

ONE_LABEL = OutputSpec(method="ridge", labels_per_class=1, draws=3)


def ids(result: NetworkResult) -> list[str]:
    return [module.id for module in result.modules]


def test_a_stage_is_trained_again_by_another_seed_and_nothing_before_it_changes(
    with_net: Registry,
) -> None:
    registry, old = with_net, with_net.networks.resolve("net")
    kept = {
        module.id: registry.modules.fetch(module)
        for module in registry.modules.find(name="net.hidden-1")
    }
    events: list[Event] = []
    with watch(events.append):
        new = retrain_network("net", "2", seed=7)
    assert [module.reused for module in new.modules] == [True, False, False]
    assert [module.name for module in new.modules] == [
        module.name for module in registry.networks.members(old)
    ]
    assert ids(new)[0] == old.module_ids[0]
    assert len({*ids(new), *old.module_ids}) == 5
    assert events[0] == Planned(("net.hidden-2", "net.output"))
    assert new.evaluation is not None
    assert new.evaluation.accuracy > 0.2
    assert registry.modules.resolve(ids(new)[1]).spec.seed == 7
    assert (
        registry.modules.resolve(ids(new)[1]).spec.hidden
        == registry.modules.resolve(old.module_ids[1]).spec.hidden
    )
    assert {
        module.id: registry.modules.fetch(module)
        for module in registry.modules.find(name="net.hidden-1")
    } == (kept)

    assert registry.networks.resolve("net").id == new.id != old.id
    sharing = registry.networks.sharing(registry.networks.resolve("net"))
    assert [[other.id for other in sharing[module]] for module in ids(new)] == [[old.id], [], []]

    events.clear()
    with watch(events.append):
        again = retrain_network(old.id, "net.hidden-2", seed=7)
    assert (again.id, again.trained_modules) == (new.id, 0)
    (note,) = (event.text for event in events if isinstance(event, Note))
    assert "--seed" in note
    assert "--spec" in note
    assert retrain_network(old.id, "1").id == old.id


@pytest.mark.long
def test_hidden_modules_take_the_place_of_those_from_a_stage_on(registry: Registry) -> None:
    old = train_network(tiny("deep", epochs=(1, 1, 1)))
    wide = BackboneSpec(name="mlp", width=24, depth=3)
    tanh = HiddenSpec(kernel=KernelSpec(name="tanh"), recipe=hidden().recipe)
    new = retrain_network("deep", "2", hidden=(tanh,), backbone=wide, output=ONE_LABEL, name="wide")
    assert [module.name for module in new.modules] == [
        "deep.hidden-1",
        "wide.hidden-2",
        "wide.output",
    ]
    below, top, output = map(registry.modules.resolve, ids(new))
    assert below.id == old.modules[0].id
    assert (top.spec.blocks, top.spec.interface.gives) == (("linear2", "linear3"), (24,))
    assert top.spec.interface.stands_on == (below.id,)
    assert output.spec.interface.kernel.name == "tanh"
    assert registry.networks.resolve("deep").id == old.id

    output_only = retrain_network("wide", "output", dataset=DatasetSpec(classes=("0", "1", "7")))
    assert [module.reused for module in output_only.modules] == [True, True, False]
    assert output_only.evaluation is not None
    assert len(output_only.evaluation.confusion) == 3
    assert output_only.evaluation.labels == 3

    other = BackboneSpec(name="mlp", width=8, depth=1)
    first = retrain_network("wide", "1", hidden=(hidden(),), backbone=other)
    assert [module.reused for module in first.modules] == [False, False]
    assert registry.modules.resolve(ids(first)[0]).spec.interface.gives == (8,)


@pytest.mark.long
def test_where_nothing_is_kept_the_data_may_have_another_size(registry: Registry) -> None:
    train_network(tiny("net"))
    small = DatasetSpec(image_size=4)
    with pytest.raises(InterfaceError, match="stands on examples"):
        retrain_network("net", "1", dataset=small)  # The modules as they were take 8 x 8.
    new = retrain_network("net", "1", hidden=(hidden(),), dataset=small)
    assert new.trained_modules == 2
    assert registry.modules.resolve(ids(new)[0]).spec.preprocessing.shape == (1, 4, 4)


@pytest.mark.long
def test_what_a_composed_network_does_not_say_comes_from_its_modules(registry: Registry) -> None:
    train_network(tiny("source"))
    few = DatasetSpec(classes=("0", "1", "7"))
    compose_network("odd", "source.hidden-1", few, ONE_LABEL)
    new = retrain_network("odd", "1", seed=3)
    first, output = map(registry.modules.resolve, ids(new))
    assert len(first.spec.dataset.classes) == 10
    assert output.spec.classes == ("0", "1", "7")
    assert output.spec.output == ONE_LABEL
    assert (first.name, first.spec.seed) == ("odd.hidden-1", 3)


@pytest.mark.long
def test_a_network_without_output_module_stays_without_or_gets_one(registry: Registry) -> None:
    train_network(tiny("bare").changed(output=None))
    assert len(retrain_network("bare", "2", seed=1).modules) == 2
    with pytest.raises(NotFoundError, match="has no output module"):
        retrain_network("bare", "output")
    with pytest.raises(SpecError, match="leave the labels out"):
        retrain_network("bare", "2", labels="labels.csv")
    made = retrain_network("bare", "output", output=ONE_LABEL)
    assert [module.reused for module in made.modules] == [True, True, False]


def test_a_network_is_refused_before_it_trains(with_net: Registry) -> None:
    net = with_net.networks.resolve("net")
    neo = HiddenSpec(kernel=RELU, objective=ObjectiveSpec(name="alignment_neo"))
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (NotFoundError, "no stage '4': use one of 1, 2, output", {"stage": "4"}),
        (NotFoundError, "no stage '0'", {"stage": "0"}),
        (SpecError, "leave 'hidden' out", {"stage": "output", "hidden": (hidden(),)}),
        (SpecError, "leave 'pairs' out", {"stage": "output", "pairs": "/nowhere.csv"}),
        (SpecError, "nothing to draw", {"output": OutputSpec(draws=10)}),
        (SpecError, "give 'hidden'", {"backbone": BackboneSpec(width=8)}),
        (CutError, "2 hidden modules cannot be cut from 1", {"hidden": (hidden(), hidden())}),
        (CutError, "no block 'linear1'", {"hidden": (hidden(until="linear1"),)}),
        (ObjectiveError, "alignment_neo", {"hidden": (neo,)}),
        (InterfaceError, "stands on examples", {"dataset": DatasetSpec(image_size=4)}),
        (DataError, "/nowhere", {"dataset": DatasetSpec(name="image_folder", path="/nowhere")}),
        (LabelBudgetError, "5000", {"output": OutputSpec(labels_per_class=5000)}),
    ]
    for error, message, change in wrong:
        stage = change.pop("stage", "2")
        with pytest.raises(error, match=message):
            plan_retraining(with_net, net, stage, "net", Changes(**change))  # As the flow begins.
    for error, message, arguments in (
        (NotFoundError, "No network answers to 'nobody'", ("nobody", "2")),
        (NotFoundError, "no stage '4': use one of 1, 2, output", ("net", "4")),
    ):
        with pytest.raises(error, match=message):
            retrain_network(*arguments)
    assert len(with_net.modules.find()) == 3
    assert len(with_net.networks.find()) == 1


def test_a_file_of_labels_takes_the_place_of_those_that_were_drawn(
    with_net: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[DatasetSpec] = []
    monkeypatch.setattr(datasets, "describe", lambda _, dataset: looks.append(dataset))
    net = with_net.networks.resolve("net")
    drawn = plan_retraining(with_net, net, "1", "net", Changes()).steps[-1]
    file = write_labels(tmp_path / "labels.csv", with_net)
    given = plan_retraining(with_net, net, "1", "net", Changes(labels=str(file))).steps[-1]
    below = Below.of_record(with_net.networks.members(net)[1])
    wanted = [step.spec_on(below).output for step in (drawn, given)]
    assert [(one.labels_per_class, one.draws) for one in wanted] == [(1, 3), (None, 1)]
    assert len(looks) == 2  # Once a plan, whatever the number of modules.


def write_labels(file: Path, registry: Registry) -> Path:
    """A file with the label of each training example of the digits."""
    data = load_dataset(tiny().dataset, registry.settings.places)
    assert data.train.labels is not None
    rows = zip(data.train.ids, data.train.labels.tolist(), strict=True)
    file.write_text("id,class\n" + "".join(f"{name},{label}\n" for name, label in rows))
    return file


@pytest.mark.long
def test_pairs_are_those_of_the_network_or_asked_for(registry: Registry, tmp_path: Path) -> None:
    train_network(with_pairs(registry, tmp_path / "pairs.csv", [0, 1] * 150))
    new = retrain_network("pairs", "2", seed=1)
    facts = registry.modules.resolve(ids(new)[1]).spec.dataset
    assert facts.pairs_fingerprint is not None
    # This network has no spec, but the registry knows what its modules were trained on.
    assert registry.networks.resolve(new.id).spec is None
    assert retrain_network(new.id, "2", seed=2).trained_modules == 1
    update(registry.backends, registry.modules.resolve(ids(new)[1]), pairs=None)
    with pytest.raises(SpecError, match="give it in 'pairs'"):
        retrain_network(new.id, "2", seed=3)
    path = str(tmp_path / "pairs.csv")
    assert retrain_network(new.id, "2", seed=3, pairs=path).trained_modules == 1


@pytest.mark.long
def test_a_file_of_labels_is_asked_for_again(registry: Registry, tmp_path: Path) -> None:
    train_network(tiny("net").changed(output=None))
    file = write_labels(tmp_path / "labels.csv", registry)
    plain = OutputSpec(method="ridge")
    compose_network("by-file", "net.hidden-2", output=plain, labels=str(file))
    with pytest.raises(SpecError, match="give it in --labels"):
        retrain_network("by-file", "2", seed=1)
    with pytest.raises(SpecError, match="used as a whole"):
        retrain_network("by-file", "2", labels=str(file), output=ONE_LABEL)
    new = retrain_network("by-file", "2", seed=1, labels=str(file))
    assert [module.reused for module in new.modules] == [True, False, False]
    assert registry.modules.resolve(ids(new)[2]).spec.dataset.labels_fingerprint is not None
    own = retrain_network("by-file", "output", output=plain)
    assert registry.modules.resolve(ids(own)[2]).spec.dataset.labels_fingerprint is None


def test_the_command_takes_what_the_file_names(registry: Registry, tmp_path: Path) -> None:
    def changes(text: str) -> dict[str, Any]:
        return _changes(parse_spec(text, name="x.yaml", folder=tmp_path), "x.yaml")

    assert changes("name: a") == {}
    assert changes("name: a\nseed: 3\noutput: {draws: 2}") == {
        "seed": 3,
        "output": OutputSpec(draws=2),
    }
    with pytest.raises(SpecError, match=r"x\.yaml: 'output: null'"):
        changes("name: a\noutput: null")
    assert json.dumps(changes("name: a\npairs: p.csv")) == json.dumps(
        {"pairs": str(tmp_path / "p.csv")}
    )
