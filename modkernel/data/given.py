"""Examples that somebody hands to a network over the network or in a program: nobody is trusted.

A picture is the bytes of an image file, the same in base64, or numbers: it is read, converted and
resized as an image folder's files are. A row is numbers. Files and addresses are never opened.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from modkernel.data.images import check_pixels, fit_tensor
from modkernel.data.pixels import MODES, check_single, fit
from modkernel.data.two_values import factor_of
from modkernel.errors import DataError, ImageError
from modkernel.spec import Preprocessing

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
"""Pillow's formats that are read: no other decoder meets a stranger's bytes."""
MOST_PIXELS = 1 << 25
"""Of one picture: a few kilobytes may unpack to gigabytes."""
MOST_IN_ALL = 1 << 27
"""Pixels of all pictures that are given at once."""
_DATA_URL = re.compile(r"data:[\w.+/-]*;base64,", re.ASCII)


def read_given(items: Sequence[object], takes: Preprocessing) -> Tensor:
    """Examples as a network takes them.

    Args:
        items: One each: bytes of an image file; base64 of them as text, also as `data:` URL;
            an array or nested lists, of whole numbers 0 to 255 for pictures (0 and 1, or true and
            false, for a network that was trained on such): [H, W], [C, H, W], [H, W, C] with 1 or 3
            channels, or as many numbers in a row as the network's shape has;
            for rows [d], None or NaN where a value is missing.
        takes: of the network.

    Returns:
        Raw examples [N, …] of the network's dtype.

    Raises:
        ImageError: a picture cannot be read, or is too large; the message names it by its place.
        DataError: numbers of another form, or nothing at all.
    """
    if not len(items):
        raise DataError("There is nothing to predict: give at least one example.")
    read: list[Tensor] = []
    left = MOST_IN_ALL
    doubts: list[DataError | None] = []
    for number, item in enumerate(items, start=1):
        what = f"Example {number} of {len(items)}"
        if isinstance(item, bytes | bytearray | str):
            if len(takes.shape) != 3:
                raise DataError(
                    f"{what} is text or bytes, and this network takes rows of {takes.shape[0]} "
                    "numbers: give a list of numbers."
                )
            content = _decoded(item, what) if isinstance(item, str) else bytes(item)
            example, pixels = _picture(content, takes, what, left)
        else:
            example, pixels = _numbers(item, takes, what, doubts), 0
        left -= pixels
        read.append(example)
    doubt = next(filter(None, doubts), None)
    if doubt is not None and None not in doubts:
        raise doubt
    return torch.stack(read)


def _decoded(text: str, what: str) -> bytes:
    start = _DATA_URL.match(text)
    packed = "".join(text[start.end() if start else 0 :].split())
    packed = packed.translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(
            f"{what} is text that is no base64: give the bytes of an image file in base64, or "
            "numbers."
        ) from None


def _picture(content: bytes, takes: Preprocessing, what: str, left: int) -> tuple[Tensor, int]:
    """A picture and how many pixels it had."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(BytesIO(content), formats=[f for f in FORMATS if _known(f)])
        with opened as image:
            width, height = image.size
            pixels = width * height
            if pixels > MOST_PIXELS:
                raise ValueError(
                    f"its {width} x {height} pixels are more than the {MOST_PIXELS} that are read, "
                    "so make it smaller"
                )
            if pixels > left:
                raise ValueError(
                    f"its {width} x {height} pixels and those of the pictures before it are more "
                    f"than {MOST_IN_ALL}, so send them in parts"
                )
            check_pixels(width, height)
            check_single(image)
            return torch.from_numpy(fit(image, takes.shape, takes.reading)), pixels
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files.
        reason = (
            "no image that is read here (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM)"
            if isinstance(error, UnidentifiedImageError)
            else " ".join(str(error).split())[:200] or type(error).__name__
        )
        raise ImageError(f"{what} cannot be read: {reason}.") from None


def _known(name: str) -> bool:
    Image.init()
    return name in Image.OPEN


def _numbers(
    item: object, takes: Preprocessing, what: str, doubts: list[DataError | None]
) -> Tensor:
    """An example of numbers.

    Of a picture of 0 and 1 that may be two things, `doubts` gets the error; it is right as bytes if
    another one has values above 1, of which it gets None.
    """
    shape = takes.shape
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(item, dtype=None if takes.dtype == "uint8" else np.float32)
    except (TypeError, ValueError, OverflowError, RecursionError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iufb" or not array.size:
        raise DataError(
            f"{what} is no array of numbers: give {_wanted(takes)}, or for pictures the base64 of "
            "an image file."
        )
    if takes.dtype != "uint8":
        if array.shape != shape:
            raise DataError(f"{what} has shape {list(array.shape)}: give {_wanted(takes)}.")
        if np.isinf(array).any():
            raise DataError(f"{what} holds infinite values, or ones above 3e38: replace them.")
        return torch.from_numpy(array)
    if array.dtype != np.uint8:
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.uint8)
        if not np.array_equal(whole, array):
            raise DataError(
                f"{what} has numbers other than the whole ones from 0 to 255: give pixels as they "
                "are in an image file; the network normalises them itself."
            )
        try:
            factor = factor_of(array, takes, what)
            doubts += [None] * (factor is None)
        except DataError as error:
            doubts.append(error)
            factor = None
        array = whole * np.uint8(factor or 1)
    if array.shape == (int(np.prod(shape)),):
        array = array.reshape(shape)
    if array.shape == shape:
        return torch.from_numpy(np.ascontiguousarray(array))
    return _resized(array, takes, what)


def _resized(array: np.ndarray, takes: Preprocessing, what: str) -> Tensor:
    """A picture of another size, or with its channels elsewhere."""
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] not in MODES and array.shape[2] in MODES:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in MODES or takes.shape[0] not in MODES:
        raise DataError(f"{what} has shape {list(array.shape)}: give {_wanted(takes)}.")
    return fit_tensor(torch.from_numpy(np.ascontiguousarray(array))[None], takes.shape)[0]


def _wanted(takes: Preprocessing) -> str:
    if len(takes.shape) == 1:
        return f"{takes.shape[0]} numbers"
    return f"numbers of shape {list(takes.shape)}, as {takes.dtype}"
