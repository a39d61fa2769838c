"""All pairs of examples whose classes are known, without the classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.errors import PairError
from modkernel.pairs.labels import PairLabels, canonical_groups, labels_of_groups
from modkernel.pairs.repair import SMALLEST_CLASS_BATCH, repaired

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

    def n_batches(self, batch_size: int) -> int:
        """Number of batches that `batches` gives."""
        if batch_size < SMALLEST_CLASS_BATCH and self.n_same and self.n_different:
            classes = len(self.groups.unique())
            raise PairError(
                f"A batch of {batch_size} examples of these {classes} classes cannot hold a same "
                f"and a different pair: use a batch_size of at least {SMALLEST_CLASS_BATCH}."
            )
        return max(1, self.n // batch_size)

    def batches(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A permutation of the examples, in batches, repaired; see `PairSource.batches`."""
        count, size = self.n_batches(batch_size), min(batch_size, self.n)
        order = torch.randperm(self.n, generator=generator)
        rows = order[: count * size].view(count, size)
        if self.n_same and self.n_different:
            rows = repaired(self.groups, rows, generator)
        return rows.unbind()
