"""The kernel matrix of a whole batch, of which each process has a share."""

from __future__ import annotations

import torch
from torch import Tensor

from modkernel.kernels import Kernel
from modkernel.training.parallel.ranks import Ranks

__all__ = ["whole_gram"]


def whole_gram(kernel: Kernel, z: Tensor, count: int, ranks: Ranks) -> Tensor:
    """Kernel values of all examples of a batch with all others, [B, B], with gradient.

    What is sent are the kernel's features, where it has some: mostly fewer than the outputs.

    Args:
        kernel: compares the outputs.
        z: outputs [b, …] of this process's share, float32 or float64.
        count: B, of the whole batch.
        ranks: the processes that have it together.
    """
    if ranks.size == 1:
        return kernel.gram(z, z)
    if not kernel.has_features:
        rows = ranks.gather(z, count)
        return kernel.gram(rows, rows)
    rows = ranks.gather(kernel.features(z), count)
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ rows.T
