"""The processes that train one module together: who computes what, and what they tell each other.

Every process runs the same program on the same batches. Of each batch [B, …] a process computes its
share, and then all of them have the module's outputs of the whole batch, take the same objective of
the whole kernel matrix, and step by the same gradient: what they do is what one process does with
that batch, but for the order in which numbers are added up.

The processes are those of torch's default process group (`modkernel.training.parallel.join`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

__all__ = ["ALONE", "Ranks"]


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, and which of them this one is.

    Attributes:
        rank: number of this process, from 0. The first one writes and reports.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes checkpoints and reports progress."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The rows of a batch of `count` that this process computes.

        Shares are contiguous and in the order of ranks; the first ones have one row more where
        `count` cannot be divided evenly.
        """
        return slice(self._start(self.rank, count), self._start(self.rank + 1, count))

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """All processes' rows, with gradient.

        Args:
            rows: this process's share [b, …] of `count` rows.
            count: B, of the whole batch.

        Returns:
            [B, …], the same in every process. Its gradient is taken to be the whole one in every
            process, and goes back to this process's own rows alone.
        """
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, count, self)
        return gathered

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes: those of the shares become that of the batch."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all of them get the same answer. No GPU is waited for."""
        if self.size == 1:
            return flag
        told = torch.tensor([int(flag)])
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return bool(told)

    def wait(self) -> None:
        """Return once every process has come here."""
        self.any(False)

    def seed_draws(self, generator: torch.Generator) -> None:
        """Have layers that draw from torch's global generator, such as dropout, draw afresh.

        One process leaves that generator as it is. Of several, each gets a seed of its own, so that
        shares do not get the same draws, and none needs the state of another to resume.

        Args:
            generator: of the step, on the CPU; the same in all processes.
        """
        if self.size > 1:
            seeds = torch.randint(2**62, (self.size,), generator=generator)
            torch.manual_seed(int(seeds[self.rank]))

    def _start(self, rank: int, count: int) -> int:
        each, more = divmod(count, self.size)
        return rank * each + min(rank, more)


ALONE = Ranks()
"""One process."""


class _Gather(torch.autograd.Function):
    """`Ranks.gather`. Shares are padded to one length, which all backends can gather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int, ranks: Ranks) -> Tensor:
        ctx.share = ranks.share(count)
        largest = -(-count // ranks.size)
        padded = rows.new_zeros(largest, *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(ranks.size)]
        distributed.all_gather(found, padded)
        shares = (Ranks(rank, ranks.size).share(count) for rank in range(ranks.size))
        lengths = [share.stop - share.start for share in shares]
        parts = zip(found, lengths, strict=True)
        return torch.cat([part[:length] for part, length in parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.share], None, None
