"""A multilayer perceptron, with a block for each layer: `linear1`, `linear2` and so on."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import nn

from modkernel.backbones.block import ACTIVATIONS, Block
from modkernel.spec import BackboneSpec, Shape

DEFAULT_WIDTH = 256
"""Units of a layer where the spec names none."""


def mlp(spec: BackboneSpec) -> tuple[Block, ...]:
    """`spec.depth` layers of `spec.width` units (256), each a linear map and batch norm.

    The first block flattens images; it gives [width], as all the others do.
    """
    width = spec.width or DEFAULT_WIDTH
    activation = ACTIVATIONS[spec.activation]
    later = [Block(f"linear{i}", _layer(width, activation)) for i in range(2, spec.depth + 1)]
    return (Block("linear1", _layer(width, nn.Flatten)), *later)


def _layer(width: int, first: type[nn.Module]) -> Callable[[Shape], nn.Module]:
    def build(takes: Shape) -> nn.Module:
        return nn.Sequential(
            first(),
            nn.Linear(prod(takes), width, bias=False),  # the batch norm has the bias
            nn.BatchNorm1d(width),
        )

    return build
