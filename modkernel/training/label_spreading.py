"""A few labels spread over examples without one, along nearest neighbours in the features.

The graph joins each example with its nearest neighbours. Labels flow along it until they settle:
F = (I - αS)⁻¹ Y, where Y [N, C] is one-hot on the labelled examples and zero elsewhere, and
S = D^(-1/2) W D^(-1/2) are the normalised weights. Each class's column of F is then scaled to add
up to the number of its labels, and an example takes the class of its largest value.

Sources: D. Zhou et al., *Learning with Local and Global Consistency*, NIPS 2003, for F;
L. Zelnik-Manor and P. Perona, *Self-Tuning Spectral Clustering*, NIPS 2004, for weights whose width
follows the local density; X. Zhu, Z. Ghahramani and J. Lafferty, *Semi-Supervised Learning Using
Gaussian Fields and Harmonic Functions*, ICML 2003, for the scaling, without which one class can
swallow its neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.control import UNWATCHED
from modkernel.errors import StoppedError
from modkernel.kernels import unit_rows
from modkernel.system.seeding import generator_for

NEIGHBOURS = 10
"""Of each example; of fewer examples, all others."""
SCALING = 7
"""The neighbour whose distance is an example's local width; the last one where there are fewer."""
ALPHA = 0.99
"""Share of an example's label that comes from its neighbours."""
TOLERANCE = 1e-5
"""Length of the residual, of that of Y, at which conjugate gradients end."""
STEPS = 1000
"""Of conjugate gradients, at most: the condition number is at most (1 + α)/(1 - α) = 199, with
which some 100 are enough."""
SAMPLE = 20_000
"""Examples without a label at most, drawn at random; the time grows with the square of it."""
SMALLEST = 1e-6
"""Widths and masses are divided by no less than this: copies, at distance 0, weigh 1."""
BLOCK = 1024
"""Examples whose similarities to all others are held at once."""


@dataclass(frozen=True)
class Spread:
    """Labels that were spread.

    Attributes:
        rows: int64 [D, M], examples of each draw that have a label now; the given ones first.
        labels: int64 [D, N], which hold in `rows`.
    """

    rows: Tensor
    labels: Tensor


