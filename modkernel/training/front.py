"""A frozen chain and the features of its kernel: what an output module takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modkernel.kernels import make_kernel
from modkernel.seeding import generator_for
from modkernel.spec import KernelSpec
from modkernel.training.features import Examples
from modkernel.training.precision import Arithmetic


class Front(nn.Module):
    """Raw examples [B, ...] -> φ [B, d] of the chain's output, in float32."""

    centres: Tensor | None

    def __init__(self, chain: nn.Module, kernel: KernelSpec, centres: Tensor | None) -> None:
        super().__init__()
        self.chain, self.kernel = chain, make_kernel(kernel)
        self.register_buffer("centres", centres)

    def forward(self, raw: Tensor) -> Tensor:
        """Features in float32."""
        return self.kernel.front(self.chain(raw).float(), self.centres)


def make_front(
    chain: nn.Module, kernel: KernelSpec, examples: Examples, seed: int, arithmetic: Arithmetic
) -> Front:
    """The front of a chain that is on the device already.

    Args:
        chain: raw batches [B, ...] to outputs [B, ...], frozen.
        kernel: whose features are taken.
        examples: training examples, of which a gaussian kernel's centres are drawn.
        seed: of that draw.
        arithmetic: device and number format.
    """
    centres = None
    if not make_kernel(kernel).has_features:
        picks = torch.randperm(len(examples), generator=generator_for(seed, "centres"))
        (raw,) = examples.batches([picks[: kernel.centres]], arithmetic.device)
        with torch.no_grad(), arithmetic.autocast():
            centres = chain(arithmetic.arrange(raw)).float()
    return Front(chain, kernel, centres).eval()


def front_name(front: Front, kernel: KernelSpec, seed: int, drawn_from: str = "train") -> str:
    """What a front is called in a `FeatureKey`; a gaussian one depends on its centres' draw, too.

    Args:
        front: whose features are kept.
        kernel: that it was made with.
        seed: of the draw.
        drawn_from: the split that the centres are of.
    """
    name = f"front {kernel.digest()} "
    if front.centres is None:
        return name
    return f"{name}{seed}" if drawn_from == "train" else f"{name}{seed} of {drawn_from}"
