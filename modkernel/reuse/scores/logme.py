"""LogME: the evidence for a linear model of the labels, at its best noise and prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modkernel.reuse.scores.statistics import TaskStatistics

__all__ = ["logme"]

RESIDUAL = 1e-10
"""Least share of ‖y‖² that features leave of the labels: less than that is rounding of float32."""
POINTS = 64
"""Values of log ρ in each round of the search for the best."""
ROUNDS = 3
"""Rounds of the search, each between the neighbours of the best value so far."""
NUMBERS = 1 << 21
"""float64 numbers of the grid that are held at once: 16 MiB."""


def logme(task: TaskStatistics) -> float:
    """Mean over sides of max over α, β of log N(y | 0, β⁻¹I + α⁻¹ΦΦᵀ) / n, y one side against all.

    Source: You et al., ICML 2021. In ρ = β/α, with the singular values σ of Φ, the parts
    a_i = u_iᵀy of y along them and its rest R, the best noise is s = (Σ a_i²/(1 + ρσ_i²) + R) / n
    and the evidence −n/2 (log 2πs + 1) − ½ Σ log(1 + ρσ_i²): one curve in ρ, searched from 0 to
    beyond its last rise. It is the whole density for n < d too: the term (d − n)·log α that some
    implementations omit is in it. Directions with less than 1e-10 of Σ‖φ‖² are left out of Φ.

    Where more examples than directions are left, R is taken to be 1e-10·‖y‖² at least, the least
    noise that float32 features can show. Labels that the features give exactly, as those of a
    collapsed module do, would have an evidence without bound; so it is finite and compares.
    """
    n = task.examples
    values, vectors = task.spectrum(task.second, task.mean_square * n)
    along = (task.moments.sums @ vectors).square() / values
    rest = torch.maximum(task.counts - along.sum(1), RESIDUAL * task.counts)
    if len(values) >= n:
        rest = torch.zeros_like(rest)
    size = max(1, NUMBERS // (POINTS * max(1, len(values))))
    best = torch.cat(
        [
            _best(part, left, values, n)
            for part, left in zip(along.split(size), rest.split(size), strict=True)
        ]
    )
    return float(best.mean() / n)


def _best(along: Tensor, rest: Tensor, values: Tensor, n: int) -> Tensor:
    """Greatest log evidence [G] of labels with parts a² [G, r] and rest [G]; values σ² [r]."""
    total = along.sum(1) + rest
    best = -n / 2 * ((2 * math.pi * total / n).log() + 1)  # ρ = 0
    if not len(values):
        return best
    low, high = _range(along, rest, values, n)
    steps = torch.linspace(0, 1, POINTS, dtype=values.dtype)
    rows = torch.arange(len(rest))
    for _ in range(ROUNDS):
        grid = low[:, None] + (high - low)[:, None] * steps
        grown = grid.exp()[..., None] * values
        noise = ((along[:, None] / (1 + grown)).sum(2) + rest[:, None]) / n
        evidence = -n / 2 * ((2 * math.pi * noise).log() + 1) - grown.log1p().sum(2) / 2
        height, at = evidence.max(1)
        best = torch.maximum(best, height)
        before, after = (at - 1).clamp_min(0), (at + 1).clamp_max(POINTS - 1)
        low, high = grid[rows, before], grid[rows, after]
    # Between the last points, less than 1e-3 apart, the curve is a parabola but for some 1e-11.
    left, right = height - evidence[rows, before], height - evidence[rows, after]
    inside = (left > 0) & (right > 0)
    vertex = height + (left - right).square() / (8 * (left + right)).clamp_min(1e-300)
    best = torch.where(inside, torch.maximum(best, vertex), best)
    if len(values) >= n:
        # Without noise, ρ → ∞: all of y is in the span of Φ, and the evidence has a limit.
        scale = (along / values).sum(1) / n
        limit = -n / 2 * ((2 * math.pi * scale).log() + 1) - values.log().sum() / 2
        best = torch.maximum(best, limit)
    return best


def _range(along: Tensor, rest: Tensor, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Two values [G] of log ρ: below the first the evidence is flat, beyond the other it falls."""
    low = (1e-8 / values.max()).log().expand(len(rest))
    flat = 1e10 / values.min()
    falls = n * (along / values).sum(1) / (len(values) * rest)
    high = torch.where(rest > 0, torch.maximum(falls * 1e2, flat * 1e-6), flat).log()
    return low, high
