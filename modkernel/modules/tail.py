"""What stands on a hidden module while it is trained, and is thrown away afterwards."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from modkernel.backbones import build_hidden, output_shape
from modkernel.kernels import Kernel, make_kernel
from modkernel.spec import HiddenModuleSpec, KernelSpec, Projection, Shape
from modkernel.system.seeding import seeded

SEEDED_AS = "tail "
"""Goes before the names of a tail's blocks where their initial weights are drawn: they are not
those of the later modules."""


class Features(nn.Module):
    """What a kernel makes of a module's output, as rows [N, d]; not finite ones are left out."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, h: Tensor) -> Tensor:
        """Unit rows [N, d] of [N, …]; all numbers of each row where the kernel has no features."""
        return self.kernel.features(h) if self.kernel.has_features else h.flatten(1)


def build_tail(spec: HiddenModuleSpec) -> tuple[nn.Sequential | None, KernelSpec]:
    """The tail of a module, and the kernel that compares what it gives.

    Initial weights depend on the seed and on what the tail is made of alone; global random state is
    left as it was.

    Returns:
        [N, *gives] -> [N, …] on the CPU in train mode, and the kernel's spec; none, and the
        module's own kernel, for a module without a tail.

    Raises:
        SpecError, InterfaceError: a block that is not there or does not fit.
    """
    tail, gives, kernel = spec.hidden.tail, spec.interface.gives, spec.interface.kernel
    if isinstance(tail, Projection):
        return build_projection(kernel, gives, tail.projection, spec.seed)
    if not isinstance(tail, tuple):
        return None, kernel
    built = build_hidden(spec.backbone, tail, gives, spec.seed, use=SEEDED_AS)
    return built, on_tail(kernel, output_shape(built, gives))


def build_projection(
    kernel: KernelSpec, gives: Shape, units: int, seed: int
) -> tuple[nn.Sequential, KernelSpec]:
    """Two layers of so many units on what a kernel pools and flattens, ending in an affine result.

    Returns:
        [N, *gives] -> [N, units], and the kernel that compares these.
    """
    features = Features(make_kernel(kernel))
    width = features(torch.zeros(1, *gives)).shape[1]
    with seeded(seed, "projection"):
        layers = OrderedDict(
            features=features,
            linear1=nn.Linear(width, units),
            act=nn.ReLU(),
            linear2=nn.Linear(units, units),
        )
    return nn.Sequential(layers), on_tail(kernel, (units,))


def on_tail(kernel: KernelSpec, gives: Shape) -> KernelSpec:
    """A module's kernel for what its tail gives: smaller maps, or vectors, that have none to pool.

    Args:
        kernel: of the module.
        gives: shape of one example after the tail.
    """
    if kernel.name != "relu_avgpool":
        return kernel
    if len(gives) < 3:
        return kernel.changed(name="relu")
    small = kernel.pool is not None and kernel.pool > min(gives[1:])
    return kernel.changed(pool=None) if small else kernel
