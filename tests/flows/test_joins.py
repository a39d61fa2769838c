"""Networks on several stored modules side by side, through the flows that people run."""

from __future__ import annotations

from pathlib import Path

import pytest

from modkernel.errors import DataError, InterfaceError, LabelBudgetError, SpecError
from modkernel.flows.compose_network import compose_network
from modkernel.flows.deployments.of_specs.kinds import check_can_be
from modkernel.flows.display.lineage import lineage_svg
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.specs.composition import CompositionSpec
from modkernel.flows.train_module import train_module
from modkernel.registry import Registry
from modkernel.spec import BackboneSpec, DatasetSpec, NetworkSpec, OutputSpec
from tests.flows.helpers.specs import hidden, tiny
from tests.flows.helpers.trained import store_modules

RIDGE = OutputSpec(method="ridge")
TEN = DatasetSpec()


PAIRS = {"a": ("0", "1"), "bb": ("2", "7"), "ccc": ("4", "9")}
REFERENCES = tuple(f"{name}.hidden-1" for name in PAIRS)


def hidden_of(name: str, dataset: DatasetSpec) -> NetworkSpec:
    """One hidden module on data, of a seed by its name."""
    return tiny(name, epochs=(2,), seed=len(name)).changed(dataset=dataset, output=None)


@pytest.fixture
def modules_of_pairs(registry: Registry) -> Registry:
    """A registry with a hidden module for each of three pairs of digits."""
    for name, classes in PAIRS.items():
        store_modules(registry, hidden_of(name, DatasetSpec(classes=classes)))
    return registry


def test_a_join_of_modules_of_pairs_tells_ten_classes_apart(modules_of_pairs: Registry) -> None:
    registry = modules_of_pairs
    single = compose_network("alone", REFERENCES[0], TEN, RIDGE)
    join = compose_network("joined", REFERENCES, TEN, RIDGE)
    assert single.evaluation is not None
    assert join.evaluation is not None
    assert join.evaluation.accuracy > single.evaluation.accuracy + 0.1
    assert [module.name for module in join.modules] == [*REFERENCES, "joined.output"]
    assert [module.reused for module in join.modules] == [True, True, True, False]

    weighed = compose_network("weighed", REFERENCES, TEN, RIDGE, weights="aligned")
    spec = registry.modules.resolve(weighed.modules[-1].id).spec
    weights = [one.weight for one in spec.interface.upstream]
    assert len(weights) == len(set(weights)) > 1
    assert sum(weights) == pytest.approx(len(weights), rel=0.01)
    assert weights == [float(f"{weight:.3g}") for weight in weights], "no other by rounding errors"
    assert weighed.evaluation is not None
    assert weighed.evaluation.hidden_saw is not None
    assert weighed.evaluation.hidden_saw.endswith("the held-out labels that chose their weights")


@pytest.mark.long
def test_what_stands_on_a_join_and_what_is_made_again(modules_of_pairs: Registry) -> None:
    registry = modules_of_pairs
    join = compose_network("joined", REFERENCES, TEN, RIDGE)
    again = compose_network("joined", REFERENCES, TEN, RIDGE)
    assert (again.id, again.trained_modules) == (join.id, 0)
    other = compose_network("joined", REFERENCES, TEN, RIDGE, weights=(1, 1, 4))
    assert (other.id == join.id, other.trained_modules) == (False, 1), "weights make another one"
    compose_network("weighed", REFERENCES, TEN, RIDGE, weights="aligned")
    repeated = retrain_network("weighed", "output")
    assert repeated.trained_modules == 0

    # A hidden module on the join, whose lineage has all of it.
    top = train_module("on.all", hidden(), REFERENCES, TEN, BackboneSpec(name="mlp", depth=1))
    record = registry.modules.resolve(top.id)
    below = [registry.modules.resolve(reference) for reference in REFERENCES]
    assert registry.modules.chain(record) == (*below, record)
    assert record.spec.interface.takes == (48,)
    # What is shared with one beside it comes once.
    shared = compose_network("shared", ("on.all", "bb.hidden-1"), TEN, RIDGE)
    assert [module.name for module in shared.modules][:-1] == [*REFERENCES, "on.all"]

    modules = (*below, record, registry.modules.resolve(shared.modules[-1].id))
    drawn = lineage_svg(modules, registry.networks.find("shared"), {})
    assert drawn.count("<rect") == 1 + 5 + 1
    assert drawn.count("<path") == 3 + 2 + 1, "each of what stands on which, once"

    retrained = retrain_network("joined", "output", output=RIDGE.changed(ridge=0.1), name="more")
    assert [module.reused for module in retrained.modules] == [True, True, True, False]
    spec = registry.modules.resolve(retrained.modules[-1].id).spec
    assert [one.weight for one in spec.interface.upstream] == [1, 1, 4], "the network made last"
    with pytest.raises(SpecError, match="side by side, of which its output module alone"):
        retrain_network("joined", "1")


def test_what_cannot_be_joined_is_refused_before_it_trains(
    modules_of_pairs: Registry, tmp_path: Path
) -> None:
    registry = modules_of_pairs
    size = DatasetSpec(classes=("0", "1"), image_size=4)
    store_modules(registry, hidden_of("four", size).changed(output=OutputSpec(method="ridge")))
    first, second, _ = REFERENCES
    for error, told, arguments in (
        (InterfaceError, r"different shapes, .*image_size", {"hidden": (first, "four.hidden-1")}),
        (SpecError, "3 weights for 2 modules", {"hidden": (first, second), "weights": (1, 1, 1)}),
        (SpecError, "follows no alias", {"hidden": (first, second), "follow": True}),
    ):
        with pytest.raises(error, match=told):
            compose_network(**{"name": "x", "dataset": TEN, "output": RIDGE, **arguments})
    blank = tmp_path / "labels.csv"
    blank.write_text("id,label\n")
    for error, told, fields in (
        (InterfaceError, "is named twice", {"hidden": (first, first)}),
        (InterfaceError, "is an output module", {"hidden": (first, "four.output")}),
        (InterfaceError, "is an output module", {"hidden": "four.output"}),
        (SpecError, "single module says nothing", {"hidden": first, "weights": (2,)}),
        (SpecError, "single module says nothing", {"hidden": first, "weights": "aligned"}),
        (
            DataError,
            "nowhere",
            {"hidden": first, "dataset": {"name": "arrays", "path": "/nowhere"}},
        ),
        (DataError, "has no label", {"hidden": first, "labels": str(blank)}),
        (DataError, "'x'", {"hidden": first, "dataset": {"classes": ["1", "x"]}}),
        (LabelBudgetError, "9999", {"hidden": first, "output": {"labels_per_class": 9999}}),
    ):
        spec = CompositionSpec.model_validate({"name": "x", "dataset": {}, **fields})
        with pytest.raises(error, match=told):
            check_can_be(spec)  # which 'modkernel deploy' does
    with pytest.raises(SpecError, match="weights"):
        compose_network("x", (first, second), TEN, RIDGE, weights=(1, -1))
    with pytest.raises(SpecError, match="name a 'backbone'"):
        train_module("x.hidden-2", hidden(), (first, second))
    assert not registry.networks.find("x")
    assert not list(registry.settings.work_dir.iterdir())
