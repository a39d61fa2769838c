"""Weights of modules side by side, in closed form: how much each one's kernel counts in the sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from modkernel.errors import ScoreError

ROUNDS = 10_000
"""Of the descent over the weights, at most; a handful of modules needs some dozens."""
SMALLEST = 1e-6
"""A share of all weight below which a module has none."""


def aligned_weights(features: Sequence[Tensor], labels: Tensor) -> tuple[float, ...]:
    """Weights w ≥ 0 of modules' kernels k_m whose sum Σ w_m k_m is aligned best with the classes.

    The centred alignment ⟨K, YYᵀ⟩ / ‖K‖‖YYᵀ‖ of K = Σ w_m K_m is greatest at the w ≥ 0 that has
    least wᵀMw - 2aᵀw, with a_m = ⟨K_m, YYᵀ⟩ and M_kl = ⟨K_k, K_l⟩ of centred kernel matrices
    (Cortes, Mohri and Rostamizadeh, JMLR 13, 2012, proposition 9). With features both are norms of
    d × d matrices: a_m = ‖Φ_mᵀY‖², M_kl = ‖Φ_kᵀΦ_l‖². No kernel matrix is made.

    Args:
        features: φ of each module for the same examples, [n, d_m]; best of examples that no
            module was trained on, on which each flatters itself.
        labels: int64 [n].

    Returns:
        A weight for each module, 1 on average over those that have one; 0 where a module adds
        nothing to the others.

    Raises:
        ScoreError: fewer than two classes have examples, or no module tells them apart at all.
    """
    classes = labels.unique(return_inverse=True)[1]
    if int(classes.max()) == 0:
        raise ScoreError(
            "Weights are chosen by how modules tell classes apart, and the held-out examples are "
            "of one class: give the weights, or data with more held-out examples."
        )
    y = _centred(functional.one_hot(classes).double())
    phi = [_centred(one.double()) for one in features]
    aligned = torch.stack([(one.T @ y).square().sum() for one in phi])
    products = torch.stack(
        [torch.stack([(one.T @ other).square().sum() for other in phi]) for one in phi]
    )
    found = _least(products, aligned)
    kept = found > SMALLEST * found.sum()
    if not bool(kept.any()):
        raise ScoreError(
            "No module tells the classes apart on the held-out examples: leave the weights out, or "
            "choose other modules."
        )
    found = torch.where(kept, found, 0.0)
    return tuple((found / found[kept].mean()).tolist())


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(0)


def _least(products: Tensor, aligned: Tensor) -> Tensor:
    """The w ≥ 0 of least wᵀMw - 2aᵀw, one coordinate after the other; M is positive."""
    weights = torch.zeros_like(aligned)
    diagonal = products.diagonal().clamp_min(torch.finfo(products.dtype).tiny)
    for _ in range(ROUNDS):
        before = weights.clone()
        for place in range(len(weights)):
            rest = (
                aligned[place] - products[place] @ weights + products[place, place] * weights[place]
            )
            weights[place] = (rest / diagonal[place]).clamp_min(0)
        if bool((weights - before).abs().max() <= 1e-12 * weights.abs().max()):
            break
    return weights
