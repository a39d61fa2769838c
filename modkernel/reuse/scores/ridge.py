"""The output module in closed form from class moments, and how well it does held out."""

from __future__ import annotations

import torch
from torch import Tensor

from modkernel.errors import ScoreError
from modkernel.reuse.moments import ClassMoments
from modkernel.reuse.scores.statistics import TaskStatistics

__all__ = ["head_accuracy", "head_confusion", "penalty_of", "ridge", "ridge_head"]

RIDGE = 1e-3
"""Greatest penalty, the default of `OutputSpec.ridge`."""
PENALTY = 0.1
"""Penalty of many examples, over n: the more there are, the less they need of it."""
BLOCK = 4096
"""Examples whose outputs are held at once."""


def penalty_of(examples: int) -> float:
    """The penalty of `ridge_head` where none is given, as a share of the number of examples."""
    return min(RIDGE, PENALTY / examples)


def ridge_head(moments: ClassMoments, ridge: float | None = None) -> tuple[Tensor, Tensor]:
    """Ridge regression on one-hot labels with a free intercept, from class moments alone.

    W = argmin Σ‖W(φ − mean φ) − (y − mean y)‖² + ridge·n·‖W‖²: the numbers of
    `training.heads.fit_ridge` on the same examples.

    Args:
        moments: of n examples of C classes.
        ridge: the penalty; min(1e-3, 0.1 / n) if left out. A fixed one would overfit few
            examples, or underrate on many what another task's module gives.

    Returns:
        W [C, d] and b [C], float64.

    Raises:
        ScoreError: there are no examples.
    """
    n = moments.examples
    if not n:
        raise ScoreError("There are no examples to fit an output module on: measure some.")
    penalty = penalty_of(n) if ridge is None else ridge
    counts = moments.counts.double()
    mean = moments.sums.sum(0) / n
    level = counts / n
    inner = moments.products.sum(0) - n * torch.outer(mean, mean)
    inner.diagonal().add_(penalty * n)
    shared = moments.sums - torch.outer(counts, mean)
    weight = torch.cholesky_solve(shared.T, torch.linalg.cholesky(inner)).T
    return weight, level - weight @ mean


def head_accuracy(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor) -> float:
    """Share of examples whose own class has the greatest output; arguments as of `head_confusion`.

    Raises:
        ScoreError: there are no examples.
    """
    confusion = head_confusion(weight, bias, features, labels)
    return float(confusion.diagonal().sum() / confusion.sum())


def head_confusion(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Counts [C, C] of examples by their class (row) and the class of greatest output (column).

    Args:
        weight: W [C, d].
        bias: b [C].
        features: φ [N, d].
        labels: int64 [N]; -1 is left out.

    Raises:
        ScoreError: there are no examples.
    """
    known = labels >= 0
    if not bool(known.any()):
        raise ScoreError("There are no held-out examples to take an accuracy of: measure some.")
    found = [
        (part.to(weight) @ weight.T + bias).argmax(1).cpu() for part in features[known].split(BLOCK)
    ]
    classes = len(weight)
    cells = labels[known].cpu() * classes + torch.cat(found)
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def ridge(task: TaskStatistics) -> float:
    """Share of the held-out labels' variance that `ridge_head` explains, exact from moments.

    1 − Σ‖Wφ + b − y‖² / Σ‖y − mean y‖² over held-out examples, y one-hot; below 0 where the head
    does worse than the mean of the held-out labels.

    Raises:
        ScoreError: no held-out moments were given, or they hold fewer than two of the sides.
    """
    if task.held_out is None:
        raise ScoreError(
            "Score 'ridge' is taken on held-out examples: give their moments (held_out=), or use "
            "score 'logme'."
        )
    weight, bias = ridge_head(task.moments)
    held = task.held_out.grouped(task.task)
    n, counts = held.examples, held.counts.double()
    spread = n - float(counts.square().sum()) / max(1, n)
    if spread <= 0:
        raise ScoreError(
            f"The held-out examples of task '{task.task.name}' are all of one side, or there are "
            "none: measure the module on data with some of each."
        )
    output = weight @ held.sums.sum(0)
    squares = ((weight @ held.products.sum(0)) * weight).sum() + 2 * bias @ output
    squares = squares + n * bias @ bias
    products = (weight * held.sums).sum() + bias @ counts
    return 1 - float(squares - 2 * products + n) / spread
