"""From image files to uint8 tensors: one way for training sets and for prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from modkernel.data.broken import Broken, unreadable
from modkernel.data.file_kinds import HEIF, suffix_of
from modkernel.data.pixels import (
    GREY_MODES,
    MODES,
    check_single,
    fit,
    is_cut,
    is_wide,
    visible_grey,
    wide_range,
)
from modkernel.errors import InterfaceError
from modkernel.spec import ImageReading, Shape
from modkernel.system.limits import usable_cores
from modkernel.system.memory import free_memory

R = TypeVar("R")

PLAIN = ImageReading()
"""How images of eight bits are read, and transparent ones unless their set has it otherwise."""

MOST_THREADS = 8
"""Threads that decode image files, at most."""
AHEAD = 256
"""Files that are decoded in threads before the first of them is taken, at most."""
WORTH_A_THREAD = 16384
"""Mean size in bytes of image files from which threads are quicker than none."""

SMALL_PIXELS = 1 << 21
"""Images of no more pixels are decoded without a look at the free memory, which takes a while."""
BYTES_A_PIXEL = 16
"""Of memory while an image is decoded: as it is, and converted."""


@dataclass(frozen=True)
class FileFacts:
    """What one image file says.

    Attributes:
        sha256: of its bytes.
        width: in pixels, as a person sees it.
        height: likewise.
        grey: whether it has no colour.
        values: smallest and largest value, if it is grey with more than eight bits a pixel.
        visible: mean grey level of what is visible of an image with transparent pixels.
        cut: whether only the upper eight of its colours' sixteen bits are read.
    """

    sha256: str
    width: int
    height: int
    grey: bool
    values: tuple[float, float] | None = None
    visible: float | None = None
    cut: bool = False


def read_images(paths: Sequence[Path | str], shape: Shape, reading: ImageReading = PLAIN) -> Tensor:
    """Read image files for prediction, exactly as an image folder is read for training.

    Args:
        paths: N image files.
        shape: [C, H, W] that the network takes, with 1 or 3 channels. Other images are converted
            to grey or colour, and resized (bilinear with antialiasing, sides independently).
        reading: `Preprocessing.reading` of the network.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        ImageError: files are missing or are no readable images; the message names them.
        InterfaceError: `shape` is not that of a grey or colour image.
    """
    check_image_shape(shape)
    return decode_many([Path(path) for path in paths], shape, reading)


def check_image_shape(shape: Shape) -> None:
    """Check that image files can be brought to a shape.

    Raises:
        InterfaceError: it is not that of a grey or colour image.
    """
    if len(shape) != 3 or shape[0] not in MODES:
        raise InterfaceError(
            f"Image files need a network that takes [1, H, W] or [3, H, W]; this one takes "
            f"{list(shape)}."
        )


def decode_many(paths: Sequence[Path], shape: Shape, reading: ImageReading = PLAIN) -> Tensor:
    """Decode N files into uint8 [N, C, H, W].

    Raises:
        ImageError: images cannot be read; the message names all of them.
    """
    out = torch.empty((len(paths), *shape), dtype=torch.uint8)
    broken = []
    for i, image in enumerate(decode_each(paths, shape, reading)):
        if isinstance(image, Broken):
            broken.append(image)
        else:
            out[i] = image
    if broken:
        raise unreadable(broken)
    return out


def decode_each(
    paths: Sequence[Path], shape: Shape, reading: ImageReading = PLAIN
) -> Iterator[Tensor | Broken]:
    """Decode files in order, each into uint8 [C, H, W] or why it cannot be."""
    return map_files(partial(_try_decode, shape=shape, reading=reading), paths)


def find_broken(paths: Sequence[Path]) -> list[Broken]:
    """Which of some files cannot be decoded."""
    # Any size and range will do.
    looked = decode_each(paths, (1, 1, 1), ImageReading(value_range=(0, 1)))
    return [found for found in looked if isinstance(found, Broken)]


def decode(path: Path, shape: Shape, reading: ImageReading = PLAIN) -> Tensor:
    """Decode one file into uint8 [C, H, W], turned upright if its EXIF data say so.

    Raises:
        ImageError: the image cannot be read; the message names it.
    """
    return _whole(_try_decode(path, shape, reading))


def file_facts(path: Path) -> FileFacts:
    """Hash a file and look at its image.

    Raises:
        ImageError: the file cannot be read or is no image; the message names it.
    """
    return _whole(try_facts(path))


def try_facts(path: Path) -> FileFacts | Broken:
    """Hash a file and look at its image, decoding it only where its header does not tell all."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Broken(path, error.strerror or str(error))
    sha256 = hashlib.sha256(content).hexdigest()

    def look(image: Image.Image) -> FileFacts:
        cut = is_cut(image)  # Once an image is decoded, it is no longer known.
        width, height = image.size
        if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
            # Whether a TIFF's size is that of the upright image depends on Pillow's version.
            is_tiff = image.format == "TIFF"
            width, height = ImageOps.exif_transpose(image).size if is_tiff else (height, width)
        return FileFacts(
            sha256,
            width,
            height,
            image.mode in GREY_MODES,
            wide_range(image) if is_wide(image) else None,
            visible_grey(image),
            cut,
        )

    return _try_image(path, BytesIO(content), look)


def _try_decode(path: Path, shape: Shape, reading: ImageReading) -> Tensor | Broken:
    return _try_image(path, path, lambda image: torch.from_numpy(fit(image, shape, reading)))


def _whole(found: R | Broken) -> R:
    if isinstance(found, Broken):
        raise unreadable([found])
    return found


def fit_tensor(images: Tensor, shape: Shape) -> Tensor:
    """Bring uint8 [N, C, H, W] with 1 or 3 channels to another shape, as `fit` does for files."""
    if tuple(images.shape[1:]) == shape:
        return images
    out = torch.empty((len(images), *shape), dtype=torch.uint8)

    arrays = (images[:, 0] if images.shape[1] == 1 else images.movedim(1, -1)).numpy()
    for i, array in enumerate(arrays):
        pixels = Image.fromarray(np.ascontiguousarray(array))
        out[i] = torch.from_numpy(fit(pixels, shape, PLAIN))
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


def check_pixels(width: int, height: int) -> None:
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
    return min(MOST_THREADS, usable_cores())


def _try_image(path: Path, file: Path | BytesIO, use: Callable[[Image.Image], R]) -> R | Broken:
    if suffix_of(path.name) in HEIF:
        _know_heif()
    try:
        with Image.open(file) as image:
            check_pixels(*image.size)
            check_single(image)
            return use(image)
    # Pillow's decoders raise almost anything on damaged files, SyntaxError and struct.error too.
    except Exception as error:
        reason = (
            "no image that Pillow knows"
            if isinstance(error, UnidentifiedImageError)
            else getattr(error, "strerror", None) or str(error) or type(error).__name__
        )
        return Broken(path, reason)


@cache
def _know_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # Pillow's own words then: no image that it knows.
        return
    register_heif_opener()
