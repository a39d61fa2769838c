"""How certain a score is with the given examples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from modkernel.errors import ScoreError
from modkernel.reuse.moments import ClassMoments, accumulate
from modkernel.reuse.scores.statistics import ClassGrams, TaskStatistics
from modkernel.reuse.scores.table import DEFAULT_SCORE
from modkernel.reuse.scores.tasks import moment_score, score_of, threads_for
from modkernel.reuse.task import Task

__all__ = ["bootstrap"]

QUANTILES = (0.05, 0.5, 0.95)
"""Lower bound, middle and upper bound of the drawn scores, as shares of the draws."""


def bootstrap(
    features: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    score: str = DEFAULT_SCORE,
    draws: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    """5 % and 95 % quantiles of a score over resamples of the examples, class by class.

    Each draw weighs the examples of a class at random, by the Bayesian bootstrap (Rubin, Annals
    of Statistics 1981): weights from the flat Dirichlet distribution, times their number. Draws
    with replacement repeat examples, which explain each other where features outnumber them.
    Uneven weights are like fewer examples, and most scores grow with fewer; so the quantiles are
    moved by as much as brings the median of the draws to the score itself. A draw whose weights
    leave the score undefined is left out.

    Args:
        features: φ [N, d].
        labels: int64 [N]; -1 is left out.
        classes: names, in the order of the labels: the sides of the task.
        score: name in `SCORES`, of one that needs moments alone.
        draws: resamples.
        seed: of the draws.

    Raises:
        UnknownNameError: no score has that name.
        MomentsError: no examples, features that are not finite, or too many of them.
        ScoreError: the score needs more than moments, or is undefined for these examples or for
            more than half of the draws.
    """
    row = moment_score(score)
    if row.needs != "moments":
        raise ScoreError(
            f"Score '{score}' needs held-out examples too: use a score of moments alone, such as "
            f"'{DEFAULT_SCORE}'."
        )
    task = Task.of_classes(classes)
    features, labels = features.cpu(), labels.cpu()
    whole = accumulate([(features, labels)], classes, "")
    members = [features[labels == index].double() for index in range(len(classes))]
    generator = torch.Generator().manual_seed(seed)
    values = []
    with threads_for(whole.dimension):
        itself = score_of(TaskStatistics(task, whole, ClassGrams(whole)), row)
        for _ in range(draws):
            moments, selves = _weighted(whole, members, generator)
            statistics = TaskStatistics(task, moments, ClassGrams(moments, selves))
            with suppress(ScoreError):
                values.append(score_of(statistics, row))
    if 2 * len(values) < draws:
        raise ScoreError(
            f"Score '{score}' of task '{task.name}' is undefined for {draws - len(values)} of "
            f"{draws} resamples: give more examples, or use score 'pair_correlation'."
        )
    drawn = torch.tensor(values, dtype=torch.float64)
    low, middle, high = drawn.quantile(torch.tensor(QUANTILES, dtype=torch.float64))
    return float(itself + low - middle), float(itself + high - middle)


def _weighted(
    whole: ClassMoments, members: Sequence[Tensor], generator: torch.Generator
) -> tuple[ClassMoments, Tensor]:
    """Moments of weighted examples, and the sums of squared weights of the classes."""
    sums, products, squares, fourths, selves = [], [], [], [], []
    for phi in members:
        weights = torch.empty(len(phi), dtype=torch.float64).exponential_(generator=generator)
        weights *= len(phi) / weights.sum()
        weighted = phi * weights[:, None]
        norms = phi.square().sum(1)
        # A pair of an example with itself weighs w², and pair scores take those pairs out.
        own = weights.square()
        sums.append(weighted.sum(0))
        products.append(weighted.T @ phi)
        squares.append(own @ norms)
        fourths.append(own @ norms.square())
        selves.append(own.sum())
    moments = ClassMoments(
        classes=whole.classes,
        fingerprint=whole.fingerprint,
        counts=whole.counts,
        sums=torch.stack(sums),
        products=torch.stack(products),
        squares=torch.stack(squares),
        fourths=torch.stack(fourths),
        least=whole.least,
    )
    return moments, torch.stack(selves)
