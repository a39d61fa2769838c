"""All pairs of examples whose classes are known, without the classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.pairs.labels import PairLabels, canonical_groups, labels_of_groups

__all__ = ["PairGroups"]


@dataclass(frozen=True, eq=False, repr=False)
class PairGroups:
    """Groups of examples of one class; see `canonical_groups`.

    Attributes:
        n: number of examples.
        groups: int64 [n], on the CPU.
    """

    n: int
    groups: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> PairGroups:
        """Groups of class labels, integers [n].

        Raises:
            PairError: labels are not whole numbers of 0 or more in one dimension.
        """
        groups = canonical_groups(labels.cpu())
        return cls(len(groups), groups)

    @property
    def n_same(self) -> int:
        """Number of same pairs i < j."""
        sizes = torch.bincount(self.groups)
        return int((sizes * (sizes - 1)).sum()) // 2

    @property
    def n_different(self) -> int:
        """Number of different pairs i < j."""
        return self.n * (self.n - 1) // 2 - self.n_same

    def among(self, indices: Tensor, device: torch.device | str) -> PairLabels:
        """All pairs among the examples `indices` [B]."""
        return labels_of_groups(self.groups[indices], device)

    def n_batches(self, batch_size: int, drop_last: bool) -> int:
        """Number of batches that `batches` gives, of all examples."""
        if drop_last:
            return max(1, self.n // batch_size)
        return -(-self.n // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator, drop_last: bool
    ) -> tuple[Tensor, ...]:
        """A permutation of all examples, in batches; see `PairSource.batches`."""
        order = torch.randperm(self.n, generator=generator)
        n_batches = self.n_batches(batch_size, drop_last)
        if drop_last:
            order = order[: n_batches * batch_size]
        return torch.tensor_split(order, n_batches)
