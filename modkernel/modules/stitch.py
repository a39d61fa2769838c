"""A stitch: a small map, and on it a copy of a module that was trained on another upstream."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modkernel.backbones import build_skeleton
from modkernel.errors import InterfaceError
from modkernel.spec import Shape, StitchModuleSpec

WINDOW = 3
"""Side in pixels of what a map of maps sees at each place."""


class MapOfMaps(nn.Module):
    """Maps [N, C, H, W] to maps [N, D, H', W']: resized if need be, then a convolution of 3 x 3."""

    def __init__(self, takes: Shape, gives: Shape) -> None:
        super().__init__()
        self.size = None if takes[1:] == gives[1:] else gives[1:]
        self.linear = nn.Conv2d(takes[0], gives[0], WINDOW, padding=WINDOW // 2)

    def resized(self, x: Tensor) -> Tensor:
        """Maps of the size that is given, by bilinear interpolation."""
        return x if self.size is None else F.interpolate(x, self.size, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, D, H', W']."""
        y: Tensor = self.linear(self.resized(x))
        return y

    def rows(self, x: Tensor) -> Tensor:
        """What the closed form sees of maps: a row a pixel, [N·H'·W', C]."""
        return self.resized(x).movedim(1, -1).flatten(0, 2)

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Take the closed form, [D, C] and [D], as the middle of the window; the rest is zero."""
        self.linear.weight.zero_()
        self.linear.weight[:, :, WINDOW // 2, WINDOW // 2] = weight
        assert self.linear.bias is not None
        self.linear.bias.copy_(bias)


class MapOfVectors(nn.Module):
    """Vectors [N, c] to vectors [N, d]: a linear map with a bias."""

    def __init__(self, takes: Shape, gives: Shape) -> None:
        super().__init__()
        self.linear = nn.Linear(takes[0], gives[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, c] to [N, d]."""
        y: Tensor = self.linear(x)
        return y

    def rows(self, x: Tensor) -> Tensor:
        """What the closed form sees of vectors: themselves."""
        return x

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Take the closed form, [d, c] and [d]."""
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)


MAPS: dict[tuple[int, int], type[MapOfMaps] | type[MapOfVectors]] = {
    (3, 3): MapOfMaps,
    (1, 1): MapOfVectors,
}
"""The map by the number of dimensions of what it takes and gives."""


class Stitch(nn.Module):
    """The map, which alone is fitted, and the frozen copy, which stays in eval mode."""

    def __init__(self, map_: MapOfMaps | MapOfVectors, upper: nn.Module) -> None:
        super().__init__()
        self.map, self.upper = map_, upper.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Train the map: the copy's statistics never change."""
        super().train(mode)
        self.upper.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """What the copy gives for what LOWER gives, [N, …]."""
        h: Tensor = self.upper(self.map(x))
        return h


def make_map(takes: Shape, gives: Shape) -> MapOfMaps | MapOfVectors:
    """A map of what LOWER gives to what UPPER takes, its weights still to be set.

    Raises:
        InterfaceError: see `check_map`.
    """
    check_map(takes, gives)
    return MAPS[len(takes), len(gives)](takes, gives)


def check_map(takes: Shape, gives: Shape) -> None:
    """Check that there is a map between two shapes.

    Raises:
        InterfaceError: there is none between vectors and maps.
    """
    if (len(takes), len(gives)) not in MAPS:
        raise InterfaceError(
            f"There is no map of examples of shape {list(takes)} to examples of shape "
            f"{list(gives)}: stitch a module that takes maps [C, H, W] onto one that gives maps, "
            "or one that takes vectors [d] onto one that gives vectors."
        )


def stitch_skeleton(spec: StitchModuleSpec) -> tuple[Stitch, Shape]:
    """A stitch without weights, to load stored ones into, and what it gives.

    Raises:
        SpecError, InterfaceError: see `build_skeleton` and `make_map`.
    """
    upper, gives = build_skeleton(spec.backbone, spec.blocks, spec.upper.interface.takes)
    with torch.device("meta"):
        map_ = make_map(spec.interface.takes, spec.upper.interface.takes)
    return Stitch(map_, upper), gives
