"""Random crop and flip of a batch of images, a different one for each example."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from modkernel.errors import InterfaceError


def augment(x: Tensor, crop_padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Crop each image at random after padding it with zeros, and mirror half of them.

    Each image moves by up to `crop_padding` pixels either way and keeps its size. The choices are
    drawn on the CPU, so that a seed means the same on every device.

    Args:
        x: images [B, C, H, W], uint8 or floating point, on any device.
        crop_padding: width of the zero border in pixels; 0 crops nothing.
        flip: mirror left and right with probability 1/2.
        generator: a CPU generator.

    Returns:
        Images of the same shape, type and device.

    Raises:
        InterfaceError: `x` is not a batch of images.
    """
    _check_images(x)
    if not crop_padding and not flip:
        return x
    return moved(x, draw_moves(len(x), crop_padding, flip, generator), crop_padding)


def draw_moves(count: int, crop_padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """What `moved` does to each of `count` images, int64 [3, count] on the CPU."""
    shift = torch.zeros(2, count, dtype=torch.int64)
    mirrored = torch.zeros(count, dtype=torch.int64)
    if crop_padding:
        shift = torch.randint(2 * crop_padding + 1, (2, count), generator=generator)
    if flip:
        mirrored = torch.randint(2, (count,), generator=generator)
    return torch.stack((*shift, mirrored))


def moved(x: Tensor, moves: Tensor, crop_padding: int) -> Tensor:
    """Images [B, C, H, W] cropped and mirrored.

    Args:
        x: images, uint8 or floating point, on any device.
        moves: rows from the top and columns from the left of the padded image, and 1 for a
            mirrored one, int64 [3, B].
        crop_padding: width of the zero border in pixels.

    Raises:
        InterfaceError: `x` is not a batch of images.
    """
    _check_images(x)
    batch, channels, height, width = x.shape
    if crop_padding:
        x = pad(x, (crop_padding,) * 4)
    top, left, mirror = moves.to(x.device, non_blocking=True)
    column = torch.arange(width, device=x.device).expand(batch, width)
    column = torch.where(mirror[:, None] > 0, width - 1 - column, column) + left[:, None]
    row = torch.arange(height, device=x.device) + top[:, None]
    # One gather along flattened pixels is the quickest form on a CPU: about 0.3 ms for 128 images
    # of 3 x 32 x 32, half of what windows by unfold take.
    pixel = (row[:, :, None] * x.shape[3] + column[:, None, :]).view(batch, 1, height * width)
    picked = x.flatten(2).gather(2, pixel.expand(batch, channels, height * width))
    return picked.view(batch, channels, height, width)


def _check_images(x: Tensor) -> None:
    if x.dim() != 4:
        raise InterfaceError(
            f"Crop and flip need images [B, C, H, W], got {list(x.shape)}: set crop_padding to 0 "
            "and flip to false for vectors."
        )
