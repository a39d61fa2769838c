"""Random views of examples: what `pairs: views` compares. One batched operation each, no loop.

Images: random resized crop, flip where the recipe has it, and for colours jitter and grey, as in
SimCLR (Chen et al., ICML 2020); grey images have no colour, so brightness and contrast alone.
Vectors: masked columns and noise. Everything random is drawn on the CPU, so that a seed means the
same on every device, and is copied there at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modkernel.data.augment import augment
from modkernel.errors import SpecError
from modkernel.spec import Recipe

SMALLEST_CROP = 0.2
"""Share of an image's area that a crop has at least."""
LARGEST_RATIO = 4 / 3
"""Width over height of a crop, at most; at least its inverse."""
JITTERED = 0.8
"""Share of the views whose brightness, contrast, saturation and hue change."""
STRENGTH = 0.4
"""Brightness, contrast and saturation are multiplied by 1 - this to 1 + this."""
HUE = 0.1
"""Hue is turned by this share of the circle at most, either way."""
GREYED = 0.2
"""Share of the views of colour images that are grey."""
MASKED = 0.3
"""Share of a vector's columns that a view lacks: they become missing, which is the mean."""
NOISE = 0.1
"""Standard deviation of the noise on the other columns, in those of the columns themselves."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, as torchvision has them."""


