"""The baseline that is trained end to end: what decides it, and what does not."""

from __future__ import annotations

from itertools import pairwise

import pytest

from modkernel.data import Dataset, DatasetInfo, Split
from modkernel.data.sources import Resident
from modkernel.errors import DataError, ObjectiveError
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)
from modkernel.training.end_to_end import baseline_key, train_end_to_end
from tests.modkernel.helpers.training_examples import (
    FLOAT32,
    PREPROCESSING,
    made_images,
)

RELU = KernelSpec(name="relu")
SHORT = Recipe(epochs=2, batch_size=32)
DEEP = BackboneSpec(name="mlp", depth=2, width=8)
CUT = NetworkSpec(
    name="made",
    backbone=DEEP,
    hidden=(HiddenSpec(kernel=RELU, recipe=SHORT), HiddenSpec(kernel=RELU, recipe=SHORT)),
)


def baseline_info(labelled_set: bool = True) -> DatasetInfo:
    return DatasetInfo(
        name="made",
        classes=("a", "b", "c") if labelled_set else (),
        fingerprint="f" * 64,
        preprocessing=PREPROCESSING,
        train_counts=(32, 32, 32) if labelled_set else None,
        n_train=96,
        n_validation=30,
        n_test=60,
        labelled=labelled_set,
    )


def test_a_baseline_s_key_ignores_the_output_s_recipe_and_where_the_data_is() -> None:
    spec = NetworkSpec(
        name="made", backbone=DEEP, hidden=(HiddenSpec(kernel=KernelSpec(name="relu")),)
    )
    key = baseline_key(spec, baseline_info()).digest()
    moved = spec.model_copy(
        update={"dataset": DatasetSpec(path="elsewhere"), "output": OutputSpec(draws=3)}
    )
    assert baseline_key(moved, baseline_info()).digest() == key
    assert baseline_key(spec.changed(seed=1), baseline_info()).digest() != key


def test_a_baseline_that_cannot_be_is_refused() -> None:
    gaussian = HiddenSpec(
        kernel=KernelSpec(name="gaussian"), objective=ObjectiveSpec(name="upper_alignment")
    )
    spec = NetworkSpec(name="made", backbone=DEEP, hidden=(gaussian,))
    with pytest.raises(ObjectiveError, match="end to end"):
        baseline_key(spec, baseline_info())
    with pytest.raises(DataError, match="no class labels"):
        baseline_key(spec, baseline_info(labelled_set=False))


def test_what_modules_alone_use_plays_no_part() -> None:
    first, last = CUT.hidden
    key = baseline_key(CUT, baseline_info())
    for other in (
        (last,),
        (first.changed(kernel=KernelSpec(name="tanh")), last),
        (first.changed(recipe=Recipe(epochs=9)), last),
        (first, last.changed(objective=ObjectiveSpec(name="pair_correlation"))),
        (first.changed(tail="none"), last.changed(projection=4)),
    ):
        assert baseline_key(CUT.changed(hidden=other), baseline_info()) == key
    for other in (
        (first, last.changed(kernel=KernelSpec(name="tanh"))),
        (first, last.changed(recipe=Recipe(epochs=9))),
    ):
        assert baseline_key(CUT.changed(hidden=other), baseline_info()) != key


def test_a_baseline_is_the_same_wherever_the_network_is_cut() -> None:
    images, labels = made_images(186)
    parts = [
        Split([str(i) for i in range(a, b)], labels[a:b], Resident(images, a, b))
        for a, b in pairwise((0, 96, 126, 186))
    ]
    data = Dataset("made", ("a", "b", "c"), "f" * 64, PREPROCESSING, *parts)
    cut, whole = (
        train_end_to_end(spec, data, arithmetic=FLOAT32)
        for spec in (CUT, CUT.changed(hidden=CUT.hidden[1:]))
    )
    assert [line.objective for line in cut.history] == [line.objective for line in whole.history]
    assert cut.evaluation == whole.evaluation
    assert cut.recipe_digest == whole.recipe_digest
