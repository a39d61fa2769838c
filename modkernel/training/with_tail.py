"""A hidden module and the tail that only its training has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from modkernel.backbones import build_hidden
from modkernel.errors import SpecError
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.tail import build_tail
from modkernel.spec import HiddenModuleSpec


class WithTail(nn.Module):
    """A hidden module under training, with its tail if it has one.

    Attributes:
        module: a sequence of blocks.
        tail: what stands on it, or None.
        frozen: how many of the first blocks stay as they are, statistics of batch norms too.
    """

    def __init__(self, module: nn.Sequential, tail: nn.Module | None, frozen: int = 0) -> None:
        super().__init__()
        self.module, self.tail, self.frozen = module, tail, frozen
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
        return self.both(x)[1]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the module gives of its inputs [B, ...], and what the kernel compares, [B, ...]."""
        h: Tensor = self.module(x)
        return h, h if self.tail is None else self.tail(h)


def with_tail(
    spec: HiddenModuleSpec, start: Mapping[str, Tensor] | None = None
) -> tuple[WithTail, Kernel]:
    """The module to train, and the kernel that compares what it, or its tail, gives.

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
    tail, kernel = build_tail(spec)
    return WithTail(module, tail, frozen), make_kernel(kernel)
