"""Contrastive scores, streamed over blocks of the kernel matrix: exact, without n × n memory."""

from __future__ import annotations

import torch
from torch import Tensor

from modkernel.errors import ScoreError

__all__ = ["anchor_contrastive", "contrastive", "log_contrastive"]

ROWS = 1024
"""Rows and columns of a block."""


def contrastive(features: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Σ_same e^(k/τ) / Σ e^(k/τ) over pairs i ≠ j, k = ⟨φ_i, φ_j⟩.

    Source: Duan, Yu, Príncipe, IEEE TNNLS 33(4), 2022; as `formulas.contrastive` on all of K.

    Args:
        features: φ [N, d].
        labels: int64 [N]; -1 is left out.
        temperature: τ.

    Raises:
        ScoreError: there is no same pair.
    """
    return float(_log_share(features, labels, temperature).exp())


def log_contrastive(features: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Logarithm of `contrastive`; arguments and errors as there."""
    return float(_log_share(features, labels, temperature))


def anchor_contrastive(features: Tensor, labels: Tensor, temperature: float = 0.1) -> float:
    """Mean over anchors i with a same pair of mean_j log(e^(k_ij/τ) / Σ_l e^(k_il/τ)).

    Source: Khosla et al. 2020 (arXiv 2004.11362); arguments and errors as of `contrastive`.
    """
    _, known, mean_same = _rows(features, labels, temperature)
    anchors = ~mean_same.isnan()
    return float((mean_same - known)[anchors].mean())


def _log_share(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    same, known, _ = _rows(features, labels, temperature)
    return same.logsumexp(0) - known.logsumexp(0)


def _rows(features: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of each example [N]: log Σ_same e^(k/τ), log Σ e^(k/τ), and mean k/τ of its same pairs.

    The mean is NaN and the first is -inf where an example has no same pair.
    """
    labelled = labels >= 0
    phi, labels = features[labelled].double(), labels[labelled]
    if not len(labels) or int(labels.bincount().max()) < 2:
        raise ScoreError(
            "A contrastive score needs two examples of some class: give more labelled examples."
        )
    parts = []
    for start in range(0, len(phi), ROWS):
        rows, of_rows = phi[start : start + ROWS], labels[start : start + ROWS]
        log_same = rows.new_full((len(rows),), -torch.inf)
        log_known, total = log_same.clone(), torch.zeros_like(log_same)
        for other in range(0, len(phi), ROWS):
            x = rows @ phi[other : other + ROWS].T / temperature
            same = of_rows[:, None] == labels[None, other : other + ROWS]
            if other == start:
                x.fill_diagonal_(-torch.inf)
                same.fill_diagonal_(False)
            log_known = torch.logaddexp(log_known, x.logsumexp(1))
            log_same = torch.logaddexp(log_same, x.masked_fill(~same, -torch.inf).logsumexp(1))
            total += torch.where(same, x, 0).sum(1)
        parts.append((log_same, log_known, total))
    log_same, log_known, total = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_same, log_known, total / (labels.bincount()[labels] - 1)