def spread_labels(
    phi: Tensor,
    labels: Tensor,
    chosen: Tensor,
    classes: int,
    seed: int,
    stop: Callable[[], bool] = UNWATCHED.stop,
) -> Spread:
    """Labels of other examples, from those of a few; of several draws, each by itself.

    An example that no path of neighbours joins with a labelled one gets none: a labelled one is
    repeated in its place.

    Args:
        phi: features of N examples, float32 [N, d]; rows are brought to unit length.
        labels: int64 [N], of which those of `chosen` are looked at.
        chosen: int64 [D, n], the labelled examples of each draw; all on the device of `phi`.
        classes: C.
        seed: of the choice of `SAMPLE` examples, where there are more.
        stop: says when to give up.

    Raises:
        StoppedError: `stop` said so.
    """
    rows = _sample(len(phi), chosen, seed)
    graph = neighbour_graph(phi[rows], stop=stop)
    place = torch.empty(len(phi), dtype=torch.int64, device=phi.device)
    place[rows] = torch.arange(len(rows), device=phi.device)
    every, spread = [], []
    for given in chosen:
        seeds = phi.new_zeros(len(rows), classes)
        seeds[place[given], labels[given]] = 1
        flow = solve(graph, seeds, stop).clamp_min(0)
        mass = flow.sum(0) / seeds.sum(0).clamp_min(1)
        found = labels.clone()
        found[rows] = (flow / mass.clamp_min(SMALLEST)).argmax(1)
        found[given] = labels[given]
        reached = flow.amax(1) > 0
        reached[place[given]] = False
        others = rows[reached]
        repeated = given.repeat(1 + (len(rows) - len(others)) // len(given))
        every.append(torch.cat([given, others, repeated])[: len(rows)])
        spread.append(found)
    return Spread(torch.stack(every), torch.stack(spread))


def _sample(count: int, chosen: Tensor, seed: int) -> Tensor:
    """Positions, in order, of all labelled examples and of some others, int64 [M]."""
    taken = torch.zeros(count, dtype=torch.bool)
    order = torch.randperm(count, generator=generator_for(seed, "spread labels"))
    taken[order[:SAMPLE]] = True
    taken[chosen.flatten().cpu()] = True
    return taken.nonzero().flatten().to(chosen.device)


def neighbour_graph(
    phi: Tensor, neighbours: int = NEIGHBOURS, stop: Callable[[], bool] = UNWATCHED.stop
) -> Tensor:
    """Normalised weights S of the graph of nearest neighbours, sparse CSR [N, N], float32.

    W = (A + Aᵀ)/2, with A_ij = exp(-d²/(s_i s_j)) where j is among the nearest of i, 0 elsewhere;
    d² = 2 - 2 cos is their distance as unit rows, and s_i that of i and its `SCALING`th neighbour.

    Args:
        phi: float32 [N, d].
        neighbours: of each example, without itself; of fewer examples, all others.
        stop: says when to give up.

    Raises:
        StoppedError: `stop` said so.
    """
    unit, count = unit_rows(phi), len(phi)
    nearest = min(neighbours, count - 1)
    columns, squares = [], []
    for start in range(0, count, BLOCK):
        _check(stop)
        block = unit[start : start + BLOCK]
        cosines = block @ unit.T
        own = torch.arange(len(block), device=phi.device)
        cosines[own, start + own] = -torch.inf
        top = cosines.topk(nearest, dim=1)
        columns.append(top.indices)
        squares.append((2 - 2 * top.values).clamp_min(0))
    column, square = torch.cat(columns), torch.cat(squares)
    width = square[:, min(SCALING, nearest) - 1].sqrt().clamp_min(SMALLEST)
    weight = torch.exp(-square / (width[:, None] * width[column])).flatten() / 2
    column = column.flatten()
    row = torch.arange(count, device=phi.device).repeat_interleave(nearest)
    both = torch.stack([torch.cat([row, column]), torch.cat([column, row])])
    whole = torch.sparse_coo_tensor(both, weight.repeat(2), (count, count), check_invariants=False)
    whole = whole.coalesce()
    (row, column), weight = whole.indices(), whole.values()
    degree = torch.zeros(count, device=phi.device).index_add_(0, row, weight)
    scale = torch.where(degree > 0, degree.rsqrt(), 0)
    normal = weight * scale[row] * scale[column]
    shape = (count, count)
    graph = torch.sparse_coo_tensor(
        whole.indices(), normal, shape, is_coalesced=True, check_invariants=False
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return graph.to_sparse_csr()


def solve(graph: Tensor, seeds: Tensor, stop: Callable[[], bool] = UNWATCHED.stop) -> Tensor:
    """(I - αS)⁻¹ Y by conjugate gradients, every column by itself: [N, N], [N, C] -> [N, C].

    Raises:
        StoppedError: `stop` said so.
    """
    found, residual = torch.zeros_like(seeds), seeds.clone()
    direction, size = residual.clone(), (residual * residual).sum(0)
    enough = size * TOLERANCE**2
    for _ in range(STEPS):
        _check(stop)
        if bool((size <= enough).all()):
            break
        image = direction - ALPHA * (graph @ direction)
        # A column that is done, or has no label, has no direction left.
        step = size / (direction * image).sum(0).clamp_min(torch.finfo(seeds.dtype).tiny)
        found += step * direction
        residual -= step * image
        before, size = size, (residual * residual).sum(0)
        direction = residual + size / before.clamp_min(torch.finfo(seeds.dtype).tiny) * direction
    return found


def _check(stop: Callable[[], bool]) -> None:
    if stop():
        raise StoppedError("Spreading labels was stopped: run the same command to begin again.")
