"""What is known of the pairs of one batch: same, different or unknown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from modkernel.errors import PairError

__all__ = ["PairLabels", "canonical_groups", "check_pairs", "conflict", "labels_of_groups"]

Count = int | Tensor
"""A whole number, or a float64 scalar on the device that computes with it, which then has to wait
for no host; see `PairLabels.tensors`."""


@dataclass(frozen=True, eq=False)
class PairLabels:
    """Pairwise labels of n examples; made by `from_classes`, `from_pairs` or a `PairSource`.

    Attributes:
        same: bool [n, n], symmetric; pairs known to be of the same class. The diagonal is False.
        known: bool [n, n], symmetric; pairs of which anything is known. The diagonal is False.
        n_same: number of same pairs i < j.
        n_different: number of different pairs i < j.
    """

    same: Tensor
    known: Tensor
    n_same: Count
    n_different: Count

    @classmethod
    def from_classes(cls, labels: Tensor) -> PairLabels:
        """Pairs of class labels, integers [n]; all are known. The labels are not stored.

        >>> pairs = PairLabels.from_classes(torch.tensor([7, 3, 7]))
        >>> pairs.same.nonzero().tolist()
        [[0, 2], [2, 0]]
        >>> pairs.n_same, pairs.n_different
        (1, 2)

        Raises:
            PairError: labels are not whole numbers of 0 or more in one dimension.
        """
        return labels_of_groups(canonical_groups(labels), labels.device)

    @classmethod
    def from_pairs(cls, n: int, i: Tensor, j: Tensor, same: Tensor) -> PairLabels:
        """Known pairs of n examples: positions i and j, integers [M], and same, bool or 0/1 [M].

        >>> first, second = torch.tensor([0, 1]), torch.tensor([1, 2])
        >>> pairs = PairLabels.from_pairs(4, first, second, torch.tensor([1, 0]))
        >>> pairs.n_same, pairs.n_different, len(pairs)
        (1, 1, 4)

        Raises:
            PairError: lengths differ, same is not 0/1, an index is outside 0..n-1, a pair joins an
                example with itself, or one is listed both as same and as different.
        """
        i, j, same = check_pairs(n, i, j, same)
        marks = torch.zeros(2, n, n, dtype=torch.bool, device=i.device)
        for kind in (False, True):
            of_kind = same == kind
            marks[int(kind), i[of_kind], j[of_kind]] = True
        different, alike = marks | marks.mT
        if bool((different & alike).any()):
            a, b = (different & alike).nonzero()[0].tolist()
            raise conflict(a, b)
        return cls(alike, alike | different, int(alike.sum()) // 2, int(different.sum()) // 2)

    @cached_property
    def different(self) -> Tensor:
        """Bool [n, n]: pairs known to be of different classes."""
        return self.known & ~self.same

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.same)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """`same`, `known`, and both numbers of pairs, float64 [2], all where `same` lies."""
        counts = torch.tensor([self.n_same, self.n_different], dtype=torch.float64)
        return self.same, self.known, counts.to(self.same.device, non_blocking=True)

    @classmethod
    def of_tensors(cls, same: Tensor, known: Tensor, counts: Tensor) -> PairLabels:
        """Labels of what `tensors` gave, all of it on one device."""
        return cls(same, known, counts[0], counts[1])

    def to(self, device: torch.device | str) -> PairLabels:
        """The same labels on another device."""
        if self.same.device == torch.device(device):
            return self
        return replace(
            self,
            same=self.same.to(device, non_blocking=True),
            known=self.known.to(device, non_blocking=True),
        )


def labels_of_groups(groups: Tensor, device: torch.device | str) -> PairLabels:
    """All pairs of examples in groups, small whole numbers [n], as labels on a device.

    Pairs are counted where `groups` lie: on the CPU, no accelerator is waited for.
    """
    n = len(groups)
    sizes = torch.bincount(groups)
    n_same = int((sizes * (sizes - 1)).sum()) // 2
    groups = groups.to(device, non_blocking=True)
    same = (groups[:, None] == groups).fill_diagonal_(False)
    known = torch.ones_like(same).fill_diagonal_(False)
    return PairLabels(same, known, n_same, n * (n - 1) // 2 - n_same)


def canonical_groups(labels: Tensor) -> Tensor:
    """Number the classes of `labels`, integers [n], by the order in which they first occur.

    The result depends on nothing but which pairs are of the same class: any renaming of the
    classes gives the same tensor.

    Raises:
        PairError: labels are not whole numbers of 0 or more in one dimension.
    """
    if labels.ndim != 1 or not _is_whole(labels) or bool((labels < 0).any()):
        raise PairError(
            f"Class labels are whole numbers of 0 or more, one per example; these are "
            f"{str(labels.dtype).removeprefix('torch.')} of shape {list(labels.shape)}"
            f"{', some below 0' if labels.ndim == 1 and _is_whole(labels) else ''}. "
            "Leave unlabelled examples out, or list the known pairs and use from_pairs."
        )
    names, groups = torch.unique(labels, return_inverse=True)
    order = torch.arange(len(labels), device=labels.device)
    first = torch.full_like(names, len(labels), dtype=torch.int64)
    first.scatter_reduce_(0, groups, order, "amin")
    return first.argsort().argsort()[groups]


def check_pairs(n: int, i: Tensor, j: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return i and j as int64 and same as bool, all [M].

    Raises:
        PairError: lengths differ, same is not 0/1, an index is outside 0..n-1, or a pair joins
            an example with itself; the message names the first such pair, counted from 0.
    """
    if not (i.ndim == j.ndim == same.ndim == 1 and len(i) == len(j) == len(same)):
        raise PairError(
            f"Pairs are three lists of one length, not {list(i.shape)}, {list(j.shape)} and "
            f"{list(same.shape)}: give an i, a j and a 0 or 1 for each pair."
        )
    if not (_is_whole(i) and _is_whole(j)):
        raise PairError(f"Pairs name examples by whole numbers, not by {i.dtype} and {j.dtype}.")
    i, j = i.long(), j.long()
    for wrong, problem in (
        ((same != 0) & (same != 1), "is labelled neither 0 (different) nor 1 (same)"),
        ((i < 0) | (i >= n) | (j < 0) | (j >= n), f"is outside the examples 0 to {n - 1}"),
        (i == j, "joins an example with itself"),
    ):
        if bool(wrong.any()):
            k = int(wrong.nonzero()[0])
            raise PairError(
                f"Pair {k}, ({int(i[k])}, {int(j[k])}) with label {same[k].item()}, {problem}: "
                "correct it or leave it out."
            )
    return i, j, same.bool()


def conflict(a: int, b: int) -> PairError:
    """The error for a pair that is listed both as same and as different."""
    return PairError(
        f"The pair of examples {a} and {b} is listed both as same and as different: keep one."
    )


def _is_whole(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
