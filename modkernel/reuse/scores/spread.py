"""Scores from means and covariances of the classes.

All covariances are divided by the number of examples. Features that do not vary at all score 0.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from modkernel.errors import ScoreError
from modkernel.reuse.scores.statistics import TaskStatistics, factor

__all__ = ["SHRINKAGE", "bhattacharyya", "h_score", "lda", "transrate"]

SHRINKAGE = 1e-4
"""Share of the mean variance of a feature that is added to every variance."""
DISTORTION = 1e-4
"""Of TransRate, the ε of its paper."""


def h_score(task: TaskStatistics) -> float:
    """tr(cov(φ)⁺ cov(E[φ|y])), at most one less than the number of sides.

    Source: Bao et al., ICIP 2019. The pseudo-inverse leaves out directions that have less than
    1e-10 of the mean ‖φ‖² as variance (`RANK_TOLERANCE`).

    Raises:
        ScoreError: n ≤ rank + 1: any labels at all then score the most there is.
    """
    values, vectors = task.spectrum(task.covariance, task.mean_square)
    rank = len(values)
    if task.examples <= rank + 1:
        raise ScoreError(
            f"H-score of task '{task.task.name}' needs more than {rank + 1} examples, since its "
            f"features span {rank} dimensions, and there are {task.examples}: measure more "
            "examples, or use score 'logme'."
        )
    between = ((task.means - task.mean) @ vectors).square() / values
    return float((between.sum(1) * task.counts).sum() / task.examples)


def lda(task: TaskStatistics) -> float:
    """tr((S_w + λI)⁻¹ S_b), Fisher's ratio of the scatter between classes to that within them.

    Source: Fisher 1936; Rao 1948. λ is `SHRINKAGE` times the mean variance of a feature, which
    makes S_w regular where n < d or classes collapse.

    Raises:
        ScoreError: no side has two examples.
    """
    if task.examples <= len(task.counts):
        raise _few(task, "Score 'lda'", "two examples of some side")
    if not task.variation:
        return 0.0
    centred = (task.means - task.mean) * (task.counts / task.examples).sqrt()[:, None]
    within = _shrunk(task.covariance - centred.T @ centred, task)
    return float(
        torch.linalg.solve_triangular(factor(within), centred.T, upper=False).square().sum()
    )


def bhattacharyya(task: TaskStatistics) -> float:
    """−log of the mean over pairs of sides of e^(−D), D their Gaussian Bhattacharyya distance.

    D = ⅛ Δᵀ Σ⁻¹ Δ + ½ log(|Σ| / √(|Σ_a| |Σ_b|)) with Δ = μ_a − μ_b and Σ = ½(Σ_a + Σ_b). It orders
    modules as the Gaussian Bhattacharyya coefficient does (Pándy et al., CVPR 2022), which sums
    −e^(−D) and is 0 to all digits where sides are far apart. Covariances are whole ones, with λI
    added as in `lda`.

    Raises:
        ScoreError: a side has fewer than two examples.
    """
    if bool((task.counts < 2).any()):
        raise _few(task, "Score 'bhattacharyya'", "two examples of each side")
    if not task.variation:
        return 0.0
    covariances = [_shrunk(task.covariance_of(side), task) for side in range(len(task.counts))]
    sizes = [_log_det(factor(covariance)) for covariance in covariances]
    distances = []
    for a, b in combinations(range(len(covariances)), 2):
        lower = factor((covariances[a] + covariances[b]) / 2)
        apart = (task.means[a] - task.means[b])[:, None]
        far = torch.linalg.solve_triangular(lower, apart, upper=False).square().sum() / 8
        distances.append(far + (_log_det(lower) - (sizes[a] + sizes[b]) / 2) / 2)
    each = torch.stack(distances)
    return math.log(len(each)) - float((-each).logsumexp(0))


def transrate(task: TaskStatistics) -> float:
    """R(Φ) − mean_c R(Φ_c), R(Z) = ½ logdet(I + ZᵀZ / (mε)) of m centred examples, ε = 1e-4.

    Source: Huang et al., ICML 2022; all examples are centred by the mean of all of them. The
    identity makes every matrix regular, so no rank is needed.

    Raises:
        ScoreError: features are no unit rows, whose scale ε is for.
    """
    task.check_unit("transrate")
    rate = _rate(task.covariance)
    of_sides = []
    for side in range(len(task.counts)):
        away = task.means[side] - task.mean
        of_sides.append(_rate(task.covariance_of(side) + torch.outer(away, away)))
    return float(rate - torch.stack(of_sides).mean())


def _rate(covariance: Tensor) -> Tensor:
    scaled = covariance / DISTORTION
    scaled.diagonal().add_(1)
    return _log_det(factor(scaled)) / 2


def _log_det(lower: Tensor) -> Tensor:
    """Logarithm of |LLᵀ|."""
    return 2 * lower.diagonal().log().sum()


def _shrunk(covariance: Tensor, task: TaskStatistics) -> Tensor:
    shrunk = covariance.clone()
    shrunk.diagonal().add_(SHRINKAGE * task.variation / len(shrunk))
    return shrunk


def _few(task: TaskStatistics, what: str, needed: str) -> ScoreError:
    return ScoreError(
        f"{what} of task '{task.task.name}' needs at least {needed}, and there are "
        f"{', '.join(f'{int(count)} of {name!r}' for name, count in _named(task))}: measure more "
        "examples, or use score 'logme'."
    )


def _named(task: TaskStatistics) -> list[tuple[str, float]]:
    return list(zip(task.moments.classes, task.counts.tolist(), strict=True))
