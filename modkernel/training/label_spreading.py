"""A few labels spread over examples without one, along nearest neighbours in the features.

The graph joins each example with its nearest neighbours. Labels flow along it until they settle:
F = (I - αS)⁻¹ Y, where Y [N, C] is one-hot on the labelled examples and zero elsewhere, and
S = D^(-1/2) W D^(-1/2) are the normalised weights. An example takes the class that most reaches it.

Sources: D. Zhou et al., *Learning with Local and Global Consistency*, NIPS 2003, for F;
L. Zelnik-Manor and P. Perona, *Self-Tuning Spectral Clustering*, NIPS 2004, for weights whose width
follows the local density.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.control import UNWATCHED
from modkernel.errors import NonFiniteError, StoppedError
from modkernel.kernels import unit_rows
from modkernel.system.seeding import generator_for

NEIGHBOURS = 10
"""Of each example; of fewer examples, all others."""
SCALING = 7
"""The neighbour whose distance is an example's local width; the last one where there are fewer."""
ALPHA = 0.99
"""Share of an example's label that comes from its neighbours."""
TOLERANCE = 1e-12
"""Length of the residual, of that of the right side, at which conjugate gradients end."""
CERTAIN = 1e-6
"""Values above this part of the right side's length are taken: what conjugate gradients leave out
is at most TOLERANCE/(1 - α) of that length, a ten-thousandth of such a value."""
STEPS = 1000
"""Of conjugate gradients, at most: the condition number is at most (1 + α)/(1 - α) = 199, with
which some 200 are enough."""
SAMPLE = 20_000
"""Examples that labels are spread over at most, drawn at random: time grows with their square."""
SMALLEST = 1e-6
"""Widths are divided by no less than this: of copies, whose distance is 0, the weight is 1."""
BLOCK = 1024
"""Examples whose similarities to all others are held at once."""


@dataclass(frozen=True)
class Spread:
    """Labels that were spread, of D draws.

    Attributes:
        rows: int64 [D, M], examples that have a label now, the given ones first, which stand again
            in place of those that no label reaches.
        labels: int64 [D, N], which hold in `rows`.
        reached: how many examples each draw's labels were spread to.
    """

    rows: Tensor
    labels: Tensor
    reached: tuple[int, ...]


def candidates(count: int, labelled: int, seed: int) -> Tensor:
    """Positions that labels may be spread over, in the order in which they are drawn, int64 [K].

    A draw of n labels takes the first `SAMPLE` of them that it has no label of: what it gets does
    not depend on other draws.

    Args:
        count: N, with and without a label.
        labelled: n.
        seed: of the order.
    """
    order = torch.randperm(count, generator=generator_for(seed, "spread labels"))
    return order[: SAMPLE + labelled]


