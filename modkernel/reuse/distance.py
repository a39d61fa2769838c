"""How far an example lies from the data that a module was measured on, by class moments alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modkernel.errors import MomentsError
from modkernel.reuse.moments import ClassMoments, ModuleMoments
from modkernel.reuse.scores.statistics import RANK_TOLERANCE, factor

__all__ = ["distance_from"]

SHRINKAGE = 0.01
"""Share of the mean variance that is added to each: the covariance of few examples is singular."""
ENOUGH = 20
"""Held-out examples from which their distances are the unit; below it, all examples' are."""


def distance_from(moments: ModuleMoments) -> Callable[[Tensor], Tensor]:
    """What tells how far features φ(h) lie from a module's training data.

    With the mean μ_c of each class and the covariance Σ within classes, both over the training
    examples, it is the Mahalanobis distance to the nearest mean, in units of the held-out
    examples' own (root mean square over them, each from its own class):

        d(φ) = min_c √( (φ - μ_c)ᵀ P (φ - μ_c) / S ),   P = (Σ + 0.01 tr(Σ)/d · I)⁻¹,
        S = 1/n Σ_c [ tr(P M_c) - 2 μ_cᵀ P s_c + n_c μ_cᵀ P μ_c ],

    where n_c, s_c and M_c are the count, the sum and the second moments of the held-out examples
    of class c, n their number; so S is exact. Examples like these have a d around 1. Whatever
    their distribution, at most 1/d² of them lie at d or further (Chebyshev), 1 in 9 beyond 3, and
    in practice far fewer. The distance is that of Lee et al., 2018 (A Simple Unified Framework for
    Detecting Out-of-Distribution Samples), with another unit.

    Args:
        moments: of the module, at least two examples of some class.

    Returns:
        A function: φ, floating [N, d], to float64 [N].

    Raises:
        MomentsError: all examples of each class have the same features, but for rounding.
    """
    train = moments.train
    there = train.counts > 0
    n = train.counts[there].double()
    means = train.sums[there] / n[:, None]
    within = train.products[there].sum(0) - (means.T * n) @ means
    within /= n.sum()
    trace = float(within.trace())
    if not trace > RANK_TOLERANCE * float(train.squares[there].sum() / n.sum()):
        raise _no_unit(moments)
    shrunk = within + SHRINKAGE * trace / len(within) * torch.eye(len(within), dtype=torch.float64)
    lower = factor(shrunk)
    held_out = moments.validation
    if held_out.examples < ENOUGH:
        held_out = held_out.merge(train)
    unit = _mean_square(held_out, there, means, torch.cholesky_inverse(lower))
    if not unit > 0:  # Not a number, too: what there is, is lost in the rounding of large sums.
        raise _no_unit(moments)
    centres = _whitened(means, lower)

    def distance(phi: Tensor) -> Tensor:
        rows = _whitened(phi.double(), lower)
        nearest: Tensor = torch.cdist(rows, centres).min(1).values
        return nearest / math.sqrt(unit)

    return distance


def _no_unit(moments: ModuleMoments) -> MomentsError:
    return MomentsError(
        f"Module {moments.module_id[:12]} gives all examples of a class the same features, so "
        "that no distance to them has a unit: measure it on more examples."
    )


def _whitened(rows: Tensor, lower: Tensor) -> Tensor:
    """Rows [N, d] whose squared lengths are those under the inverse of L Lᵀ."""
    whitened: Tensor = torch.linalg.solve_triangular(lower, rows.T, upper=False)
    return whitened.T


def _mean_square(held: ClassMoments, there: Tensor, means: Tensor, inverse: Tensor) -> float:
    """Mean over examples of their squared distance from the mean of their own class."""
    counts, sums, products = held.counts[there], held.sums[there], held.products[there]
    pulled = means @ inverse
    squares = (
        (products.sum(0) * inverse).sum()
        - 2 * (pulled * sums).sum()
        + ((pulled * means).sum(1) * counts).sum()
    )
    return float(squares / counts.sum())
