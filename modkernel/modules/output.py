"""The output module: a linear model in the feature space of a kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from modkernel.errors import InterfaceError
from modkernel.kernels import make_kernel
from modkernel.spec import KernelSpec, Shape


class OutputModule(nn.Module):
    """`W·φ(h) + b` on the last hidden module's output h; φ(h) = k(h, centres) if gaussian.

    Weights begin at zero: the losses are convex in them, so the start decides nothing.
    State dict: `weight` [C, d], `bias` [C], and `centres` [M, …] of a gaussian kernel.

    Args:
        kernel: Whose features the module takes.
        takes: Shape of one h.
        classes: How many there are (C).
        centres: [M, *takes] for a gaussian kernel, None for every other.

    Raises:
        InterfaceError: centres missing, of another shape, or for a kernel that takes none; or a
            shape that the kernel does not take.
        UnknownNameError: no such kernel.
    """

    centres: Tensor | None

    def __init__(
        self, kernel: KernelSpec, takes: Shape, classes: int, centres: Tensor | None = None
    ) -> None:
        super().__init__()
        self.kernel = make_kernel(kernel)
        if centres is not None and (centres.shape[1:] != takes or len(centres) == 0):
            raise InterfaceError(
                f"Centres for hidden outputs of shape {list(takes)} cannot have the shape "
                f"{list(centres.shape)}: pass one or more of those outputs."
            )
        self.register_buffer("centres", centres)
        with torch.no_grad():
            example = torch.zeros((1, *takes), device=None if centres is None else centres.device)
            width = self.kernel.feature_map(example, centres).shape[1]
        self.weight = nn.Parameter(torch.zeros(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes))

    def feature_map(self, h: Tensor) -> Tensor:
        """What the linear model takes, [N, …] -> [N, d]; no parameters, so it can be cached."""
        return self.kernel.feature_map(h, self.centres)

    def classify(self, features: Tensor) -> Tensor:
        """Logits of what `feature_map` gave, [N, d] -> [N, C]."""
        return functional.linear(features, self.weight, self.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Logits, [N, …] -> [N, C]."""
        return self.classify(self.feature_map(h))