def spread_labels(
    phi: Tensor,
    labels: Tensor,
    chosen: Tensor,
    order: Tensor,
    classes: int,
    stop: Callable[[], bool] = UNWATCHED.stop,
) -> Spread:
    """Labels of other examples, from those of a few; of several draws, each by itself.

    An example that the graph joins with no label gets none.

    Args:
        phi: features of N examples, float32 [N, d]; rows are brought to unit length.
        labels: int64 [N], of which those of `chosen` are looked at.
        chosen: int64 [D, n], the labelled examples of each draw; all on the device of `phi`.
        order: int64 [K], as `candidates` draws them.
        classes: C.
        stop: says when to give up.

    Raises:
        NonFiniteError: features that are not finite.
        StoppedError: `stop` said so.
    """
    if not torch.isfinite(phi).all():
        raise NonFiniteError(
            "Features of the modules below are not finite, so no neighbours can be told: train "
            "those again with a lower learning_rate, or leave spread_labels out."
        )
    every, spread, reached = [], [], []
    before, graph, copy_of = None, None, None
    for given in chosen:
        others = order[~torch.isin(order, given)][:SAMPLE]
        nodes = torch.cat([given, others]).sort().values
        if before is None or not torch.equal(nodes, before):
            # Copies would fill each other's neighbours, and no label would leave them.
            distinct, copy_of = unit_rows(phi[nodes]).unique(dim=0, return_inverse=True)
            before, graph = nodes, neighbour_graph(distinct, stop=stop)
        assert graph is not None
        assert copy_of is not None
        place = copy_of[torch.searchsorted(nodes, given)]
        seeds = phi.new_zeros(len(graph), classes)
        seeds.index_put_((place, labels[given]), seeds.new_ones(()), accumulate=True)
        flow = solve(graph, seeds, stop)[copy_of]
        found = labels.clone()
        found[nodes] = flow.argmax(1)
        found[given] = labels[given]
        has = nodes[(flow.amax(1) > 0) & ~torch.isin(nodes, given)]
        repeated = given.repeat(1 + (len(others) - len(has)) // len(given))
        every.append(torch.cat([given, has, repeated])[: len(nodes)])
        spread.append(found)
        reached.append(len(has))
    return Spread(torch.stack(every), torch.stack(spread), tuple(reached))


def neighbour_graph(
    phi: Tensor, neighbours: int = NEIGHBOURS, stop: Callable[[], bool] = UNWATCHED.stop
) -> Tensor:
    """Normalised weights S of the graph of nearest neighbours, sparse CSR [N, N].

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
    if not nearest:
        return _compressed(phi.new_zeros(count, count).to_sparse())
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
    return _compressed(graph)


def _compressed(graph: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return graph.to_sparse_csr()


def solve(graph: Tensor, seeds: Tensor, stop: Callable[[], bool] = UNWATCHED.stop) -> Tensor:
    """(I - αS)⁻¹ Y, every column by itself: [N, N], [N, C] -> float64 [N, C].

    Each value is right to a small part of itself, not of the column's greatest: far from a label
    all are tiny, and still say which class is nearest. So those that are large beside what
    conjugate gradients leave out are taken first; then the same is solved for the others alone,
    into which flows what was taken. Nothing of it is negative, so no digits are lost.

    Raises:
        StoppedError: `stop` said so.
    """
    graph, seeds = graph.double(), seeds.double()
    found, rest = torch.zeros_like(seeds), torch.ones_like(seeds, dtype=torch.bool)
    while True:
        flow = torch.where(rest, seeds + ALPHA * (graph @ found), 0)
        scale = flow.amax(0).clamp_min(torch.finfo(flow.dtype).tiny)
        flow /= scale  # Of the tiniest values the squares would be zero.
        values = _conjugate_gradients(graph, flow, rest, stop)
        certain = rest & (values > CERTAIN * torch.linalg.vector_norm(flow, dim=0))
        if not certain.any():  # Where most flows in is certain, so nothing flows any more.
            return found
        found = torch.where(certain, values * scale, found)
        rest &= ~certain


def _conjugate_gradients(
    graph: Tensor, flow: Tensor, rest: Tensor, stop: Callable[[], bool]
) -> Tensor:
    """The F [N, C] that is zero outside of `rest`, with (I - αS) F = `flow` inside."""
    found, residual = torch.zeros_like(flow), flow.clone()
    direction, size = residual.clone(), (residual * residual).sum(0)
    enough, tiny = size * TOLERANCE**2, torch.finfo(flow.dtype).tiny
    for _ in range(STEPS):
        _check(stop)
        if bool((size <= enough).all()):
            break
        image = torch.where(rest, direction - ALPHA * (graph @ direction), 0)
        # A column that is done, or has no label, has no direction left.
        step = size / (direction * image).sum(0).clamp_min(tiny)
        found += step * direction
        residual -= step * image
        before, size = size, (residual * residual).sum(0)
        direction = residual + size / before.clamp_min(tiny) * direction
    return found


def _check(stop: Callable[[], bool]) -> None:
    if stop():
        raise StoppedError("Spreading labels was stopped: run the same command to begin again.")
