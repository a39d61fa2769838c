"""A list of known pairs, looked up by sorted keys: memory grows with the list, never with n²."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modkernel.errors import PairError
from modkernel.pairs.labels import PairLabels, check_pairs, conflict

__all__ = ["PairTable"]


SMALLEST_PAIR_BATCH = 4
"""Examples in a batch that holds a same and a different pair with no example in common."""


def draw_some(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Up to `count` of the numbers 0 to total - 1, all sets of so many equally likely, int64.

    A small part of many is drawn in time that does not grow with `total`: for every batch.
    """
    if 2 * count >= total:
        return torch.randperm(total, generator=generator)[:count]
    drawn: Tensor = torch.randint(total, (count,), generator=generator).unique()
    while len(drawn) < count:  # Those that came twice are drawn again.
        more = torch.randint(total, (count - len(drawn),), generator=generator)
        drawn = torch.unique(torch.cat((drawn, more)))
    return drawn


@dataclass(frozen=True, eq=False, repr=False)
class PairTable:
    """Known pairs of n examples, each once, on the CPU.

    Attributes:
        n: number of examples.
        keys: int64 [M], ascending; n·i + j for i < j.
        same: bool [M].
    """

    n: int
    keys: Tensor
    same: Tensor

    @classmethod
    def of(cls, n: int, i: Tensor, j: Tensor, same: Tensor) -> PairTable:
        """Table of the given pairs; pairs listed twice with one label count once.

        Raises:
            PairError: the list is empty or contradicts itself, or a pair in it is not one of two
                of the n examples (`check_pairs`).
        """
        i, j, same = check_pairs(n, i.cpu(), j.cpu(), same.cpu())
        if not len(i):
            raise PairError("The list of pairs is empty: give at least one known pair.")
        keys, order = (n * torch.minimum(i, j) + torch.maximum(i, j)).sort()
        same = same[order]
        repeats = keys[1:] == keys[:-1]
        contradicts = repeats & (same[1:] != same[:-1])
        if bool(contradicts.any()):
            key = int(keys[:-1][contradicts][0])
            raise conflict(key // n, key % n)
        first = torch.cat([torch.ones(1, dtype=torch.bool), ~repeats])
        return cls(n, keys[first], same[first])

    @cached_property
    def n_same(self) -> int:
        """Number of same pairs."""
        return int(self.same.sum())

    @property
    def n_different(self) -> int:
        """Number of different pairs."""
        return len(self.keys) - self.n_same

    @cached_property
    def n_paired(self) -> int:
        """Number of examples that occur in a pair."""
        return len(self.paired)

    @property
    def paired(self) -> Tensor:
        """The examples that occur in a pair, int64, ascending."""
        return self._ends(self.keys)

    def ends_of_some(self, count: int, generator: torch.Generator) -> Tensor:
        """Both ends of up to `count` pairs drawn at random, each example once."""
        return self._ends(self.keys[draw_some(len(self.keys), count, generator)])

    def _ends(self, keys: Tensor) -> Tensor:
        """The examples that occur in pairs, each once."""
        ends: Tensor = torch.unique(torch.cat([keys // self.n, keys % self.n]))
        return ends

    def among(self, indices: Tensor, device: torch.device | str) -> PairLabels:
        """All known pairs among the examples `indices` [B], in O(B² log M)."""
        size = len(indices)
        rows, columns = torch.triu_indices(size, size, 1)
        a, b = indices[rows], indices[columns]
        wanted = self.n * torch.minimum(a, b) + torch.maximum(a, b)
        at = torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)
        found = self.keys[at] == wanted
        alike = found & self.same[at]
        n_known, n_same = int(found.sum()), int(alike.sum())
        known, same = torch.zeros(2, size, size, dtype=torch.bool)
        known[rows, columns] = known[columns, rows] = found
        same[rows, columns] = same[columns, rows] = alike
        return PairLabels(same, known, n_same, n_known - n_same).to(device)

    def n_batches(self, batch_size: int) -> int:
        """Number of batches that `batches` gives."""
        return self._plan(batch_size)[0]

    def batches(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Unions of the ends of up to `batch_size` // 2 pairs; see `PairSource.batches`.

        The pairs are dealt out so that every batch has a same and a different pair if the table
        has both; where there are fewer of a kind than batches, some are dealt again. All batches
        have the same number of pairs but for one.
        """
        n_batches, *counts = self._plan(batch_size)
        dealt = []
        for kind, count in zip((True, False), counts, strict=True):
            keys = self.keys[self.same == kind]
            keys = keys[torch.randperm(len(keys), generator=generator)]
            keys = keys[torch.arange(count) % max(1, len(keys))]
            dealt.append([keys[start::n_batches] for start in range(n_batches)])
        # From opposite ends, so that no batch gets the odd one of both kinds and grows too large.
        same, different = dealt[0], dealt[1][::-1]
        return tuple(self._ends(torch.cat(pairs)) for pairs in zip(same, different, strict=True))

    def _plan(self, batch_size: int) -> tuple[int, int, int]:
        """Numbers of batches, and of same and of different pairs that are dealt to them."""
        if batch_size < SMALLEST_PAIR_BATCH:
            raise PairError(
                f"A batch of {batch_size} examples cannot hold a same and a different pair: "
                f"use a batch_size of at least {SMALLEST_PAIR_BATCH}."
            )
        total = min(len(self.keys), self.n_paired)
        n_batches = -(-total // (batch_size // 2))
        if not self.n_same:
            return n_batches, 0, total
        if not self.n_different:
            return n_batches, total, 0
        total = max(total, 2 * n_batches)
        n_same = round(total * self.n_same / len(self.keys))
        n_same = min(max(n_same, n_batches), total - n_batches)
        return n_batches, n_same, total - n_same

    def split(self, fraction: float, seed: int) -> tuple[PairTable, PairTable]:
        """Split off a seeded share of the same and of the different pairs; see `PairSource`."""
        generator = torch.Generator().manual_seed(seed)
        held_out = torch.zeros(len(self.keys), dtype=torch.bool)
        for kind in (True, False):
            of_kind = (self.same == kind).nonzero()[:, 0]
            count = min(max(round(fraction * len(of_kind)), 1), max(len(of_kind) - 1, 0))
            order = torch.randperm(len(of_kind), generator=generator)
            held_out[of_kind[order[:count]]] = True
        if not bool(held_out.any()):
            raise PairError(
                f"A list of {len(self.keys)} pairs cannot be split in two: "
                "give at least two same pairs and two different ones."
            )
        return (
            PairTable(self.n, self.keys[~held_out], self.same[~held_out]),
            PairTable(self.n, self.keys[held_out], self.same[held_out]),
        )
