"""What every backbone is made of: named blocks in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from modkernel.errors import InterfaceError
from modkernel.spec import Shape

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""Never in place: a block's activation reads the output of a module that others read too. A block
that alters what it takes is given a copy."""


@dataclass(frozen=True)
class Block:
    """One named piece of a backbone; a backbone may be cut after any of them.

    A block ends in an affine result (no output nonlinearity) and, unless it is the first, begins
    with the activation of what came before. So where a backbone is cut never changes its function.

    Attributes:
        name: Unique in its backbone, for example `layer1.0`.
        build: Makes the block for inputs of a shape (one example, without the batch dimension).
        stage: Neighbouring blocks of the same stage stay together when blocks are shared out
            evenly; a block without a stage is a stage of its own.
        skeleton: The same with any weights or none, on any device, to load stored ones into;
            `build` if left out.
        also: Other names that a cut after the block may be asked for by.
    """

    name: str
    build: Callable[[Shape], nn.Module]
    stage: str | None = None
    skeleton: Callable[[Shape], nn.Module] | None = None
    also: tuple[str, ...] = ()


def image_channels(takes: Shape, backbone: str, smallest: int = 1) -> int:
    """Channels of an image shape [C, H, W].

    Raises:
        InterfaceError: not an image shape, or a side below `smallest` pixels.
    """
    if len(takes) != 3:
        raise InterfaceError(
            f"{backbone} takes images of shape [C, H, W], not examples of shape {list(takes)}: "
            "use the backbone mlp for vectors."
        )
    if min(takes[1:]) < smallest:
        raise InterfaceError(
            f"{backbone} takes images of at least {smallest}x{smallest} pixels, not "
            f"{takes[1]}x{takes[2]}: set dataset.image_size to {smallest} or more, "
            "or use another backbone."
        )
    return takes[0]
