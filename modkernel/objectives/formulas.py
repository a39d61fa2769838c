"""Formulas of the proxy objectives, on a kernel matrix K [N, N] and its pairs.

Source: Duan, Yu, Príncipe, IEEE TNNLS 33(4), 2022 (doi 10.1109/TNNLS.2020.3042346), but for
`pair_correlation` (Pearson), `anchor_contrastive` (Khosla et al. 2020, arXiv 2004.11362) and
`group_contrastive` (our own; of class labels, with means of all other examples of a class as
prototypes, the loss of Snell et al. 2017, arXiv 1703.05175).
Sums over i < j are taken as half the sums over i != j, so K must be symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.pairs.labels import Count, PairLabels

SMALLEST_MEAN_SQUARE = 1e-12
"""Root mean squares in denominators are 1e-6 at least: values below are rounding of float32."""
SMALLEST_SQUARED_NORM = 1e-2
"""Of the mean of a group's features: where they cancel out, it has no direction."""


@dataclass(frozen=True)
class Setting:
    """What the formulas take besides K and the pairs.

    Attributes:
        k_min: ideal value of a different pair.
        k_max: ideal value of a same pair.
        temperature: divides k in exponentials.
        diagonal: whether k(i, i) counts.
    """

    k_min: float
    k_max: float
    temperature: float
    diagonal: bool


Formula = Callable[[Tensor, PairLabels, Setting], Tensor]
"""Value to maximise, a scalar, of K [N, N], its pairs and the setting."""


def _sum(k: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, k, 0).sum()


def _log_sum_exp(x: Tensor, where: Tensor, dim: int) -> Tensor:
    # The least number in place of -inf keeps gradients finite where a row has nothing to sum.
    return x.masked_fill(~where, torch.finfo(x.dtype).min).logsumexp(dim)


def _log(count: Count) -> float | Tensor:
    return count.log() if isinstance(count, Tensor) else math.log(count)


def _log_mean_different(x: Tensor, pairs: PairLabels) -> Tensor:
    """Log of the mean e^x of different pairs; next to nothing, where there are none."""
    count = 2 * pairs.n_different + (pairs.n_different == 0)
    return _log_sum_exp(x.flatten(), pairs.different.flatten(), 0) - _log(count)


def _mean_different(k: Tensor, pairs: PairLabels) -> Tensor:
    return _sum(k, pairs.different) / (2 * pairs.n_different)


