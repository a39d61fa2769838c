"""Batch norms that normalise by the whole batch, of which each process has a share.

torch's `SyncBatchNorm` does so on a GPU alone. This one is of CPUs too, and of shares of unequal
size and empty ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from modkernel.errors import SpecError
from modkernel.kernels import at_least_float32
from modkernel.training.parallel.ranks import Ranks

__all__ = ["norm_by_whole_batches"]

KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norm_by_whole_batches(model: nn.Module, ranks: Ranks) -> None:
    """Have a model's batch norms take their statistics of all processes' shares together.

    Weights, statistics and their names stay as they are. One process leaves all as it is.

    Raises:
        SpecError: a layer is a batch norm of a kind of its own.
    """
    if ranks.size == 1:
        return
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if not isinstance(norm, _BatchNorm):
                continue
            if type(norm) in KNOWN:
                setattr(parent, name, WholeBatchNorm(norm, ranks))
            else:
                raise SpecError(
                    f"Layer '{name}' is a {type(norm).__name__}, whose statistics several devices "
                    "cannot take together: train this module on one device."
                )


class WholeBatchNorm(_BatchNorm):
    """A batch norm [b, C, …] over the shares of all processes."""

    def __init__(self, norm: _BatchNorm, ranks: Ranks) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        self.ranks = ranks
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a share, by the whole batch in training and by the running statistics else.

        Raises:
            ValueError: the whole batch has one value a channel, as a plain batch norm says.
        """
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        # A share of two values tells enough: on a GPU, asking for the count waits for it.
        if x.numel() < 2 * x.shape[1] and count < 2:
            size = torch.Size([1, *x.shape[1:]])
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {size}"
            )
        if self.training and self.running_mean is not None:
            self._follow(mean, variance * (count / (count - 1)).to(variance.dtype))
        normalised: Tensor = y
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        """Any [b, C, …]."""

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch, as a plain batch norm does."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        part: float | Tensor = 1 / self.num_batches_tracked
        if self.momentum is not None:
            part = self.momentum
        self.running_mean.mul_(1 - part).add_(part * mean)
        self.running_var.mul_(1 - part).add_(part * variance)


class _Normalise(torch.autograd.Function):
    """γ (x - μ) / √(σ² + ε) + β with μ and σ² of the whole batch, and its exact gradient.

    With n values a channel in the whole batch, S₁ = Σ dy and S₂ = Σ dy (x - μ) / √(σ² + ε) over all
    of them: dx = γ / √(σ² + ε) · (dy - S₁ / n - (x - μ) / √(σ² + ε) · S₂ / n); the gradients of β
    and γ are this share's parts of S₁ and S₂ (Ioffe and Szegedy 2015, arXiv 1502.03167).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(x)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        # A plain batch norm in eval mode normalises by the statistics that it is given.
        y = functional.batch_norm(x, mean, variance, weight, bias, eps=eps)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        dy = at_least_float32(gradients[0])
        dims, shape = [0, *range(2, x.ndim)], (-1, *(1 for _ in x.shape[2:]))
        inverse = (variance + ctx.eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        normalised = (x - mean.view(shape)) * inverse.view(shape)
        of_bias, of_weight = dy.sum(dims), (dy * normalised).sum(dims)
        sums = torch.stack((of_bias, of_weight))
        distributed.all_reduce(sums)
        s1, s2 = (one.view(shape) for one in sums / count.to(sums.dtype))
        # In the layout of x: convolutions are not given their gradient in another.
        dx = torch.empty_like(x).copy_(scale.view(shape) * (dy - s1 - normalised * s2))
        if weight is None:
            return dx, None, None, None
        return dx, of_weight, of_bias, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance [C] of all processes' shares [b, C, …], and their number of values."""
    values, channels = at_least_float32(x), x.shape[1]
    own = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
    if len(x):
        variance, mean = torch.var_mean(values, [0, *range(2, x.ndim)], correction=0)
        own[:channels], own[channels:-1] = mean, variance
        own[-1] = x.numel() // channels
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own)
    means, variances, counts = torch.stack(found).split([channels, channels, 1], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    # Of parts: the mean of their variances, and the variance of their means.
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean.to(values.dtype), variance.to(values.dtype), count
