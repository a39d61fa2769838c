"""A hidden module and the projection head that only its training has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from modkernel.backbones import build_hidden
from modkernel.errors import SpecError
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.projection import build_projection
from modkernel.spec import HiddenModuleSpec


class WithHead(nn.Module):
    """A hidden module under training, with its projection head if it has one.

    Attributes:
        module: a sequence of blocks.
        head: the projection head, or None.
        kernel: whose features the head takes.
        frozen: how many of the first blocks stay as they are, statistics of batch norms too.
    """

    def __init__(
        self, module: nn.Sequential, head: nn.Module | None, kernel: Kernel, frozen: int = 0
    ) -> None:
        super().__init__()
        self.module, self.head, self.kernel = module, head, kernel
        self.frozen = frozen
        for block in module[:frozen]:
            block.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Train all but the frozen blocks."""
        super().train(mode)
        for block in self.module[: self.frozen]:
            block.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map module inputs [B, ...] to what the kernel compares, [B, ...]."""
        h: Tensor = self.module(x)
        return h if self.head is None else self.head(_flat(self.kernel, h))


def _flat(kernel: Kernel, h: Tensor) -> Tensor:
    return kernel.features(h) if kernel.has_features else h.flatten(1)


def with_head(
    spec: HiddenModuleSpec, start: Mapping[str, Tensor] | None = None
) -> tuple[WithHead, Kernel]:
    """The module to train, and the kernel that compares what it or its head gives.

    Args:
        spec: of the module.
        start: the state dict that it starts from; fresh weights if left out.

    Raises:
        SpecError: nothing of it is left to train.
    """
    module = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, spec.seed)
    if start is not None:
        module.load_state_dict(start)
    frozen = spec.hidden.frozen(spec.blocks)
    if frozen and not any(True for _ in module[frozen:].parameters()):
        raise SpecError(
            f"With freeze: {spec.hidden.freeze:g}, the {len(spec.blocks) - frozen} blocks that are "
            "left have no weights to train: freeze a smaller share."
        )
    kernel = make_kernel(spec.interface.kernel)
    units = spec.hidden.projection
    if units is None:
        return WithHead(module, None, kernel, frozen), kernel
    width = _flat(kernel, torch.zeros(1, *spec.interface.gives)).shape[1]
    head = build_projection(width, units, spec.seed)
    # The head gives a vector, which has no map left to pool over.
    pooled = spec.interface.kernel.name == "relu_avgpool"
    of_head = spec.interface.kernel.changed(name="relu") if pooled else spec.interface.kernel
    return WithHead(module, head, kernel, frozen), make_kernel(of_head)
