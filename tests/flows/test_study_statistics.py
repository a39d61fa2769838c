"""Rank correlations, accuracy lost and the order of tasks, against matrices made by hand."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modkernel.errors import ScoreError
from modkernel.flows.study.statistics import (
    Matrix,
    accuracy_lost,
    agreement,
    distances,
    mean_correlation,
    order_by_structure,
    ranked_targets,
    standardised,
)

OWN = 0.99
TRUTH = np.array(
    [
        [OWN, 0.60, 0.70, 0.80],
        [0.70, OWN, 0.60, 0.60],
        [0.80, 0.70, OWN, 0.70],
        [0.60, 0.80, 0.80, OWN],
    ]
)
"""Without the diagonal every column has 0.6, 0.7 and 0.8."""


def with_off_diagonal(*columns: tuple[float, float, float], own: float = 1) -> Matrix:
    """A matrix by its columns without their diagonals."""
    matrix = np.full((len(columns), len(columns)), float(own))
    for target, values in enumerate(columns):
        matrix[np.arange(len(columns)) != target, target] = values
    return matrix


def brute_weighted_tau(x: Matrix, y: Matrix) -> float:
    """Vigna 2015: pairs weigh 1/(1 + rank) of both members, ranks by x and by y in turn."""

    def once(by: Matrix) -> float:
        rank = np.empty(len(by), dtype=int)
        rank[np.lexsort((by,))[::-1]] = np.arange(len(by))
        pairs = list(combinations(range(len(by)), 2))
        weights = [1 / (1 + rank[i]) + 1 / (1 + rank[j]) for i, j in pairs]
        signs = [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i, j in pairs]
        return float(np.dot(weights, signs) / np.sum(weights))

    return (once(x) + once(y)) / 2


def test_a_score_that_ranks_as_the_truth_does_agrees_and_loses_nothing() -> None:
    correlations = agreement(np.exp(TRUTH), TRUTH).model_dump()
    assert correlations.pop("lost") == 0
    assert list(correlations.values()) == pytest.approx([1] * 6)
    correlations = agreement(-TRUTH, TRUTH).model_dump()
    assert correlations.pop("lost") == pytest.approx(20)
    assert list(correlations.values()) == pytest.approx([-1] * 6)


def test_correlations_are_means_over_targets() -> None:
    # Ranks of the truth by column: (2, 3, 1), (1, 2, 3), (2, 1, 3), (3, 1, 2).
    scores = with_off_diagonal((2, 3, 1), (1, 3, 2), (2, 3, 1), (3, 1, 2))
    spearman = (1 + 0.5 - 1 + 1) / 4
    kendall = (1 + 1 / 3 - 1 + 1) / 4
    found = agreement(scores, TRUTH)
    assert found.spearman == pytest.approx(spearman)
    assert found.kendall == pytest.approx(kendall)
    # Column 1 takes 0.7 in place of 0.8, column 2 takes 0.6.
    assert found.lost == pytest.approx((0 + 10 + 20 + 0) / 4)


def test_weighted_tau_is_vignas() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(2, 6, 6))
    expected = [
        brute_weighted_tau(np.delete(scores[:, t], t), np.delete(truth[:, t], t)) for t in range(6)
    ]
    assert mean_correlation(scores, truth, "weighted_tau", own=False) == pytest.approx(
        np.mean(expected)
    )


def test_the_own_module_counts_only_where_it_is_asked_for() -> None:
    low = with_off_diagonal((2, 3, 1), (1, 2, 3), (2, 1, 3), (3, 1, 2), own=0)
    found = agreement(low, TRUTH)
    assert (found.spearman, found.lost) == pytest.approx((1, 0))
    # Ranks 1 2 3 4 against 4 1 2 3 with the own module put last: 1 - 6 · 12 / 60.
    assert found.spearman_with_own == pytest.approx(-0.2)


def test_what_cannot_be_ranked_is_left_out_of_the_mean() -> None:
    flat = with_off_diagonal((5, 5, 5), (1, 2, 3), (2, 1, 3), (3, 1, 2), own=9)
    assert agreement(flat, TRUTH).spearman == pytest.approx(1)
    assert [ranked_targets(flat, TRUTH, own=own) for own in (False, True)] == [3, 4]
    assert [ranked_targets(TRUTH, flat, own=own) for own in (False, True)] == [3, 4]
    assert ranked_targets(np.eye(2), np.eye(2), own=False) == 0
    assert agreement(np.ones((4, 4)), TRUTH).spearman is None
    two = agreement(np.eye(2), np.eye(2))
    assert (two.spearman, two.spearman_with_own) == (None, pytest.approx(1))
    assert agreement(np.ones((1, 1)), np.ones((1, 1))).lost is None


def test_sources_that_share_the_best_score_count_with_their_mean() -> None:
    flat = with_off_diagonal((5, 5, 5), (1, 2, 3), (2, 1, 3), (3, 1, 2))
    assert accuracy_lost(flat, TRUTH) == pytest.approx((80 - 70) / 4)


@given(st.integers(3, 7), st.integers(0, 2**32 - 1))
def test_neither_the_order_of_tasks_nor_a_scores_scale_matters(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truth = rng.normal(size=(2, count, count))
    order = rng.permutation(count)
    moved = np.ix_(order, order)
    scale, level = rng.uniform(0.1, 10, count), rng.normal(size=count)
    expected = agreement(scores, truth)
    found = agreement((scores * scale + level)[moved], truth[moved])
    assert found.model_dump() == pytest.approx(expected.model_dump(), abs=1e-12)


def test_columns_are_standardised() -> None:
    z = standardised(np.array([[1.0, 5.0, 10.0], [2.0, 5.0, 20.0], [3.0, 5.0, 60.0]]))
    assert z.mean(0) == pytest.approx(0)
    assert z.std(0) == pytest.approx([1, 0, 1])


def test_tasks_that_serve_each_other_stand_together() -> None:
    """Three groups, shuffled: in the order found, each group is in one piece."""
    group = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    rng = np.random.default_rng(1)
    truth = 0.6 + 0.2 * (group[:, None] == group[None]) + rng.uniform(0, 0.05, (8, 8))
    truth += np.diag(np.full(8, 0.1)) - rng.uniform(0, 0.2, 8)  # Targets differ in difficulty.
    ordered = [group[position] for position in order_by_structure(truth)]
    changes = sum(a != b for a, b in pairwise(ordered))
    assert changes == 2
    between = distances(truth)
    assert (between == between.T).all()
    assert (np.diag(between) == 0).all()
    same = group[:, None] == group[None]
    assert between[same].max() < between[~same].min()


def test_matrices_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ScoreError, match="square"):
        agreement(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ScoreError, match="square"):
        agreement(np.ones((2, 2)), np.ones((3, 3)))
    with pytest.raises(ScoreError, match="at least two"):
        order_by_structure(np.ones((1, 1)))
