"""The guard of stitches: its figures by brute force, and noise, which can be stitched, refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modkernel.backbones import build_hidden
from modkernel.data import Dataset, Resident, Split
from modkernel.errors import StitchError
from modkernel.features.extractor import frozen_chain
from modkernel.kernels import make_kernel
from modkernel.modules.stored import StoredModule, write_module
from modkernel.pairs.source import PairSource
from modkernel.plan import plan_hidden
from modkernel.spec import BackboneSpec, HiddenSpec, KernelSpec, Preprocessing, Recipe, StitchSpec
from modkernel.training.hidden import train_hidden
from modkernel.training.pair_data import PairData
from modkernel.training.report import StitchFigures
from modkernel.training.stitch import fit_stitch
from modkernel.training.stitch_guard import (
    _untrained,
    check_worth,
    judge_stitch,
    kept_above_chance,
    objection_to,
    standard_error,
)
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.training_examples import FACTS, made_images
from tests.modkernel.test_stitch import maps, stitched

SIDE, CLASSES = 16, 6
TAKES = Preprocessing(shape=(1, SIDE, SIDE), dtype="uint8", mean=(0.5,), std=(0.25,))
LENET = BackboneSpec(name="lenet5")
GOOD = StitchFigures(
    explained=0.97, held_out=1000, labels_per_class=10, draws=20,
    accuracy=0.86, lower=0.78, untrained=0.6, upper=0.87,
    gain_error=0.01, lower_error=0.01, kept=0.98,
)  # fmt: skip


def strokes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of a bar in one of six directions, anywhere, in noise; and the directions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    angle = labels * (math.pi / CLASSES)
    place = torch.rand(2, count, 1, 1, generator=generator) * 8 + 4
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    x, y = x - place[0], y - place[1]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    bar = ((x * cos + y * sin).abs() < 5) & ((y * cos - x * sin).abs() < 1.2)
    noise = torch.randn(count, SIDE, SIDE, generator=generator) * 60
    return (bar * 80 + 80 + noise).clamp(0, 255).to(torch.uint8)[:, None], labels


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise around six patterns of noise, and which: it can be learnt, and is of no use."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    patterns = torch.rand(CLASSES, 1, SIDE, SIDE, generator=generator) * 127
    noise = torch.rand(count, 1, SIDE, SIDE, generator=generator) * 127
    return (patterns[labels] + noise).to(torch.uint8), labels


def trained(folder: Path, seed: int, images: Tensor, labels: Tensor) -> list[StoredModule]:
    recipe = Recipe(epochs=2, batch_size=64)
    wanted = [HiddenSpec(until=end, recipe=recipe, tail="none") for end in ("conv2", "fc2")]
    chain: list[StoredModule] = []
    parts = [
        PairData(Resident.whole(images[rows]), PairSource.from_classes(labels[rows]))
        for rows in (slice(300, None), slice(300))
    ]
    for position, plan in enumerate(plan_hidden(LENET, wanted, TAKES.shape)):
        upstream = chain[-1].id if chain else TAKES.id
        spec = plan.spec(upstream, TAKES, FACTS, seed)
        weights, _ = train_hidden(spec, *parts, chain, arithmetic=FLOAT32)
        chain.append(write_module(folder / f"{seed}-{position}", spec, weights))
    return chain


def data_of() -> Dataset:
    def split(count: int, seed: int) -> Split:
        images, labels = strokes(count, seed)
        return Split([f"{seed}/{i}" for i in range(count)], labels, Resident.whole(images))

    parts = split(1500, 5), split(600, 6), split(6, 7)
    return Dataset("strokes", tuple("abcdef"), "f" * 64, TAKES, *parts)


def judged(
    folder: Path, lower: list[StoredModule], upper: list[StoredModule], data: Dataset
) -> StitchFigures:
    spec = stitched(lower[0], upper[-1], StitchSpec(examples=1000))
    weights, _ = fit_stitch(spec, data.train.examples, lower[:1], upper, arithmetic=FLOAT32)
    stored = write_module(folder / spec.digest()[:8], spec, weights)
    return judge_stitch(lower[:1], upper, stored, data, FLOAT32)


def test_a_stitch_of_trained_modules_is_worth_it_and_noise_is_refused(tmp_path: Path) -> None:
    data = data_of()
    one, other = (trained(tmp_path, seed, *strokes(1800, seed)) for seed in (1, 2))
    noise = trained(tmp_path, 3, *clusters(1800, 3))
    good = judged(tmp_path, one, other, data)
    assert good.objection is None, good.text
    check_worth(good)
    assert good.labels_per_class == 10
    assert good.accuracy is not None
    assert good.lower is not None
    assert good.accuracy > good.lower

    on_noise = judged(tmp_path, noise, other, data)
    # It is far better than LOWER alone all the same: the map has learnt from UPPER's features.
    assert (on_noise.accuracy or 0) > 2 * (on_noise.lower or 1)
    with pytest.raises(StitchError, match=r"keeps too little .* 95% .* --force"):
        check_worth(on_noise)
    of_noise = judged(tmp_path, one, noise, data)
    with pytest.raises(StitchError, match="not surely better than LOWER alone"):
        check_worth(of_noise)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"accuracy": 0.799}, "not surely better than LOWER alone"),
        ({"accuracy": 0.801}, None),
        ({"untrained": 0.761}, "untrained weights"),
        ({"untrained": 0.759}, None),
        # Of few held-out examples: a great difference may be chance.
        ({"untrained": 0.5, "lower_error": 0.15}, "is 28.0% with a standard error of 15.0%"),
        ({"kept": 0.949}, "too little"),
        ({"accuracy": None, "lower": None, "untrained": None}, None),
        ({"accuracy": None, "lower": None, "untrained": None, "explained": 0.89}, "do not come"),
    ],
)
def test_what_is_objected_to(changes: dict[str, float | None], says: str | None) -> None:
    found = objection_to(GOOD.changed(**changes))
    assert (found is None) if says is None else (found is not None and says in found)


def test_errors_and_shares_by_hand() -> None:
    difference = torch.tensor([[1.0, 0.0, 0.0, -1.0], [1.0, 1.0, 0.0, 0.0]]).double()
    # Means over draws 1, 0.5, 0, -0.5 and over examples 0, 0.5.
    by_hand = math.sqrt((5 / 12) / 4 + (1 / 8) / 2)
    assert standard_error(difference) == pytest.approx(by_hand, rel=1e-12)
    assert standard_error(difference[:1, :1]) == 0
    assert kept_above_chance(0.6, 0.9, 2) == pytest.approx(0.25)
    assert kept_above_chance(0.4, 0.9, 2) == 0
    assert kept_above_chance(0.6, 0.5, 2) == 0


def test_data_without_labels_are_judged_by_features_alone(tmp_path: Path) -> None:
    lower, (below, upper) = maps(tmp_path, 0)[:1], maps(tmp_path, 1)
    spec = stitched(lower[0], upper)
    raw = made_images(80)[0]
    part = Split([str(i) for i in range(80)], None, Resident.whole(raw))
    data = Dataset("bare", (), "f" * 64, lower[0].spec.preprocessing, part, part, part)
    weights, _ = fit_stitch(spec, part.examples, lower, [below, upper], arithmetic=FLOAT32)
    stored = write_module(tmp_path / "stitch", spec, weights)
    found = judge_stitch(lower, [below, upper], stored, data, FLOAT32)
    kernel = make_kernel(upper.spec.interface.kernel)
    home, ours = (
        kernel.features(frozen_chain(chain)(raw)).double()
        for chain in ([below, upper], [*lower, stored])
    )
    left = (ours - home).square().sum() / (home - home.mean(0)).square().sum()
    assert found.explained == pytest.approx(1 - float(left), rel=1e-5)
    assert (found.accuracy, found.held_out) == (None, 80)
    assert found.metrics() == {"stitch.explained": found.explained}


@pytest.mark.parametrize("count", [20, 129, 257, 385])
def test_lower_of_vectors_is_judged_on_any_number_of_examples(tmp_path: Path, count: int) -> None:
    """Batch norms of vectors take no batch of one example."""
    takes = Preprocessing(shape=(6,), dtype="float32", mean=(0.0,) * 6, std=(1.0,) * 6)
    wanted = [HiddenSpec(kernel=KernelSpec(name="relu"))]
    (plan,) = plan_hidden(BackboneSpec(name="mlp", width=8, depth=1), wanted, takes.shape)
    spec = plan.spec(takes.id, takes, FACTS, 0)
    fresh = build_hidden(spec.backbone, spec.blocks, takes.shape, 0).state_dict()
    lower = write_module(tmp_path / "lower", spec, fresh)
    rows = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    norms = [
        part
        for part in _untrained([lower], Resident.whole(rows), FLOAT32).modules()
        if isinstance(part, torch.nn.BatchNorm1d)
    ]
    assert norms
    for norm in norms:
        assert norm.running_mean is not None
        assert int(norm.num_batches_tracked) == max(1, count // 128)
        assert float(norm.running_mean.abs().max()) > 0


@pytest.mark.parametrize("own", [5, 0])
def test_training_examples_that_are_validated_on_judge_no_stitch(tmp_path: Path, own: int) -> None:
    lower, (below, upper) = maps(tmp_path, 0)[:1], maps(tmp_path, 1)
    spec = stitched(lower[0], upper)
    raw, labels = made_images(80)

    def part(rows: slice) -> Split:
        names = [str(i) for i in range(80)][rows]
        return Split(names, labels[rows], Resident.whole(raw[rows]))

    parts = part(slice(40)), part(slice(40, 40 + own)), part(slice(45, 80))
    pixels = lower[0].spec.preprocessing
    data = Dataset("few", tuple("abc"), "f" * 64, pixels, *parts, borrowed=torch.arange(6))
    chain = [below, upper]
    weights, _ = fit_stitch(spec, data.train.examples, lower, chain, arithmetic=FLOAT32)
    stored = write_module(tmp_path / "stitch", spec, weights)
    found = judge_stitch(lower, chain, stored, data, FLOAT32)
    assert found.held_out == own
    assert (found.accuracy is None) == (own == 0)
    if not own:
        with pytest.raises(
            StitchError, match=r"to judge it by that no module was trained on.*--force"
        ):
            check_worth(found)


@pytest.mark.parametrize("own", [5, 0])
def test_validation_examples_that_are_left_out_judge_no_stitch(tmp_path: Path, own: int) -> None:
    lower, chain = maps(tmp_path, 0)[:1], maps(tmp_path, 1)
    spec = stitched(lower[0], chain[-1])
    raw, labels = made_images(80)

    def part(*rows: int) -> Split:
        chosen = torch.tensor(rows, dtype=torch.int64)
        return Split([str(row) for row in rows], labels[chosen], Resident.whole(raw[chosen]))

    seen = tuple(row for row in range(40, 60) if row >= 40 + own)
    train, test, pixels = part(*range(40)), part(*range(60, 80)), lower[0].spec.preprocessing
    whole, rest = (
        Dataset("mixed", tuple("abc"), "f" * 64, pixels, train, part(*rows), test)
        for rows in ((*seen, *range(40, 40 + own)), tuple(range(40, 40 + own)))
    )
    weights, _ = fit_stitch(spec, train.examples, lower, chain, arithmetic=FLOAT32)
    stored = write_module(tmp_path / "stitch", spec, weights)
    left_out = tuple(range(len(seen)))
    found = judge_stitch(lower, chain, stored, whole, FLOAT32, left_out=left_out)
    assert found == judge_stitch(lower, chain, stored, rest, FLOAT32)
    assert found.held_out == own
    assert (found.accuracy is None) == (own == 0)