@dataclass(frozen=True, eq=False)
class ImageChanges:
    """What is done to each of R images; all [R], float32.

    Attributes:
        top: first row of the crop, whole numbers; likewise `left`, `height` and `width`.
        left: first column.
        height: rows of the crop.
        width: columns of it.
        mirrored: 1 where left and right change places, else 0.
        brightness: factor.
        contrast: factor.
        saturation: factor.
        hue: turn, in [-0.5, 0.5] of the circle.
        grey: 1 where colours are taken away, else 0.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    grey: Tensor


def draw_views(x: Tensor, flip: bool, spread: Tensor, generator: torch.Generator) -> Tensor:
    """Draw what `viewed` does to two views of each example.

    Args:
        x: raw examples on any device: images uint8 [B, C, H, W] with 1 or 3 channels, or vectors
            float32 [B, d].
        flip: mirror half of the images' views.
        spread: standard deviation of each column of vectors [d], or of all [1]; images ignore it.
        generator: a CPU generator.

    Returns:
        float32 on the CPU: of images [10, 2 B], the values of `ImageChanges`; of vectors [2 B, d],
        what is added, nan for a column that is masked.
    """
    if x.dim() == 4:
        changes = draw_changes(2 * len(x), (x.shape[2], x.shape[3]), flip, generator)
        return torch.stack(tuple(vars(changes).values()))
    shape = (2 * len(x), *x.shape[1:])
    kept = torch.rand(shape, generator=generator) >= MASKED
    noise = (NOISE * spread.cpu()) * torch.randn(shape, generator=generator)
    return torch.where(kept, noise, math.nan)


def viewed(x: Tensor, drawn: Tensor) -> Tensor:
    """Two random views of each example.

    Args:
        x: raw examples [B, …], as `draw_views` takes them.
        drawn: what that gave, on the device of `x`.

    Returns:
        [2 B, …] of the same type on the same device: first views, then second ones.
    """
    both = torch.cat((x, x))
    return change_images(both, ImageChanges(*drawn)) if x.dim() == 4 else both + drawn


def check_views(recipe: Recipe, example: Tensor) -> None:
    """Check that a recipe goes with views.

    Args:
        recipe: of a hidden module.
        example: a raw batch, for its shape.

    Raises:
        SpecError: it has another kind of random crop, or a fixed number of views.
        InterfaceError: flip of examples that are no images.
    """
    if recipe.views is not None or recipe.crop_padding:
        named = "views" if recipe.views is not None else "crop_padding"
        raise SpecError(
            f"With 'pairs: views' every image is cropped at random in every step: leave {named} "
            "out of the recipe."
        )
    if recipe.flip:
        augment(example, 0, True, torch.Generator())  # Refuses vectors.


def draw_changes(
    rows: int, size: tuple[int, int], flip: bool, generator: torch.Generator
) -> ImageChanges:
    """Draw what is done to `rows` images of a height and width.

    The crop's share of the area is uniform from `SMALLEST_CROP` to 1 and the logarithm of its
    ratio uniform, in whole pixels; sides longer than the image's are cut to them.
    """
    height, width = size

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, generator=generator)

    area = height * width * uniform(SMALLEST_CROP, 1)
    ratio = uniform(-math.log(LARGEST_RATIO), math.log(LARGEST_RATIO)).exp()
    tall = (area / ratio).sqrt().round().clamp(1, height)
    wide = (area * ratio).sqrt().round().clamp(1, width)
    top = (uniform(0, 1) * (height - tall + 1)).floor().clamp_max(height - tall)
    left = (uniform(0, 1) * (width - wide + 1)).floor().clamp_max(width - wide)
    mirrored = (uniform(0, 1) < 0.5).float() * float(flip)
    jittered = uniform(0, 1) < JITTERED
    brightness, contrast, saturation = (
        torch.where(jittered, uniform(1 - STRENGTH, 1 + STRENGTH), 1.0) for _ in range(3)
    )
    hue = torch.where(jittered, uniform(-HUE, HUE), 0.0)
    grey = (uniform(0, 1) < GREYED).float()
    return ImageChanges(
        top, left, tall, wide, mirrored, brightness, contrast, saturation, hue, grey
    )


def change_images(x: Tensor, changes: ImageChanges) -> Tensor:
    """Crop and resize, mirror, then brightness, contrast, saturation, hue and grey, in that order.

    Args:
        x: uint8 [R, C, H, W]; colours where C is 3, else only brightness and contrast change.
        changes: of each, on the device of `x`.

    Returns:
        uint8 [R, C, H, W].
    """
    images = _cropped(x.float() / 255, changes)
    images = (images * _each(changes.brightness)).clamp(0, 1)
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    images = _blend(images, mean, changes.contrast)
    if x.shape[1] == 3:
        images = _blend(images, _grey(images), changes.saturation)
        images = _turned(images, changes.hue)
        images = torch.where(_each(changes.grey) > 0, _grey(images), images)
    return (images * 255).round().to(torch.uint8)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _cropped(images: Tensor, changes: ImageChanges) -> Tensor:
    """Bilinear, pixels' centres at half numbers; nothing outside of the crop is looked at."""
    height, width = images.shape[2:]
    rows = _places(height, changes.top, changes.height)
    columns = _places(width, changes.left, changes.width)
    columns = torch.where(changes.mirrored[:, None] > 0, columns.flip(1), columns)
    # grid_sample wants (column, row), the first and last pixels at -1 and 1.
    grid = torch.stack(
        (
            (2 * columns / max(1, width - 1) - 1)[:, None, :].expand(-1, height, -1),
            (2 * rows / max(1, height - 1) - 1)[:, :, None].expand(-1, -1, width),
        ),
        3,
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


def _places(count: int, start: Tensor, length: Tensor) -> Tensor:
    """Where `count` pixels of a resized crop lie in the image, [R, count]."""
    centres = torch.arange(count, device=start.device) + 0.5
    inside = (centres * (length / count)[:, None] - 0.5).clamp_min(0)
    return start[:, None] + torch.minimum(inside, length[:, None] - 1)


def _grey(images: Tensor) -> Tensor:
    """[R, 1, H, W]; of one channel, itself."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _blend(images: Tensor, towards: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(towards.expand_as(images), images, _each(factor)).clamp(0, 1)


def _turned(images: Tensor, turn: Tensor) -> Tensor:
    """Colours with another hue and the same saturation and value, as in HSV."""
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turn[:, None, None]
    # Sixths of the circle from where each channel is least: n of red, green and blue.
    shift = 5 - 2 * torch.arange(3, device=images.device).view(1, 3, 1, 1)
    k = torch.remainder(shift + hue[:, None], 6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
