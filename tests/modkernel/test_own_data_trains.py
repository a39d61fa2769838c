"""Kinds of own data that were learnt wrongly, or not at all: trained from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modkernel import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    OutputSpec,
    Recipe,
    describe_dataset,
    load_dataset,
    train_network,
)
from modkernel.training.inputs import labelled_data
from modkernel.training.output import GivenLabels
from modkernel.training.report import OutputEvaluation, TrainReport
from tests.modkernel.helpers.data_made import folder_spec, npz, places


def evaluated(tmp_path: Path, dataset: DatasetSpec, **recipe: int) -> OutputEvaluation:
    """Of a small network that is trained on a data set."""
    found = trained(tmp_path, dataset, **recipe).evaluation
    assert found is not None
    return found


def trained(
    tmp_path: Path, dataset: DatasetSpec, batch_size: int = 32, epochs: int = 5
) -> TrainReport:
    """How the output module of a small network was trained."""
    recipe = Recipe(epochs=epochs, batch_size=batch_size, precision="float32")
    spec = NetworkSpec(
        name="own",
        dataset=dataset,
        backbone=BackboneSpec(name="mlp", width=16, depth=1),
        hidden=(HiddenSpec(kernel=KernelSpec(name="relu"), recipe=recipe),),
        output=OutputSpec(method="ridge"),
    )
    return train_network(spec, tmp_path / "net", device="cpu").reports[-1]


def arrays(tmp_path: Path, x: np.ndarray, y: np.ndarray) -> DatasetSpec:
    return DatasetSpec(name="arrays", path=str(npz(tmp_path / "a.npz", x=x, y=y)))


def test_validated_examples_that_are_trained_on_are_known(tmp_path: Path) -> None:
    y = np.repeat([0, 1], [40, 3])
    x = np.random.default_rng(0).normal(size=(43, 4))
    data = load_dataset(arrays(tmp_path, x, y), places(tmp_path))
    part, validation = data.training_part(), data.validation_part()
    assert len(data.borrowed)
    rows = torch.tensor([0, len(data.train), len(data.train) + 2])
    for given in (None, GivenLabels(rows, torch.zeros(3))):
        *_, held_out = labelled_data(data, given)
        used = set(data.train.ids)
        if given is not None:
            used |= {part.ids[row] for row in rows}
        expected = [i for i, name in enumerate(validation.ids) if name in used]
        assert held_out.trained is not None
        assert held_out.trained.tolist() == expected


@pytest.mark.parametrize("kind", ["a useless wide column", "narrow columns", "a sentinel"])
def test_columns_of_any_scale_are_learnt(tmp_path: Path, kind: str) -> None:
    chance = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = chance.normal(size=(400, 4)) + 6 * np.eye(4)[y]
    wide = chance.normal(size=(400, 1))
    if kind == "a useless wide column":
        wide *= 1e6
    elif kind == "narrow columns":
        x *= 1e-9
    else:
        x[::20, 0] = -99_999
    found = evaluated(tmp_path, arrays(tmp_path, np.concatenate((x, wide), 1), y))
    assert found.accuracy > 0.93


@pytest.mark.parametrize(
    ("sizes", "batch_size"), [([8] * 120, 8), ([6] * 40, 3), ([3] * 60 + [300], 5)]
)
def test_many_classes_in_small_batches_are_trained(
    tmp_path: Path, sizes: list[int], batch_size: int
) -> None:
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = np.random.default_rng(0).normal(size=(len(y), 6)) + y[:, None] % 7
    found = evaluated(tmp_path, arrays(tmp_path, x, y), batch_size=batch_size, epochs=1)
    assert found.labels > 100


@pytest.mark.parametrize("kind", ["png", "tif", "alpha"])
def test_what_eight_bits_or_colours_do_not_show_is_learnt(tmp_path: Path, kind: str) -> None:
    """Bars at the top or the left: in a small range of sixteen bits, of 32, in transparency."""
    chance = np.random.default_rng(0)
    for label in range(2):
        (tmp_path / "set" / str(label)).mkdir(parents=True)
        for number in range(60):
            values = chance.integers(0, 60, (12, 12))
            values[:4] = 240
            values = values if label else values.T
            if kind == "alpha":
                pixels = np.zeros((12, 12, 4), np.uint8)
                pixels[..., 3] = values
                image = Image.fromarray(pixels)
            elif kind == "tif":
                image = Image.fromarray((values * 1000).astype(np.int32))
            else:
                image = Image.fromarray(values.astype(np.uint16))
            end = "png" if kind == "alpha" else kind
            image.save(tmp_path / "set" / str(label) / f"{number}.{end}")
    assert evaluated(tmp_path, folder_spec(tmp_path / "set")).accuracy > 0.85


@pytest.mark.parametrize("rare", [(4,), (3, 9), (12,)])
def test_a_rare_class_is_shown_or_named_beside_the_accuracy(
    tmp_path: Path, rare: tuple[int, ...]
) -> None:
    y = np.repeat(np.arange(1 + len(rare)), [1000, *rare])
    x = np.random.default_rng(0).normal(size=(len(y), 4))  # Nothing tells the classes apart.
    dataset = arrays(tmp_path, x, y)
    found = evaluated(tmp_path, dataset)
    part = load_dataset(dataset, places(tmp_path)).validation
    own = {str(i): int((part.labels == i).sum()) for i in range(1 + len(rare))}
    assert found.accuracy > 0.95
    tested = [sum(row) for row in found.confusion]
    assert found.untested == tuple(str(i) for i, count in enumerate(tested) if not count)
    assert [one.name for one in found.validated] == list(found.untested)
    for one in found.validated:
        assert one.examples >= 2
        # Two are validated on, of which as many are lent by training as validation lacks.
        assert one.trained == max(0, 2 - own[one.name])
        assert ("trained on as well" in one.text) == (one.trained > 0)
        assert f"No test example of class '{one.name}'" in found.remarks or len(rare) > 1
        assert f"'{one.name}': {one.right} of {one.examples}" in found.remarks
    if len(found.untested) < len(rare):
        worst = found.worst_class
        assert (worst.right, worst.examples) == (0, tested[int(worst.name)])
        assert found.balanced_accuracy < 0.7


def test_with_nothing_to_test_on_a_network_is_trained_and_not_evaluated(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(8, 4))
    dataset = arrays(tmp_path, x, np.arange(8) % 2).changed(test_fraction=1e-9)
    assert trained(tmp_path, dataset).evaluation is None
    (finding,) = (
        finding
        for finding in describe_dataset(dataset, places(tmp_path)).findings
        if "test part" in finding.text
    )
    assert "no example in the test part, which has 0 in all" in finding.text
    assert "dataset.test_fraction" in finding.text
