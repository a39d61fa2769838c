"""Residual networks (He et al. 2016) with the stem for small images, a block per residual block.

The classic network ends each residual block with an activation. Here that activation is the first
step of the next block: u = act(x), then bn(conv(…u)) + shortcut(u). The function is the same, and a
module that ends after any block ends in an affine result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from modkernel.backbones.block import ACTIVATIONS, Block, image_channels
from modkernel.spec import BackboneSpec, Shape

DEFAULT_WIDTH = 64
"""Channels of the first stage where the spec names none."""
BOTTLENECK_EXPANSION = 4
"""Channels that a bottleneck block gives, per channel of its 3x3 convolution."""


class ResidualBlock(nn.Module):
    """`body(u) + shortcut(u)` with u = activation(x).

    Maps [N, C, H, W] to [N, C', H/stride, W/stride].
    """

    def __init__(self, activation: nn.Module, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.activation, self.body, self.shortcut = activation, body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The residual sum, without an activation at the end."""
        u = self.activation(x)
        return self.body(u) + self.shortcut(u)  # type: ignore[no-any-return]


def resnet(spec: BackboneSpec, layers: tuple[int, int, int, int], bottleneck: bool) -> list[Block]:
    """Blocks `stem`, `layer1.0`, `layer1.1`, … `layer4.n` for images of any size.

    The stem is a 3x3 convolution with stride 1; stages 2 to 4 begin with stride 2 and have 2, 4
    and 8 times the channels (`spec.width`, 64) of stage 1; bottleneck blocks give 4 times as many.
    """
    width = spec.width or DEFAULT_WIDTH
    activation = ACTIVATIONS[spec.activation]
    residual = _bottleneck_block if bottleneck else _basic_block
    blocks = [Block("stem", _stem(width, spec.name), stage="layer1")]
    for stage, count in enumerate(layers):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            build = residual(width * 2**stage, stride, activation)
            name = f"layer{stage + 1}"
            blocks.append(Block(f"{name}.{index}", build, stage=name))
    return blocks


RESNETS: dict[str, Callable[[BackboneSpec], list[Block]]] = {
    "resnet18": partial(resnet, layers=(2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(resnet, layers=(3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(resnet, layers=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(resnet, layers=(3, 4, 23, 3), bottleneck=True),
    "resnet152": partial(resnet, layers=(3, 8, 36, 3), bottleneck=True),
}
"""Name to the function that gives the blocks of a `BackboneSpec`, in order."""


def _stem(channels: int, backbone: str) -> Callable[[Shape], nn.Module]:
    def build(takes: Shape) -> nn.Module:
        conv = _conv(image_channels(takes, backbone), channels, 3, 1)
        return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels)))

    return build


def _basic_block(
    channels: int, stride: int, activation: type[nn.Module]
) -> Callable[[Shape], nn.Module]:
    def build(takes: Shape) -> nn.Module:
        body = OrderedDict(
            conv1=_conv(takes[0], channels, 3, stride),
            bn1=nn.BatchNorm2d(channels),
            act1=activation(),
            conv2=_conv(channels, channels, 3, 1),
            bn2=nn.BatchNorm2d(channels),
        )
        shortcut = _shortcut(takes[0], channels, stride)
        return ResidualBlock(activation(), nn.Sequential(body), shortcut)

    return build


def _bottleneck_block(
    channels: int, stride: int, activation: type[nn.Module]
) -> Callable[[Shape], nn.Module]:
    def build(takes: Shape) -> nn.Module:
        gives = channels * BOTTLENECK_EXPANSION
        body = OrderedDict(
            conv1=_conv(takes[0], channels, 1, 1),
            bn1=nn.BatchNorm2d(channels),
            act1=activation(),
            conv2=_conv(channels, channels, 3, stride),
            bn2=nn.BatchNorm2d(channels),
            act2=activation(),
            conv3=_conv(channels, gives, 1, 1),
            bn3=nn.BatchNorm2d(gives),
        )
        shortcut = _shortcut(takes[0], gives, stride)
        return ResidualBlock(activation(), nn.Sequential(body), shortcut)

    return build


def _shortcut(takes: int, gives: int, stride: int) -> nn.Module:
    if stride == 1 and takes == gives:
        return nn.Identity()
    conv = _conv(takes, gives, 1, stride)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(gives)))


def _conv(takes: int, gives: int, size: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(takes, gives, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
