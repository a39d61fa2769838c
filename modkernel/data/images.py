"""From image files to uint8 tensors: one way for training sets and for prediction."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from modkernel.errors import ImageError, InterfaceError
from modkernel.spec import Shape
from modkernel.system.memory import free_memory

R = TypeVar("R")

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
"""Suffixes of the files of a folder that are taken for images."""
GREY_MODES = frozenset(("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N"))
"""Pillow's modes of images without colour."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels that an image set can have."""

MOST_THREADS = 8
"""Threads that decode image files, at most."""
AHEAD = 256
"""Files that are decoded in threads before the first of them is taken, at most."""
WORTH_A_THREAD = 16384
"""Mean size in bytes of image files from which threads are quicker than none."""

SMALL_PIXELS = 1 << 21
"""Images of no more pixels are decoded without a look at the free memory, which takes a while."""
BYTES_A_PIXEL = 8
"""Of memory while an image is decoded: as it is, and converted."""


@dataclass(frozen=True)
class FileFacts:
    """What the bytes of one image file say: their SHA-256, and the image's size in pixels."""

    sha256: str
    width: int
    height: int
    grey: bool


def read_images(paths: Sequence[Path | str], shape: Shape) -> Tensor:
    """Read image files for prediction, exactly as an image folder is read for training.

    Args:
        paths: N image files.
        shape: [C, H, W] that the network takes, with 1 or 3 channels. Other images are converted
            to grey or colour, and resized (bilinear with antialiasing, sides independently).

    Returns:
        uint8 [N, C, H, W].

    Raises:
        ImageError: a file is missing or is no readable image; the message names it.
        InterfaceError: `shape` is not that of a grey or colour image.
    """
    if len(shape) != 3 or shape[0] not in MODES:
        raise InterfaceError(
            f"Image files need a network that takes [1, H, W] or [3, H, W]; this one takes "
            f"{list(shape)}."
        )
    return decode_many([Path(path) for path in paths], shape)


def decode_many(paths: Sequence[Path], shape: Shape) -> Tensor:
    """Decode N files into uint8 [N, C, H, W].

    Raises:
        ImageError: an image cannot be read; the message names it.
    """
    out = torch.empty((len(paths), *shape), dtype=torch.uint8)

    decoded = map_files(lambda path: decode(path, shape), paths)
    for i, image in enumerate(decoded):
        out[i] = image
    return out


def decode(path: Path, shape: Shape) -> Tensor:
    """Decode one file into uint8 [C, H, W], turned upright if its EXIF data say so.

    Raises:
        ImageError: the image cannot be read; the message names it.
    """
    return _with_image(path, path, lambda image: torch.from_numpy(fit(image, shape)))


def file_facts(path: Path) -> FileFacts:
    """Hash a file and read its image header.

    Raises:
        ImageError: the file cannot be read or is no image; the message names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"Cannot read image {path}: {error.strerror}.") from None
    sha256 = hashlib.sha256(content).hexdigest()

    def look(image: Image.Image) -> FileFacts:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        return FileFacts(sha256, width, height, image.mode in GREY_MODES)

    return _with_image(path, BytesIO(content), look)


def fit(image: Image.Image, shape: Shape) -> np.ndarray:
    """Bring an image to uint8 [C, H, W] with 1 or 3 channels: convert, then resize if need be.

    Sixteen-bit grey keeps its upper eight bits; transparency is dropped.
    """
    channels, height, width = shape
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode '{image.mode}' have no 8-bit form")
    if image.mode != MODES[channels]:
        # Pillow warns about palettes with transparency unless they go through RGBA.
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert(MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def fit_tensor(images: Tensor, shape: Shape) -> Tensor:
    """Bring uint8 [N, C, H, W] with 1 or 3 channels to another shape, as `fit` does for files."""
    if tuple(images.shape[1:]) == shape:
        return images
    out = torch.empty((len(images), *shape), dtype=torch.uint8)

    arrays = (images[:, 0] if images.shape[1] == 1 else images.movedim(1, -1)).numpy()
    for i, array in enumerate(arrays):
        pixels = Image.fromarray(np.ascontiguousarray(array))
        out[i] = torch.from_numpy(fit(pixels, shape))
    return out


def map_files(function: Callable[[Path], R], paths: Sequence[Path]) -> Iterator[R]:
    """Apply a function to files, in order; in threads where they are large enough to gain by it.

    Pillow decodes without the interpreter lock, but for a small image the lock changes hands too
    often: threads then take half as long again as none.
    """
    if not paths or _typical_size(paths) < WORTH_A_THREAD:
        yield from map(function, paths)
        return
    with ThreadPoolExecutor(_threads()) as pool:
        # Bounded, so that a slow reader does not let all results pile up.
        for start in range(0, len(paths), AHEAD):
            yield from pool.map(function, paths[start : start + AHEAD])


def _typical_size(paths: Sequence[Path]) -> float:
    """Mean size in bytes of a few files; missing ones count as empty."""
    few = paths[:: max(1, len(paths) // 16)]
    return sum(path.stat().st_size for path in few if path.exists()) / len(few)


def _check_pixels(width: int, height: int) -> None:
    """Refuse an image that takes too much memory to decode, several of them being decoded at once.

    Raises:
        ValueError: it does.
    """
    pixels = width * height
    if pixels <= SMALL_PIXELS:
        return
    allowed = free_memory() // 2 // _threads() // BYTES_A_PIXEL
    if pixels > allowed:
        raise ValueError(
            f"its {width} x {height} pixels are more than the free memory allows ({allowed} "
            "pixels), so make it smaller"
        )


def _threads() -> int:
    return min(MOST_THREADS, os.cpu_count() or 1)


def _with_image(path: Path, file: Path | BytesIO, use: Callable[[Image.Image], R]) -> R:
    try:
        with Image.open(file) as image:
            _check_pixels(*image.size)
            return use(image)
    # Pillow's decoders raise almost anything on damaged files, SyntaxError and struct.error too.
    except Exception as error:
        reason = (
            "no image that Pillow knows"
            if isinstance(error, UnidentifiedImageError)
            else getattr(error, "strerror", None) or str(error)
        )
        raise ImageError(
            f"Cannot read image {path}: {reason}. Replace or remove the file."
        ) from None
