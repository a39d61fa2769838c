"""LeNet-5 (LeCun et al. 1998) as four blocks: `conv1`, `conv2`, `fc1`, `fc2`.

The fifth layer, the classifier, is the output module.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import nn

from modkernel.backbones.block import ACTIVATIONS, Block, image_channels
from modkernel.spec import BackboneSpec, Shape

SMALLEST_IMAGE = 12
"""Two pools and one unpadded 5x5 convolution leave a single pixel of it."""


def lenet5(spec: BackboneSpec) -> tuple[Block, ...]:
    """LeNet-5 of 6 and 16 channels, 120 and 84 units, all scaled by `spec.width` / 6.

    Each layer is followed by batch norm, which the 1998 network did not have: it is affine, so a
    block still ends without nonlinearity, and the default learning rate suits it.
    """
    activation = ACTIVATIONS[spec.activation]
    base = spec.width or 6
    channels1, channels2, units1, units2 = (max(1, n * base // 6) for n in (6, 16, 120, 84))
    return (
        Block("conv1", _first_convolution(channels1)),
        Block("conv2", _second_convolution(channels2, activation)),
        Block("fc1", _linear(units1, activation, after_images=True)),
        Block("fc2", _linear(units2, activation, after_images=False)),
    )


def _first_convolution(channels: int) -> Callable[[Shape], nn.Module]:
    def build(takes: Shape) -> nn.Module:
        image = image_channels(takes, "lenet5", SMALLEST_IMAGE)
        return nn.Sequential(
            nn.Conv2d(image, channels, 5, padding=2, bias=False), nn.BatchNorm2d(channels)
        )

    return build


def _second_convolution(channels: int, activation: type[nn.Module]) -> Callable[[Shape], nn.Module]:
    def build(takes: Shape) -> nn.Module:
        return nn.Sequential(
            activation(),
            nn.MaxPool2d(2),
            nn.Conv2d(takes[0], channels, 5, bias=False),
            nn.BatchNorm2d(channels),
        )

    return build


def _linear(
    units: int, activation: type[nn.Module], after_images: bool
) -> Callable[[Shape], nn.Module]:
    def build(takes: Shape) -> nn.Module:
        first: list[nn.Module] = [activation()]
        inputs = prod(takes)
        if after_images:
            first += [nn.MaxPool2d(2), nn.Flatten()]
            inputs = takes[0] * (takes[1] // 2) * (takes[2] // 2)
        return nn.Sequential(*first, nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units))

    return build
