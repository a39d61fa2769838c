"""Backbones: ordered, named blocks that hidden modules are cut from."""

from __future__ import annotations

from modkernel.backbones.block import Block
from modkernel.backbones.build import (
    BACKBONES,
    blocks_of,
    build_hidden,
    build_skeleton,
    is_whole,
    output_shape,
    traced_network,
)

__all__ = [
    "BACKBONES",
    "Block",
    "blocks_of",
    "build_hidden",
    "build_skeleton",
    "is_whole",
    "output_shape",
    "traced_network",
]
