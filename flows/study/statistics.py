"""How well a score predicts a ground truth, and which tasks are alike: source × target matrices.

Everywhere row i belongs to the source task i, column j to the target task j, and the tasks of rows
and columns are the same, so that the diagonal has every task's own module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform
from scipy.stats import kendalltau, spearmanr, weightedtau

from modkernel.errors import ScoreError
from modkernel.flows.study.result import Agreement

Matrix = NDArray[np.float64]

CORRELATIONS: dict[str, Callable[[Matrix, Matrix], Any]] = {
    "spearman": spearmanr,
    "kendall": kendalltau,
    "weighted_tau": weightedtau,
}
FEWEST_SOURCES = 2
"""Below this there is nothing to rank."""


def agreement(scores: Matrix, truth: Matrix) -> Agreement:
    """How well `scores` [T, T] predict `truth` [T, T]; the own module is left out but where named.

    Raises:
        ScoreError: matrices that are not square, or of two sizes.
    """
    _check(scores, truth)
    found = {
        f"{name}{suffix}": mean_correlation(scores, truth, name, own=own)
        for own, suffix in ((False, ""), (True, "_with_own"))
        for name in CORRELATIONS
    }
    return Agreement(**found, lost=accuracy_lost(scores, truth))


def mean_correlation(scores: Matrix, truth: Matrix, name: str, *, own: bool) -> float | None:
    """Mean over targets of a rank correlation between the sources' scores and their truth.

    Targets whose sources are all equal in the score or in the truth do not count; see
    `ranked_targets`.

    Args:
        scores: [T, T].
        truth: [T, T].
        name: spearman, kendall (τ-b) or weighted_tau (Vigna 2015, the mean of both rankings'
            weights), as scipy.stats computes them.
        own: whether the target's own module counts among its sources.
    """
    correlation = CORRELATIONS[name]
    found = [float(correlation(x, y).statistic) for x, y in _ranked(scores, truth, own)]
    return float(np.mean(found)) if found else None


def ranked_targets(scores: Matrix, truth: Matrix, *, own: bool) -> int:
    """How many targets a mean of correlations is of; arguments as of `mean_correlation`."""
    return len(_ranked(scores, truth, own))


def accuracy_lost(scores: Matrix, truth: Matrix) -> float | None:
    """Percentage points that following a score costs, as a mean over targets.

    For one target: accuracy of the best source minus that of the source with the best score, the
    target's own module left out. Sources that share the best score count with their mean.

    Args:
        scores: [T, T].
        truth: accuracies in [0, 1], [T, T].
    """
    if len(truth) < FEWEST_SOURCES:
        return None
    lost = []
    for target in range(len(truth)):
        sources = _sources(len(truth), target, own=False)
        x, y = scores[sources, target], truth[sources, target]
        lost.append(y.max() - y[x == x.max()].mean())
    return float(100 * np.mean(lost))


def standardised(matrix: Matrix) -> Matrix:
    """Every column with mean 0 and standard deviation 1; a constant column becomes 0."""
    centred = matrix - matrix.mean(0)
    spread = centred.std(0)
    result: Matrix = centred / np.where(spread > 0, spread, 1)
    return result


def distances(matrix: Matrix) -> Matrix:
    """How unlike tasks are, [T, T], symmetric, 0 on the diagonal: how badly they serve each other.

    Targets differ in difficulty and scores in scale: columns are standardised first. Two tasks are
    as far apart as the mean of what each loses by the other's module in place of its own.
    """
    z = standardised(matrix)
    loss = np.diag(z)[None] - z
    between = np.maximum((loss + loss.T) / 2, 0)
    np.fill_diagonal(between, 0)
    return between


def task_tree(matrix: Matrix) -> Matrix:
    """Hierarchical clustering (average linkage) of the tasks by `distances`, as scipy's linkage.

    Neighbouring leaves are as alike as the tree allows (Bar-Joseph et al. 2001).

    Raises:
        ScoreError: less than two tasks.
    """
    if len(matrix) < FEWEST_SOURCES:
        raise ScoreError("A tree of tasks needs at least two of them: add a task.")
    between = squareform(distances(matrix), checks=False)
    tree: Matrix = optimal_leaf_ordering(linkage(between, "average"), between)
    return tree


def order_by_structure(matrix: Matrix) -> tuple[int, ...]:
    """The tasks in the order of the leaves of `task_tree`: groups stand together."""
    return tuple(int(leaf) for leaf in leaves_list(task_tree(matrix)))


def _ranked(scores: Matrix, truth: Matrix, own: bool) -> list[tuple[Matrix, Matrix]]:
    """The sources' scores and truth, of each target whose sources differ in both."""
    found = []
    for target in range(len(truth)):
        sources = _sources(len(truth), target, own)
        x, y = scores[sources, target], truth[sources, target]
        if len(sources) >= FEWEST_SOURCES and np.ptp(x) > 0 and np.ptp(y) > 0:
            found.append((x, y))
    return found


def _sources(count: int, target: int, own: bool) -> list[int]:
    return [source for source in range(count) if own or source != target]


def _check(scores: Matrix, truth: Matrix) -> None:
    if scores.shape != truth.shape or scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ScoreError(
            f"Scores of shape {list(scores.shape)} cannot be compared with a ground truth of "
            f"shape {list(truth.shape)}: both are square, one row a source, one column a target."
        )
