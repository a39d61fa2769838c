"""Pairs of random views: two views of one example are a same pair, others are different pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modkernel.errors import PairError
from modkernel.pairs.labels import PairLabels, canonical_groups, labels_of_groups
from modkernel.pairs.table import PairTable, draw_some

__all__ = ["SMALLEST_VIEW_BATCH", "PairViews"]

SMALLEST_VIEW_BATCH = 2
"""Examples in a batch whose views make a same and a different pair."""
KNOWN_SHARE = 4
"""One part in so many of a batch, at most, is set aside for examples of which more is known."""


@dataclass(frozen=True, eq=False, repr=False)
class PairViews:
    """Two views of each of n examples, and what labels or a list say besides.

    A pair of views is a same pair where any source says so: they are of one example, of examples of
    one label, or of examples that are listed as same. All others are different pairs.

    Attributes:
        n: number of examples.
        groups: int64 [n], on the CPU: of equal label, or of a number of their own without one.
        table: listed pairs of the examples, if there are any.
        known: int64, the examples of which more is known than their views.
    """

    n: int
    groups: Tensor
    table: PairTable | None
    known: Tensor

    @classmethod
    def of(cls, n: int) -> PairViews:
        """Views alone: no label is known."""
        return cls(n, torch.arange(n), None, torch.arange(0))

    @classmethod
    def of_labels(cls, labels: Tensor) -> PairViews:
        """Views, and class labels, integers [n], of which -1 stands for none.

        Raises:
            PairError: labels are not whole numbers of -1 or more in one dimension.
        """
        labels = labels.cpu()
        known = torch.nonzero(labels >= 0).flatten() if labels.ndim == 1 else torch.arange(0)
        # Numbers of their own, above all labels, for those without one.
        alone = int(labels.max()) + 1 + torch.arange(len(labels)) if len(labels) else labels
        own = torch.where(labels == -1, alone, labels) if labels.ndim == 1 else labels
        return cls(len(labels), canonical_groups(own), None, known)

    @classmethod
    def of_pairs(cls, n: int, i: Tensor, j: Tensor, same: Tensor) -> PairViews:
        """Views, and listed pairs: see `PairTable.of`.

        Raises:
            PairError: see `PairTable.of`.
        """
        table = PairTable.of(n, i, j, same)
        return replace(cls.of(n), table=table, known=table.paired)

    @property
    def n_same(self) -> int:
        """Number of same pairs i < j of the 2 n views."""
        sizes = 2 * torch.bincount(self.groups)
        listed = 0 if self.table is None else 4 * self.table.n_same
        return int((sizes * (sizes - 1)).sum()) // 2 + listed

    @property
    def n_different(self) -> int:
        """Number of different pairs i < j of the 2 n views."""
        return self.n * (2 * self.n - 1) - self.n_same

    def among(self, indices: Tensor, device: torch.device | str) -> PairLabels:
        """All pairs of the 2 B views of the examples `indices` [B]: first views, then second."""
        found = labels_of_groups(self.groups[indices].repeat(2), device)
        if self.table is None:
            return found
        listed = self.table.among(indices, device)
        more = 4 * listed.n_same
        same = found.same | listed.same.repeat(2, 2)
        return PairLabels(same, found.known, found.n_same + more, found.n_different - more)

    def n_batches(self, batch_size: int) -> int:
        """Number of batches that `batches` gives."""
        if batch_size < SMALLEST_VIEW_BATCH:
            raise PairError(
                f"Views of {batch_size} example make no different pair: use a batch_size of at "
                f"least {SMALLEST_VIEW_BATCH}."
            )
        others, aside = self._shares(batch_size)
        return max(1, others // (batch_size - aside))

    def _shares(self, batch_size: int) -> tuple[int, int]:
        """Examples that are permuted, and places of a batch that are set aside for known ones."""
        if KNOWN_SHARE * len(self.known) >= self.n:
            return self.n, 0  # They meet often enough.
        return self.n - len(self.known), min(batch_size // KNOWN_SHARE, len(self.known))

    def batches(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A permutation of the examples in batches; see `PairSource.batches`."""
        count = self.n_batches(batch_size)
        others, aside = self._shares(batch_size)
        if not aside:
            order = torch.randperm(self.n, generator=generator)
            size = min(batch_size, self.n)
            return order[: count * size].view(count, size).unbind()
        rest = torch.ones(self.n, dtype=torch.bool).index_fill_(0, self.known, False)
        rows = rest.nonzero().flatten()[torch.randperm(others, generator=generator)]
        size = min(batch_size - aside, others)
        parts = rows[: count * size].view(count, size)
        return tuple(torch.cat((part, self._drawn(aside, generator))) for part in parts)

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Some of the known examples: both ends of listed pairs, or labelled ones."""
        if self.table is None or count < 2:
            return self.known[draw_some(len(self.known), count, generator)]
        return self.table.ends_of_some(count // 2, generator)
