"""A hidden module and the projection head that only its training has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modkernel.backbones import build_hidden
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.projection import build_projection
from modkernel.spec import HiddenModuleSpec


class WithHead(nn.Module):
    """A hidden module under training, with its projection head if it has one."""

    def __init__(self, module: nn.Module, head: nn.Module | None, kernel: Kernel) -> None:
        super().__init__()
        self.module, self.head, self.kernel = module, head, kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map module inputs [B, ...] to what the kernel compares, [B, ...]."""
        h: Tensor = self.module(x)
        return h if self.head is None else self.head(_flat(self.kernel, h))


def _flat(kernel: Kernel, h: Tensor) -> Tensor:
    return kernel.features(h) if kernel.has_features else h.flatten(1)


def with_head(spec: HiddenModuleSpec) -> tuple[WithHead, Kernel]:
    """The module to train, and the kernel that compares what it or its head gives."""
    module = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, spec.seed)
    kernel = make_kernel(spec.interface.kernel)
    units = spec.hidden.projection
    if units is None:
        return WithHead(module, None, kernel), kernel
    width = _flat(kernel, torch.zeros(1, *spec.interface.gives)).shape[1]
    head = build_projection(width, units, spec.seed)
    # The head gives a vector, which has no map left to pool over.
    pooled = spec.interface.kernel.name == "relu_avgpool"
    of_head = spec.interface.kernel.changed(name="relu") if pooled else spec.interface.kernel
    return WithHead(module, head, kernel), make_kernel(of_head)
