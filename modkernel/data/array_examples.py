"""From arrays of any number type to the two forms that examples have: images and vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from modkernel.data.findings import Finding
from modkernel.errors import DataError

Array = np.ndarray | Tensor
CHUNK = 1024
"""Images that are converted together."""
TOLERANCE = 1e-3
"""How far 255 x may be from a whole number where x is a byte divided by 255."""


def as_examples(
    given: Mapping[str, Array], factor: int | None = None
) -> tuple[list[Tensor], tuple[Finding, ...]]:
    """Bring the parts of a set to uint8 images [N, C, H, W] or to float32 vectors [N, d].

    Two dimensions are vectors, with NaN for missing values; three are grey images. Four have their
    channels where a size is 1 or 3: in the second place (as torch has them), else in the last.
    Images that are not uint8 are read where nothing is lost: bytes as another type, or bytes
    divided by 255.

    Args:
        given: the parts by their names for messages.
        factor: what images that are not uint8 are multiplied by; if None, 255 where none of them
            has a value above 1, else 1.

    Raises:
        DataError: another type or shape, no examples, or values that are not allowed.
    """
    arrays = {what: to_numpy(x, what) for what, x in given.items()}
    for what, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(
                f"{what} has type {array.dtype}: save it as an array of numbers, not of objects."
            )
        if array.ndim in (2, 3, 4) and 0 in array.shape:
            raise DataError(f"{what} is empty: its shape is {list(array.shape)}.")
        if array.ndim not in (2, 3, 4):
            raise DataError(
                f"{what} has type {array.dtype} and shape {list(array.shape)}: give vectors as "
                "numbers [N, d], or images as uint8 (0 to 255) [N, H, W], [N, C, H, W] or "
                "[N, H, W, C]."
            )
    others = {w: a for w, a in arrays.items() if a.ndim > 2 and a.dtype != np.uint8}
    # One factor for all parts: the test part may be darker than the training part.
    if factor is None:
        factor = 255 if all(array.max() <= 1 for array in others.values()) else 1
    for what, array in others.items():
        arrays[what] = _as_bytes(array, factor, what)
    findings: tuple[Finding, ...] = ()
    if others:
        kinds = ", ".join(sorted({str(array.dtype) for array in others.values()}))
        text = (
            f"{', '.join(others)}: images of type {kinds} with values from 0 to {255 // factor}, "
            "read as bytes from 0 to 255 without loss."
        )
        count = sum(len(array) for array in others.values())
        findings = (Finding(kind="range", text=text, count=count),)
    return [_examples(array, what) for what, array in arrays.items()], findings


def to_numpy(values: Array | Sequence[object], what: str) -> np.ndarray:
    """An array of whatever can be made one.

    Raises:
        DataError: it cannot, such as a list of lists of different lengths.
    """
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            return (values.float() if values.is_floating_point() else values).numpy()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} is no array: {error}. Give an array of numbers with one shape for all."
        ) from None


def _examples(array: np.ndarray, what: str) -> Tensor:
    if array.ndim == 2:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float32)
        if np.isinf(array).any():
            raise DataError(
                f"{what} holds infinite values, or ones above 3e38, in {_where(np.isinf(array))}: "
                "replace them, by NaN where the value is unknown."
            )
        # NaN has many forms, and the content of a set is hashed.
        array[np.isnan(array)] = np.nan
    elif array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3):
        if array.shape[3] not in (1, 3):
            raise DataError(
                f"{what} has shape {list(array.shape)}: images are [N, H, W], [N, C, H, W] or "
                "[N, H, W, C] with 1 or 3 channels."
            )
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _as_bytes(array: np.ndarray, factor: int, what: str) -> np.ndarray:
    out = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), CHUNK):
        part = array[start : start + CHUNK].astype(np.float64) * factor
        whole = np.rint(part)
        if not (whole.min() >= 0 and whole.max() <= 255 and abs(part - whole).max() <= TOLERANCE):
            raise DataError(_no_bytes(array, what))
        out[start : start + CHUNK] = whole
    return out


def _no_bytes(array: np.ndarray, what: str) -> str:
    shape = f"{what} has type {array.dtype} and shape {list(array.shape)}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"{shape}, and values that are not finite: give images as uint8 (0 to 255)."
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high <= 1:
        remedy = "(x * 255).round()"
    elif low >= 0 and high <= 255:
        remedy = "x.round()"
    else:
        remedy = f"((x - {low:g}) * {255 / ((high - low) or 1):g}).round().clip(0, 255)"
    return (
        f"{shape}, with values from {low:g} to {high:g}: give images as uint8 (0 to 255), such as "
        f"{remedy}.astype('uint8'), with the same formula for all parts; or, where they are no "
        "images, vectors [N, d], such as x.reshape(len(x), -1)."
    )


def _where(wrong: np.ndarray) -> str:
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    return f"{len(rows)} row(s), first row {rows[0]}, column {columns[0]}, counted from 0"
