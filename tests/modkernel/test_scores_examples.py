"""Scores of features and outputs of examples: streamed contrastive ones, LEEP and NCE."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modkernel.errors import ScoreError
from modkernel.kernels import Kernel
from modkernel.objectives.table import make_objective
from modkernel.pairs.source import PairLabels
from modkernel.reuse.scores import SCORES, contrast, leep, nce, neighbours
from modkernel.spec import ObjectiveSpec
from tests.modkernel.helpers.feature_examples import cases, features_of

BOUNDED = Kernel("linear", -1.0, 1.0, lambda h: h)
CONTRASTIVE = ("contrastive", "log_contrastive", "anchor_contrastive")


@pytest.mark.parametrize("name", CONTRASTIVE)
@pytest.mark.parametrize("temperature", [1.0, 0.05])
@given(case=cases(least=2), rows=st.integers(1, 60))
@settings(max_examples=12)
def test_streamed_scores_are_those_of_the_whole_matrix(name, temperature, case, rows) -> None:
    features, labels = case
    objective = make_objective(ObjectiveSpec(name=name, temperature=temperature), BOUNDED)
    whole = objective(features @ features.T, PairLabels.from_classes(labels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "ROWS", rows)
        found = SCORES[name].function(features, labels, temperature)
    assert found == pytest.approx(float(whole), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_examples_without_a_label_or_a_partner(name) -> None:
    features, labels = features_of("relu", (5, 1, 4), 6, 0)
    hidden = torch.where(torch.arange(10) % 4 == 0, -1, labels)
    kept = hidden >= 0
    objective = make_objective(ObjectiveSpec(name=name), BOUNDED)
    x = features[kept]
    whole = objective(x @ x.T, PairLabels.from_classes(hidden[kept]))
    assert SCORES[name].function(features, hidden) == pytest.approx(float(whole), rel=1e-9)
    with pytest.raises(ScoreError, match="two examples of some class"):
        SCORES[name].function(features[:3], torch.tensor([0, 1, -1]))
    with pytest.raises(ScoreError, match="two examples of some class"):
        SCORES[name].function(features, torch.full((10,), -1))


def outputs(n: int, z: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(n, z, generator=generator, dtype=torch.float64).mul(3).softmax(1)
    return theta, torch.randint(0, 3, (n,), generator=generator)


def leep_by_loop(theta: list[list[float]], labels: list[int]) -> float:
    n, sources = len(theta), range(len(theta[0]))
    marginal = [sum(row[z] for row in theta) / n for z in sources]
    total = 0.0
    for row, label in zip(theta, labels, strict=True):
        expected = 0.0
        for z in sources:
            joint = sum(
                other[z] for other, answer in zip(theta, labels, strict=True) if answer == label
            )
            expected += joint / n / marginal[z] * row[z] if marginal[z] else 0
        total += math.log(expected)
    return total / n


def nce_by_loop(theta: list[list[float]], labels: list[int]) -> float:
    n = len(theta)
    chosen = [row.index(max(row)) for row in theta]
    entropy = 0.0
    for z in set(chosen):
        of_z = [label for label, other in zip(labels, chosen, strict=True) if other == z]
        for label in set(of_z):
            share = of_z.count(label) / len(of_z)
            entropy -= len(of_z) / n * share * math.log(share)
    return -entropy


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=40)
def test_leep_and_nce_are_their_definitions(n, z, seed) -> None:
    theta, labels = outputs(n, z, seed)
    by_hand = theta.tolist(), labels.tolist()
    assert leep(theta, labels) == pytest.approx(leep_by_loop(*by_hand), rel=1e-9, abs=1e-12)
    assert nce(theta, labels) == pytest.approx(nce_by_loop(*by_hand), rel=1e-9, abs=1e-12)


def test_sure_outputs_and_classes_that_are_never_given() -> None:
    theta = torch.eye(4, dtype=torch.float64)[torch.tensor([0, 0, 2, 2])]
    assert leep(theta, torch.tensor([1, 1, 0, 0])) == 0
    assert nce(theta, torch.tensor([1, 1, 0, 0])) == 0
    half = torch.tensor([0, 1, 0, 1])
    assert leep(theta, half) == nce(theta, half) == pytest.approx(math.log(0.5))


def test_float32_outputs_and_unlabelled_examples() -> None:
    theta, labels = outputs(20, 4, 0)
    some = torch.where(torch.arange(20) % 3 == 0, -1, labels)
    kept = some >= 0
    for score in (leep, nce):
        assert score(theta.float(), some) == pytest.approx(
            score(theta[kept], labels[kept]), rel=1e-5
        )


@pytest.mark.parametrize("score", [leep, nce])
@pytest.mark.parametrize(
    ("theta", "labels", "says"),
    [
        (torch.ones(2, 3), torch.tensor([0, 1]), "must sum to 1"),
        (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), "must not be negative"),
        (torch.full((2, 2), torch.nan), torch.tensor([0, 1]), "must sum to 1"),
        (torch.ones(2, 1), torch.tensor([-1, -1]), "no labelled examples"),
        (torch.ones(2, 1), torch.tensor([0]), r"shape \[2, 1\] do not go with .* \[1\]"),
    ],
)
def test_outputs_that_are_refused(score, theta, labels, says) -> None:
    with pytest.raises(ScoreError, match=says):
        score(theta, labels)


def knn_by_loop(
    train: torch.Tensor, labels: list[int], held_out: torch.Tensor, answers: list[int]
) -> float:
    """The votes of the nearest in exact arithmetic: features are whole numbers here."""
    k = min(neighbours.NEIGHBOURS, *(labels.count(side) for side in set(labels)))
    right: dict[int, list[Fraction]] = {}
    for point, answer in zip(held_out.tolist(), answers, strict=True):
        distances = [
            sum((a - b) ** 2 for a, b in zip(point, x, strict=True)) for x in train.tolist()
        ]
        last = sorted(distances)[k - 1]
        equal = sum(d == last for d in distances)
        share = Fraction(k - sum(d < last for d in distances), equal)
        votes = dict.fromkeys(labels, Fraction(0))
        for d, side in zip(distances, labels, strict=True):
            votes[side] += 1 if d < last else share if d == last else 0
        best = [side for side, count in votes.items() if count == max(votes.values())]
        right.setdefault(answer, []).append(Fraction(answer in best, len(best)))
    return float(sum(sum(each) / len(each) for each in right.values()) / len(right))


@given(seed=st.integers(0, 10_000), n=st.integers(4, 40), numbers=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_knn_is_that_of_every_distance_with_ties_shared(seed, n, numbers) -> None:
    generator = torch.Generator().manual_seed(seed)
    train = torch.randint(0, 4, (n, 3), generator=generator).float()
    held_out = torch.randint(0, 4, (17, 3), generator=generator).float()
    labels, answers = torch.arange(n) % 3, torch.arange(17) % 3
    labels[torch.rand(n, generator=generator) < 0.2] = -1
    labels[:3], answers[3] = torch.arange(3), -1
    kept, asked = labels >= 0, answers >= 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "NUMBERS", numbers)
        found = SCORES["knn"].function(train, labels, held_out, answers)
    oracle = knn_by_loop(
        train[kept], labels[kept].tolist(), held_out[asked], answers[asked].tolist()
    )
    assert found == pytest.approx(oracle, abs=1e-9)


def test_knn_does_not_depend_on_the_order_of_equal_examples() -> None:
    """Products of equal rows with one other differ by rounding, by their place."""
    generator = torch.Generator().manual_seed(0)
    base = torch.nn.functional.normalize(torch.randn(40, 64, generator=generator))
    rows = torch.randint(40, (1607,), generator=generator)
    labels = torch.randint(3, (1607,), generator=generator)
    held_out = torch.randn(90, 64, generator=generator)
    answers = torch.arange(90) % 3
    found = set()
    for _ in range(8):
        order = torch.randperm(1607, generator=generator)
        knn = SCORES["knn"].function(base[rows[order]], labels[order], held_out, answers)
        found.add(round(knn, 9))
    assert len(found) == 1


def test_knn_without_examples_has_no_value() -> None:
    phi, none = torch.eye(3), torch.full((3,), -1)
    with pytest.raises(ScoreError, match="some of each"):
        SCORES["knn"].function(phi, none, phi, torch.arange(3))
    with pytest.raises(ScoreError, match="some of each"):
        SCORES["knn"].function(phi, torch.arange(3), phi, none)
