"""Scores from class moments against their definitions on the examples themselves, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from modkernel.errors import ScoreError
from modkernel.kernels import make_kernel, unit_rows
from modkernel.reuse.scores import reusability
from modkernel.spec import KernelSpec
from tests.modkernel.helpers.feature_examples import KINDS, cases, features_of, moments_of

CLOSE = {"rel": 1e-9, "abs": 1e-11}
"""Some scores are small differences of numbers of about 10."""
OF_UNIT_ROWS = ("raw", "nmse", "upper_alignment", "transrate")


def score(features: Tensor, labels: Tensor, name: str) -> float:
    return reusability(moments_of(features, labels), score=name)


def as_it_takes(name: str, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features of length one, where a score takes no others."""
    return (unit_rows(features) if name in OF_UNIT_ROWS else features), labels


def each_pair(features: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Kernel values and whether the classes are the same, of all pairs i < j."""
    gram = (features @ features.T).numpy()
    rows, columns = np.triu_indices(len(labels), 1)
    return gram[rows, columns], (labels[rows] == labels[columns]).numpy()


def by_pairs(name: str, features: Tensor, labels: Tensor) -> float:
    k, same = each_pair(features, labels)
    targets = np.where(same, 1.0, 0.0 if float(features.min()) >= 0 else -1.0)
    if name == "raw":
        return (k[same].sum() - k[~same].sum()) / len(k)
    if name == "nmse":
        return -((k - targets) ** 2).mean()
    if name == "upper_alignment":
        return k @ targets / (np.linalg.norm(k) * np.linalg.norm(targets))
    return np.corrcoef(k, same)[0, 1]


@pytest.mark.parametrize("name", ["raw", "nmse", "upper_alignment", "pair_correlation"])
@given(case=cases())
@settings(max_examples=40)
def test_pairwise_scores_are_sums_over_all_pairs(name, case) -> None:
    case = as_it_takes(name, *case)
    assert score(*case, name) == pytest.approx(by_pairs(name, *case), **CLOSE)


def by_definition(name: str, features: Tensor, labels: Tensor) -> float:
    """Scores of means and covariances, on centred examples rather than on their sums."""
    x, y = features.numpy(), labels.numpy()
    sides = range(y.max() + 1)
    centred = x - x.mean(0)
    d, n = x.shape[1], len(x)
    total = centred.T @ centred / n
    means = np.stack([x[y == c].mean(0) for c in sides])
    between = np.cov(means[y], rowvar=False, bias=True)
    added = 1e-4 * np.trace(total) / d * np.eye(d)
    if name == "h_score":
        cut = 1e-10 * (x**2).sum(1).mean() / np.linalg.eigvalsh(total).max()
        return np.trace(np.linalg.pinv(total, rcond=cut, hermitian=True) @ between)
    if name == "lda":
        away = x - means[y]
        return np.trace(np.linalg.solve(away.T @ away / n + added, between))
    if name == "transrate":

        def rate(z: np.ndarray) -> float:
            return np.linalg.slogdet(np.eye(d) + z.T @ z / (len(z) * 1e-4))[1] / 2

        return rate(centred) - np.mean([rate(centred[y == c]) for c in sides])
    coefficients = []
    spreads = [np.cov(x[y == c], rowvar=False, bias=True) + added for c in sides]
    for a, b in itertools.combinations(sides, 2):
        middle, apart = (spreads[a] + spreads[b]) / 2, means[a] - means[b]
        logs = [np.linalg.slogdet(one)[1] for one in (middle, spreads[a], spreads[b])]
        distance = apart @ np.linalg.solve(middle, apart) / 8
        coefficients.append(-(distance + (logs[0] - (logs[1] + logs[2]) / 2) / 2))
    # The coefficients themselves are 0 in float64 where classes are far apart.
    most = max(coefficients)
    return -(most + math.log(np.mean(np.exp(np.array(coefficients) - most))))


@pytest.mark.parametrize("name", ["lda", "bhattacharyya", "transrate"])
@given(case=cases())
@settings(max_examples=40)
def test_scores_of_spread(name, case) -> None:
    case = as_it_takes(name, *case)
    assert score(*case, name) == pytest.approx(by_definition(name, *case), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(40, 25), (30, 12, 9, 44)])
@pytest.mark.parametrize("d", [5, 20])
def test_h_score(kind, counts, d) -> None:
    case = features_of(kind, counts, d, seed=d)
    assert score(*case, "h_score") == pytest.approx(by_definition("h_score", *case), **CLOSE)


def test_h_score_of_collapsed_classes_is_one_less_than_their_number() -> None:
    assert score(*features_of("collapsed", (9, 5, 7), 12, 0), "h_score") == pytest.approx(2)


@given(cases(kinds=("random", "relu", "tanh")))
@settings(max_examples=25)
def test_h_score_is_refused_where_any_labels_score_most(case) -> None:
    features, labels = case
    x = features - features.mean(0)
    rank = int(torch.linalg.matrix_rank(x, hermitian=False, rtol=1e-6))
    if len(labels) > rank + 1:
        sides = int(labels.max()) + 1
        assert 0 <= score(*case, "h_score") <= sides - 1 + 1e-9
        return
    with pytest.raises(ScoreError, match=rf"more than {rank + 1} examples.*use score 'logme'"):
        score(*case, "h_score")


@pytest.mark.parametrize(
    "name", ["raw", "nmse", "upper_alignment", "lda", "bhattacharyya", "transrate", "h_score"]
)
def test_features_that_are_all_equal(name) -> None:
    features = torch.nn.functional.normalize(torch.ones(9, 4, dtype=torch.float64), dim=1)
    labels = torch.tensor([0, 1, 2] * 3)
    value = score(features, labels, name)
    if name in ("raw", "nmse", "upper_alignment"):
        assert value == pytest.approx(by_pairs(name, features, labels), **CLOSE)
    else:
        assert value == pytest.approx(0, abs=1e-12)


def test_correlation_of_equal_kernel_values_is_zero() -> None:
    features = torch.nn.functional.normalize(torch.ones(9, 4, dtype=torch.float64), dim=1)
    labels = torch.tensor([0, 1, 2] * 3)
    assert score(features, labels, "pair_correlation") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", OF_UNIT_ROWS)
def test_features_of_other_lengths_are_refused_where_the_length_counts(name) -> None:
    h, labels = features_of("random", (20, 20), 6, 0)
    gaussian = make_kernel(KernelSpec(name="gaussian", sigma=2.0)).feature_map(
        h.float(), h[:7].float()
    )
    for features in (gaussian, h):
        with pytest.raises(ScoreError, match=f"'{name}' compares features of length one.*'logme'"):
            score(features, labels, name)
        assert math.isfinite(score(features, labels, "pair_correlation"))
        assert math.isfinite(score(features, labels, "logme"))
    some_zero = unit_rows(h.float())
    some_zero[:3] = 0
    assert math.isfinite(score(some_zero, labels, name))


def test_zero_features() -> None:
    labels = torch.tensor([0, 1, 2] * 3)
    for name in ("raw", "upper_alignment", "pair_correlation", "lda", "h_score", "transrate"):
        assert score(torch.zeros(9, 4), labels, name) == 0


@pytest.mark.parametrize(
    ("name", "counts", "says"),
    [
        ("upper_alignment", (1, 1), "no same pair"),
        ("pair_correlation", (1, 1, 1), "no same pair"),
        ("lda", (1, 1, 1), "two examples of some side"),
        ("bhattacharyya", (5, 1), "two examples of each side.* 1 of 'dog'"),
    ],
)
def test_too_few_examples(name, counts, says) -> None:
    with pytest.raises(ScoreError, match=says):
        score(*features_of("relu", counts, 6, 0), name)
