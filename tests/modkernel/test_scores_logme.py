"""LogME against the evidence written down on the examples and maximised by a general method."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from modkernel.reuse.scores import reusability
from tests.modkernel.helpers.feature_examples import features_of, moments_of


def evidence(alpha: float, beta: float, gram: np.ndarray, y: np.ndarray) -> float:
    """Log N(y | 0, I/β + ΦΦᵀ/α); -inf where the matrix is singular to rounding."""
    try:
        lower = np.linalg.cholesky(np.eye(len(y)) / beta + gram / alpha)
    except np.linalg.LinAlgError:
        return -math.inf
    white = np.linalg.solve(lower, y)
    return -(len(y) * math.log(2 * math.pi) + white @ white) / 2 - np.log(np.diag(lower)).sum()


GRID = np.array(list(itertools.product(np.linspace(-12, 12, 25), np.linspace(-4, 20, 25))))
"""Of log α and log β."""


def greatest(gram: np.ndarray, y: np.ndarray) -> float:
    """The greatest evidence over α and β, by Nelder and Mead's method from the best of a grid."""
    # Where it is great is seen fast on the axes of the matrix, but for rounding.
    values, axes = np.linalg.eigh(gram)
    variances = np.exp(-GRID[:, 1:]) + values.clip(0) * np.exp(-GRID[:, :1])
    heights = -((y @ axes) ** 2 / variances + np.log(variances)).sum(1)
    starts = sorted(GRID[heights.argsort()[-9:]], key=lambda at: evidence(*np.exp(at), gram, y))
    found = [
        minimize(
            lambda point: -evidence(*np.exp(np.clip(point, -25, 25)), gram, y),
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000},
        )
        for start in starts[-2:]
    ]
    return -min(one.fun for one in found)


def by_density(features: torch.Tensor, labels: torch.Tensor) -> float:
    gram = (features @ features.T).numpy()
    sides = range(int(labels.max()) + 1)
    each = [greatest(gram, (labels == side).double().numpy()) for side in sides]
    return float(np.mean(each)) / len(labels)


def logme(features: torch.Tensor, labels: torch.Tensor) -> float:
    return reusability(moments_of(features, labels))


def test_the_evidence_is_the_density() -> None:
    features, labels = features_of("tanh", (5, 4), 3, 0)
    gram, y = (features @ features.T).numpy(), labels.double().numpy()
    density = multivariate_normal(np.zeros(9), np.eye(9) / 3 + gram / 0.7)
    assert evidence(0.7, 3, gram, y) == pytest.approx(density.logpdf(y), rel=1e-12)


@pytest.mark.parametrize("kind", ["random", "relu", "tanh", "deficient"])
@pytest.mark.parametrize("d", [4, 20])
@pytest.mark.parametrize("counts", [(20, 11), (12, 9, 14)])
def test_more_examples_than_features(kind, d, counts) -> None:
    case = features_of(kind, counts, d, seed=d)
    assert logme(*case) == pytest.approx(by_density(*case), rel=1e-9)


@pytest.mark.parametrize("kind", ["random", "relu", "tanh"])
@pytest.mark.parametrize("counts", [(3, 5), (10, 12), (6, 5, 4)])
def test_fewer_examples_than_features(kind, counts) -> None:
    case = features_of(kind, counts, 60, seed=sum(counts))
    # Where the best noise is none at all, a search over β ends just short of it.
    assert logme(*case) == pytest.approx(by_density(*case), rel=1e-8)
    assert logme(*case) >= by_density(*case) - 1e-9


@given(st.integers(0, 2**31), st.sampled_from([6, 25]))
@settings(max_examples=6)
def test_random_draws(seed, d) -> None:
    case = features_of("tanh", (9, 7), d, seed)
    assert logme(*case) == pytest.approx(by_density(*case), rel=1e-8, abs=1e-9)


def with_least_noise(features: torch.Tensor, labels: torch.Tensor) -> float:
    """By the density, of labels that keep 1e-10 of their square beyond what features can give."""
    gram = (features @ features.T).numpy()
    beyond = np.linalg.eigh(gram)[1][:, 0]
    each = []
    for side in range(int(labels.max()) + 1):
        y = (labels == side).double().numpy()
        each.append(greatest(gram, y + math.sqrt(1e-10 * y.sum()) * beyond))
    return float(np.mean(each)) / len(labels)


@pytest.mark.parametrize(("counts", "d"), [((6, 5), 9), ((6, 5), 40), ((4, 3, 5), 9)])
def test_collapsed_classes_have_the_greatest_evidence(counts, d) -> None:
    case = features_of("collapsed", counts, d, 0)
    assert logme(*case) == pytest.approx(with_least_noise(*case), rel=1e-5)
    for kind in ("random", "relu", "tanh", "deficient"):
        assert logme(*case) > logme(*features_of(kind, counts, d, 0)) + 1, kind


def test_one_image_twice_is_no_collapse() -> None:
    features, labels = features_of("tanh", (10, 10), 64, 0)
    once = logme(features, labels)
    twin = int((labels[1:] == labels[0]).nonzero()[0]) + 1
    features[twin] = features[0]
    assert logme(features, labels) == pytest.approx(with_least_noise(features, labels), rel=1e-5)
    assert (
        once
        < logme(features, labels)
        < once + 1
        < logme(*features_of("collapsed", (10, 10), 64, 0))
    )


def test_one_example_of_each_class_is_no_collapse() -> None:
    case = features_of("collapsed", (1, 1, 1), 9, 0)
    assert logme(*case) == pytest.approx(by_density(*case), rel=1e-8)


def test_features_that_say_nothing() -> None:
    """The best prior then is none: y is noise of its own mean square."""
    labels = torch.tensor([0, 1] * 8)
    assert logme(torch.zeros(16, 3), labels) == pytest.approx(
        -(math.log(2 * math.pi * 0.5) + 1) / 2
    )


def test_labels_that_features_explain_score_higher() -> None:
    features, labels = features_of("tanh", (60, 60), 30, 1)
    shuffled = labels[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    assert logme(features, labels) > logme(features, shuffled) + 0.1
