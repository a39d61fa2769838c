"""Which unlabelled examples to label: typical ones, from all regions of the feature space.

Coverage before density: the examples are clustered, and a cluster's labels go to the members
nearest its centre (TypiClust is of this kind: Hacohen, Dekel and Weinshall, ICML 2022, "Active
Learning on a Budget"). Random draws leave whole classes out when labels are few; clusters of a
good module's features are classes, or parts of them. Labels are shared out so that each stands
for about as many examples, and labels that there are already count for their clusters: what lies
between the classes makes small clusters, whose labels mislead more than they help.
`benchmarks/label_advice.py` has the figures.
"""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from modkernel.errors import DataError, LabelBudgetError
from modkernel.kernels import unit_rows
from modkernel.system.seeding import generator_for

SAMPLE = 10_000
"""Clusters are found on this many examples at most, drawn at random; every example is a candidate
for its cluster's label, and counts towards its size."""
CLUSTERS = 1000
"""Clusters at most."""
OWN = 20
"""Labels up to which there are as many clusters as labels."""
SHARE = 2 / 3
"""Clusters a label in a larger budget: finer ones are less often of one class."""
RESTARTS = 10
"""Of k-means with few clusters, the best of which is taken."""
BLOCK = 4096
"""Examples whose distances to all centres are held at once."""


def suggest_labels(
    features: Tensor, budget: int, seed: int = 0, labelled: Tensor | None = None
) -> Tensor:
    """Choose the examples to label, best first.

    Any first part of the answer is a sensible choice too: its p examples are the middles of the
    largest clusters of the p coarsest groups of clusters; beside labels that there are already, of
    the p clusters in which most examples stand behind a label.

    Args:
        features: φ of N unlabelled examples, float [N, d]; rows are brought to unit length.
        budget: how many to choose.
        seed: of the sample and of k-means; the same seed gives the same choice.
        labelled: φ of examples that have a label, float [M, d].

    Returns:
        int64 [budget], different positions in [0, N).

    Raises:
        LabelBudgetError: a budget below 1, or above N.
        DataError: features that are not finite, or no matrix of them.
    """
    known = features[:0] if labelled is None else labelled
    if features.ndim != 2 or not all(torch.isfinite(part).all() for part in (features, known)):
        raise DataError(
            "Choosing labels takes finite features, one row per example: train the module "
            "again with a lower learning_rate, or use another one."
        )
    check_budget(budget, len(features))
    phi = unit_rows(torch.cat((features, known)).detach().float().cpu())
    labels = budget + len(known)
    generator = generator_for("suggest labels", seed)
    sample = phi[torch.randperm(len(phi), generator=generator)[:SAMPLE]]
    wanted = max(min(labels, OWN), math.ceil(SHARE * labels))
    centres = _centres(sample, min(wanted, CLUSTERS, len(sample)), generator)
    nearest, distance = _nearest(phi, centres)
    sizes = torch.bincount(nearest, minlength=len(centres))
    cluster, others = nearest.split((len(features), len(known)))
    taken = torch.bincount(others, minlength=len(centres))
    shared = _share(sizes.tolist(), taken.tolist(), budget)
    members = {number: _members(cluster, distance, number) for number in sorted(set(shared))}
    if len(known):
        return torch.tensor([members[number].pop(0) for number in shared])
    first = torch.tensor([members[number].pop(0) for number in members])
    order = _coarse_to_fine(phi[first], sizes[list(members)])
    seen: set[int] = set()
    further = []
    for number in shared:
        if number in seen:
            further.append(members[number].pop(0))
        seen.add(number)
    return torch.cat([first[order], torch.tensor(further, dtype=torch.int64)])


def check_budget(budget: int, candidates: int) -> None:
    """Check that so many examples can be chosen.

    Raises:
        LabelBudgetError: a budget below 1, or above the number of candidates, or none of them.
    """
    if not candidates:
        raise LabelBudgetError("Every example has a label: there is none to choose.")
    if not 1 <= budget <= candidates:
        raise LabelBudgetError(
            f"A budget of {budget} labels for {candidates} examples: use 1 to {candidates}."
        )


def _centres(sample: Tensor, count: int, generator: torch.Generator) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    state = int(torch.randint(2**31, (), generator=generator))
    restarts = max(1, min(RESTARTS, 500 // count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Raised for repeated examples.
        found = KMeans(count, n_init=restarts, random_state=state).fit(sample.numpy())
    return torch.from_numpy(found.cluster_centers_)


def _nearest(phi: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's nearest centre, int64 [N], and its distance, [N]."""
    found = [torch.cdist(block, centres).min(1) for block in phi.split(BLOCK)]
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])


def _share(sizes: Sequence[int], taken: Sequence[int], budget: int) -> list[int]:
    """The cluster of each label in turn: where most examples stand behind one (D'Hondt).

    Args:
        sizes: examples of each cluster.
        taken: those of them that have a label.
        budget: further labels.
    """
    queue = [
        (-size / (had + 1), number, had + 1)
        for number, (size, had) in enumerate(zip(sizes, taken, strict=True))
        if had < size
    ]
    heapq.heapify(queue)
    shared: list[int] = []
    while len(shared) < budget:
        _, number, has = heapq.heappop(queue)
        shared.append(number)
        if has < sizes[number]:
            heapq.heappush(queue, (-sizes[number] / (has + 1), number, has + 1))
    return shared


def _members(cluster: Tensor, distance: Tensor, number: int) -> list[int]:
    """A cluster's members, the nearest to its centre first."""
    rows = torch.nonzero(cluster == number).flatten()
    nearest_first: list[int] = rows[distance[rows].argsort(stable=True)].tolist()
    return nearest_first


def _coarse_to_fine(points: Tensor, sizes: Tensor) -> Tensor:
    """Order in which K points stand for ever finer groups of them, int64 [K].

    Going down Ward's tree, each split of a group leaves its first point to the part that holds it
    and adds the other part's point of the largest size.
    """
    if len(points) < 2:
        return torch.arange(len(points))
    from sklearn.cluster import ward_tree

    children, *_ = ward_tree(points.numpy())
    weight = sizes.tolist()
    stands_for = list(range(len(points)))
    added = []
    for left, right in children.tolist():
        larger, smaller = sorted(
            (stands_for[left], stands_for[right]), key=lambda point: (-weight[point], point)
        )
        stands_for.append(larger)
        added.append(smaller)
    return torch.tensor([stands_for[-1], *reversed(added)])
