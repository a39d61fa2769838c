"""From what an image file holds to eight bits a pixel: depth, transparency, colour, size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from modkernel.spec import ImageReading, Shape

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels that an image set can have."""
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
"""Pillow's modes of images without colour."""
FULL = (0.0, 65535.0)
"""Range of sixteen-bit images of which no other is known."""
SURELY_SIXTEEN_BITS = 1 << 14
"""Values that no camera of fewer bits has: of 4080, the greatest of a file, white may be 4095."""
MEDIUM_GREY = 128.0
"""Grey level that an image counts as of which nothing is visible."""
MANY_FRAMES = frozenset(("TIFF", "GIF", "WEBP", "PNG", "AVIF", "HEIF"))
"""Pillow's formats of files that may hold several images of equal rank."""


def is_wide(image: Image.Image) -> bool:
    """Whether an image is grey with more than eight bits a pixel."""
    return image.mode.startswith("I") or image.mode == "F"


def is_cut(image: Image.Image) -> bool:
    """Whether Pillow reads only the upper eight of a colour image's sixteen bits."""
    decoders = getattr(image, "tile", ())
    return not is_wide(image) and any(";16" in str(decoder[3]) for decoder in decoders[:1])


def wide_range(image: Image.Image) -> tuple[float, float]:
    """Smallest and largest value of a grey image of more than eight bits.

    Raises:
        ValueError: some value is not finite.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise ValueError("it holds values that are not finite")
    return low, high


def visible_grey(image: Image.Image) -> float | None:
    """Mean grey level of the visible pixels of an image with transparent ones, else None.

    An image of which nothing is visible counts as medium grey.
    """
    alpha = _alpha(image)
    if alpha is None:
        return None
    weights = alpha.astype(np.float64)
    grey = np.asarray(_rgba(image).convert("L"))
    return float((grey * weights).sum() / weights.sum()) if weights.any() else MEDIUM_GREY


def check_single(image: Image.Image) -> None:
    """Refuse a file of several pages or frames, of which only the first would be read.

    Raises:
        ValueError: it has several.
    """
    if image.format not in MANY_FRAMES:  # A camera's MPO has a preview beside the picture.
        return
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format == "TIFF":
        frames = _full_pages(image, frames)
    if frames > 1:
        raise ValueError(f"it has {frames} pages or frames: save each as a file of its own")


def fit(image: Image.Image, shape: Shape, reading: ImageReading) -> np.ndarray:
    """Bring an image to uint8 [C, H, W] with 1 or 3 channels: convert, then resize if need be.

    Raises:
        ValueError: its values have no eight-bit form.
    """
    channels, height, width = shape
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if is_wide(image):
        image = _eight_bits(image, reading.value_range)
    elif _alpha(image) is not None:
        ground = Image.new("RGBA", image.size, (reading.background,) * 3 + (255,))
        image = Image.alpha_composite(ground, _rgba(image)).convert("RGB")
    if image.mode != MODES[channels]:
        # Pillow warns about palettes with transparency unless they go through RGBA.
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert(MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    low, high = wide_range(image)
    if value_range is None:
        if not image.mode.startswith("I;16") or high < SURELY_SIXTEEN_BITS:
            raise ValueError(
                f"its values from {low:g} to {high:g} do not tell what is white, and the network "
                "was trained on images of eight bits: save it as one"
            )
        value_range = FULL
    low, high = value_range
    values = np.asarray(image).astype(np.float64)
    values -= low
    values *= 255 / (high - low) if high > low else 0
    return Image.fromarray(values.clip(0, 255, out=values).round(out=values).astype(np.uint8))


def _alpha(image: Image.Image) -> np.ndarray | None:
    """How visible each pixel is, 0 to 255; None if all are wholly visible."""
    if "A" not in image.mode and "a" not in image.mode and "transparency" not in image.info:
        return None
    if is_wide(image) or image.mode == "LAB":
        return None
    alpha = _rgba(image).getchannel("A")
    return None if alpha.getextrema()[0] == 255 else np.asarray(alpha)


def _rgba(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied colours to plain ones only.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image.convert(plain) if plain else image).convert("RGBA")


def _full_pages(image: Image.Image, frames: int) -> int:
    """Pages of a TIFF file, thumbnails of others left out."""
    full = 0
    for frame in range(frames):
        image.seek(frame)
        full += not getattr(image, "tag_v2", {}).get(254, 0) & 1
    image.seek(0)
    return full