def raw(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """(Σ_same k - Σ_diff k) / (P + N) for P same and N different pairs."""
    n_pairs = pairs.n_same + pairs.n_different
    return (_sum(k, pairs.same) - _sum(k, pairs.different)) / (2 * n_pairs)


def raw_neo(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Minus the mean k of different pairs."""
    return -_mean_different(k, pairs)


def nmse(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Minus the mean (k - t)², with k(i, i) if the setting says so."""
    total = _sum((k - setting.k_max).square(), pairs.same)
    total = total + _sum((k - setting.k_min).square(), pairs.different)
    count = 2 * (pairs.n_same + pairs.n_different)
    if setting.diagonal:
        total = total + (k.diagonal() - setting.k_max).square().sum()
        count = count + len(k)
    return -total / count


def nmse_neo(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Minus the mean (k - k_min)² of different pairs."""
    return -_mean_different((k - setting.k_min).square(), pairs)


def alignment(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """⟨K, T⟩ / (‖K‖ ‖T‖), with k(i, i) if the setting says so; 0 where every k is 0."""
    products = setting.k_max * _sum(k, pairs.same) + setting.k_min * _sum(k, pairs.different)
    squares = _sum(k.square(), pairs.known)
    targets = 2 * (setting.k_max**2 * pairs.n_same + setting.k_min**2 * pairs.n_different)
    count = 2 * (pairs.n_same + pairs.n_different)
    if setting.diagonal:
        products = products + setting.k_max * k.diagonal().sum()
        squares = squares + k.diagonal().square().sum()
        targets = targets + setting.k_max**2 * len(k)
        count = count + len(k)
    return products / (squares.clamp_min(count * SMALLEST_MEAN_SQUARE) * targets).sqrt()


def alignment_neo(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """cosine(K, k_min) over different pairs: sign(k_min) · mean k / root mean k²."""
    squares = _mean_different(k.square(), pairs).clamp_min(SMALLEST_MEAN_SQUARE)
    return math.copysign(1.0, setting.k_min) * _mean_different(k, pairs) / squares.sqrt()


def log_contrastive(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """log(Σ_same e^(k/τ) / Σ_known e^(k/τ))."""
    x = (k / setting.temperature).flatten()
    same = _log_sum_exp(x, pairs.same.flatten(), 0)
    return same - _log_sum_exp(x, pairs.known.flatten(), 0)


def contrastive(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Σ_same e^(k/τ) / Σ_known e^(k/τ)."""
    return log_contrastive(k, pairs, setting).exp()


def log_contrastive_neo(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Minus the log of the mean e^(k/τ) of different pairs."""
    return -_log_mean_different(k / setting.temperature, pairs)


def contrastive_neo(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Minus the mean e^(k/τ) of different pairs."""
    return -(-log_contrastive_neo(k, pairs, setting)).exp()


def pair_correlation(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Pearson correlation of k with (1 same, 0 different); 0 where every k is equal."""
    n_pairs = pairs.n_same + pairs.n_different
    mean = _sum(k, pairs.known) / (2 * n_pairs)
    centred = k - mean
    covariance = _sum(centred, pairs.same) / (2 * n_pairs)
    variance = _sum(centred.square(), pairs.known) / (2 * n_pairs)
    of_targets = pairs.n_same * pairs.n_different / n_pairs**2
    return covariance / (variance.clamp_min(SMALLEST_MEAN_SQUARE) * of_targets).sqrt()


def anchor_contrastive(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Mean over anchors i with a same pair of mean_j log(e^(k_ij/τ) / Σ_l e^(k_il/τ)).

    To the sum of an anchor without a different pair, as there are in lists of pairs, comes the mean
    e^(k/τ) of all different pairs: it would be 0 whatever k is.
    """
    x = k / setting.temperature
    mean_same = torch.where(pairs.same, x, 0).sum(1) / pairs.same.sum(1).clamp_min(1)
    return _over_anchors(mean_same, _log_sum_exp(x, pairs.known, 1), x, pairs)


def group_contrastive(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """`anchor_contrastive`, and to it the same of the means of groups, at τ/2.

    Means set classes apart sooner, and teach nothing more once they are apart; the anchors go on
    drawing each class together then, which few labels need.
    """
    return anchor_contrastive(k, pairs, setting) + _of_means(k, pairs, setting)


def _of_means(k: Tensor, pairs: PairLabels, setting: Setting) -> Tensor:
    """Mean over anchors i with a same pair of log(e^(s_i/t) / (e^(s_i/t) + Σ_j e^(g_ij/t) / n_ij)).

    t is τ/2, and j runs over i's different pairs. The group of j is j and its same pairs, n_ij of
    which are different from i. With φ the unit features of which k is the inner product, g_ij is
    the cosine of φ_i and the mean φ of these, and s_i the cosine of φ_i and the mean φ of i's same
    pairs. So each other class of a batch counts once, by its mean. The norm of a mean comes from
    the same pairs of its group's examples, and k_max for each of these itself. An anchor without a
    different pair is treated as in `anchor_contrastive`.
    """
    same, temperature = pairs.same.to(k.dtype), setting.temperature / 2
    groups = same.clone().fill_diagonal_(1)
    n_same = same.sum(1)
    with_same = torch.where(pairs.same, k, 0).sum(1)
    within = setting.k_max + with_same
    own_norm = _norm(same @ within - with_same, same @ n_same)
    norm = _norm(groups @ within, groups @ (n_same + 1))
    n = (pairs.different.to(k.dtype) @ groups).clamp_min(1)
    s = with_same / (n_same.clamp_min(1) * own_norm * temperature)
    g = torch.where(pairs.different, k, 0) @ groups / n / (norm * temperature)
    apart = _log_sum_exp(g - n.log(), pairs.different, 1)
    return _over_anchors(s, torch.logaddexp(s, apart), g, pairs)


def _norm(total: Tensor, count: Tensor) -> Tensor:
    return (total / count.clamp_min(1)).clamp_min(SMALLEST_SQUARED_NORM).sqrt()


def _over_anchors(same: Tensor, total: Tensor, x: Tensor, pairs: PairLabels) -> Tensor:
    """Mean over anchors with a same pair of what is the same less the total, both logarithms."""
    lone = ~pairs.different.any(1)
    if x.is_cuda or lone.any():  # A look at it would have a GPU wait.
        total = torch.where(lone, torch.logaddexp(total, _log_mean_different(x, pairs)), total)
    anchors = pairs.same.any(1)
    return torch.where(anchors, same - total, 0).sum() / anchors.sum()
