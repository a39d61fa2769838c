"""Class moments: one pass, the same however the examples come, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modkernel.errors import ClassError, MomentsError
from modkernel.reuse import moments as module
from modkernel.reuse.moments import ClassMoments, ModuleMoments, accumulate, check_size
from modkernel.reuse.task import Task, parse_task
from tests.modkernel.helpers.feature_examples import NAMES, cases, features_of, moments_of

TENSORS = ("counts", "sums", "products", "squares", "fourths")


def by_loop(features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """The definitions, example by example, in float64."""
    d = features.shape[1]
    out = {
        "counts": torch.zeros(classes, dtype=torch.int64),
        "sums": torch.zeros(classes, d, dtype=torch.float64),
        "products": torch.zeros(classes, d, d, dtype=torch.float64),
        "squares": torch.zeros(classes, dtype=torch.float64),
        "fourths": torch.zeros(classes, dtype=torch.float64),
    }
    for phi, label in zip(features.double(), labels.tolist(), strict=True):
        if label < 0:
            continue
        out["counts"][label] += 1
        out["sums"][label] += phi
        out["products"][label] += torch.outer(phi, phi)
        out["squares"][label] += phi @ phi
        out["fourths"][label] += (phi @ phi) ** 2
    return out


def assert_equal(found: ClassMoments, expected: ClassMoments | dict[str, Tensor]) -> None:
    for name in TENSORS:
        want = expected[name] if isinstance(expected, dict) else getattr(expected, name)
        torch.testing.assert_close(getattr(found, name), want, rtol=1e-12, atol=1e-12)


@given(cases())
@settings(max_examples=25)
def test_moments_are_their_definitions(case) -> None:
    features, labels = case
    found = moments_of(features, labels)
    assert_equal(found, by_loop(features, labels, len(found.classes)))
    assert found.dimension == features.shape[1]
    assert found.examples == len(labels)
    assert found.least == float(features.min())
    assert torch.equal(found.products, found.products.mT)


@given(cases(), st.lists(st.integers(0, 60), max_size=8), st.integers(0, 60))
@settings(max_examples=25)
def test_blocks_and_shards_change_nothing(case, cuts, shard) -> None:
    features, labels = case
    whole = moments_of(features, labels)
    ends = [0, *sorted(min(cut, len(labels)) for cut in cuts), len(labels)]
    blocks = [(features[a:b], labels[a:b]) for a, b in pairwise(ends)]  # Some are empty.
    assert_equal(accumulate(blocks, whole.classes, whole.fingerprint), whole)

    shard = min(max(1, shard), len(labels) - 1)
    parts = [
        accumulate([(features[part], labels[part])], whole.classes, whole.fingerprint)
        for part in (slice(0, shard), slice(shard, None))
    ]
    merged = parts[0].merge(parts[1])
    assert_equal(merged, whole)
    assert merged.least == whole.least


def test_float32_features_are_summed_in_float64() -> None:
    features = torch.rand(5000, 3) + 1000
    labels = torch.arange(5000) % 2
    assert_equal(accumulate([(features, labels)], ("a", "b"), ""), by_loop(features, labels, 2))


def test_large_and_small_blocks_are_brought_to_one_size(monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", (4, 7))
    features, labels = features_of("random", [30, 11], 5, 0)
    sizes = [2, 2, 2, 30, 1, 1, 3]
    blocks = list(zip(features.split(sizes), labels.split(sizes), strict=True))
    regrouped = list(module._regroup(blocks))
    assert torch.equal(torch.cat([phi for phi, _ in regrouped]), features)
    assert torch.equal(torch.cat([answers for _, answers in regrouped]), labels)
    assert max(len(answers) for _, answers in regrouped) <= 7
    assert len(regrouped) < 41 / 3


@given(cases(), st.integers(0, 1000))
@settings(max_examples=25)
def test_grouping_is_relabelling(case, seed) -> None:
    features, labels = case
    found = moments_of(features, labels)
    count = len(found.classes)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    first = order[: max(1, count // 2)]
    second = order[len(first) : len(first) + 1]
    task = Task(
        groups={"one": tuple(NAMES[i] for i in first), "two": tuple(NAMES[i] for i in second)}
    )
    side = torch.full((count,), -1)
    side[first], side[second] = 0, 1
    grouped = found.grouped(task)
    assert grouped.classes == ("one", "two")
    assert grouped.fingerprint == found.fingerprint
    assert_equal(grouped, accumulate([(features, side[labels])], ("one", "two"), ""))


def test_examples_without_a_label_are_left_out() -> None:
    features, labels = features_of("tanh", [6, 9], 4, 0)
    hidden = labels.clone()
    hidden[::3] = -1
    kept = hidden >= 0
    assert_equal(
        accumulate([(features, hidden)], NAMES[:2], ""),
        accumulate([(features[kept], labels[kept])], NAMES[:2], ""),
    )


def test_merging_other_moments() -> None:
    features, labels = features_of("random", [4, 4], 5, 0)
    mine = moments_of(features, labels)
    others = {
        "classes": accumulate([(features, labels)], ("x", "y"), mine.fingerprint),
        "fingerprint": moments_of(features, labels, "0" * 64),
        "dimension": moments_of(features[:, :3], labels),
    }
    for what, other in others.items():
        with pytest.raises(MomentsError, match=f"Class moments of {what} "):
            mine.merge(other)
    with pytest.raises(MomentsError, match="fingerprint"):
        ModuleMoments("m", mine, others["fingerprint"], 0.0)


def test_unknown_class_in_a_grouping() -> None:
    found = moments_of(*features_of("random", [4, 4], 5, 0))
    with pytest.raises(ClassError, match="'cow'"):
        found.grouped(parse_task("cat, cow"))


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([], "no examples"),
        ([(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))], "no examples"),
        ([(torch.tensor([[1.0, float("nan")]]), torch.tensor([0]))], "not finite"),
        ([(torch.ones(1, 2), torch.tensor([2]))], "not in 0 … 1"),
        ([(torch.ones(1, 2), torch.tensor([-2]))], "not in 0 … 1"),
        ([(torch.ones(2, 2), torch.tensor([0]))], r"features of shape \[2, 2\]"),
        (
            [(torch.ones(1, 2), torch.tensor([0])), (torch.ones(1, 3), torch.tensor([0]))],
            "3 features, the ones before it 2",
        ),
    ],
)
def test_blocks_that_are_refused(blocks, says) -> None:
    with pytest.raises(MomentsError, match=says):
        accumulate(blocks, ("cat", "dog"), "")


def test_size_limit() -> None:
    check_size(10, 2048)
    with pytest.raises(MomentsError, match=r"10 classes and 16384 features take .* relu_avgpool"):
        check_size(10, 16384)
    with pytest.raises(MomentsError, match="16384 features"):
        accumulate([(torch.ones(1, 16384), torch.tensor([0]))], NAMES, "")
