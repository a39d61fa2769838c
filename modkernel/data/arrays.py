"""Sets that are given as arrays: a file of them, or what a loader of your own returns."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modkernel.data.class_names import listed
from modkernel.data.dataset import DataPlaces, RawData
from modkernel.data.pool import Pool, Source
from modkernel.errors import ClassError, DataError, ModkernelError
from modkernel.lookup import import_object
from modkernel.spec import DatasetSpec
from modkernel.spec.shorthand import composed
from modkernel.system.memory import free_memory

KEYS = ("x", "y", "x_test", "y_test")
"""Names of the arrays that a file may hold: examples and labels, for training and for testing."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0}
"""What reads the header of an array, by the version of numpy's format; else it is the second's."""


def open_arrays(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Find the .npz or .safetensors file at `spec.path` with x, y and perhaps x_test, y_test.

    Without y the set has no labels. Classes are the different values of y, sorted, as text.

    Raises:
        DataError: no such file, or one of another type.
    """
    if spec.path is None:
        raise DataError("Data set 'arrays' needs a file: set dataset.path.")
    path = Path(spec.path)
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(f"Cannot read {path}: arrays come as one .npz or .safetensors file.")
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror}. Check dataset.path and its permissions."
        ) from None
    facts = f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}\n{stat.st_ctime_ns}"
    stamp = hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()
    return Source(stamp, partial(_read_pool, path))


def open_own(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Import a loader of your own, `package.module:function`.

    It has no stamp: whether the data behind a function have changed is unknown.

    Raises:
        SpecError: it cannot be imported.
    """
    return Source(None, partial(_call, import_object(spec.name, "data set"), spec))


def make_pool(
    what: str,
    x: np.ndarray | Tensor,
    y: np.ndarray | Tensor | Sequence[str] | None,
    x_test: np.ndarray | Tensor | None = None,
    y_test: np.ndarray | Tensor | Sequence[str] | None = None,
    classes: tuple[str, ...] = (),
) -> Pool:
    """Check arrays and bring them to one form; `what` names them in errors.

    Args:
        what: where the arrays come from.
        x: float [N, d] vectors or uint8 images, as `as_examples` takes them.
        y: [N], integers or strings, or None.
        x_test: like `x`.
        y_test: like `y`.
        classes: names that integer labels are positions in; by default y's own values.

    Raises:
        DataError: wrong types or shapes, lengths that differ, or values that are not finite.
        ClassError: a label outside the classes, or a class that is named twice.
    """
    train = as_examples(x, f"x of {what}")
    test = None if x_test is None else as_examples(x_test, f"x_test of {what}")
    if test is not None and test.shape[1:] != train.shape[1:]:
        raise DataError(
            f"x and x_test of {what} have examples of different shapes, {list(train.shape[1:])} "
            f"and {list(test.shape[1:])}: give both the same shape."
        )
    if (y_test is not None) != (y is not None and test is not None):
        raise DataError(
            f"{what} must have labels for all of its parts or for none: give y with x, and y_test "
            "with x_test."
        )
    labels = None
    if y is not None:
        classes = tuple(map(composed, classes))
        if len(set(classes)) < len(classes):
            raise ClassError(f"{what} names a class twice: give each class a name of its own.")
        values = _label_values(y, f"y of {what}", len(train))
        names = classes or tuple(str(value) for value in np.unique(values))
        labels = _number(values, names, bool(classes), f"y of {what}")
        if y_test is not None and test is not None:
            values = _label_values(y_test, f"y_test of {what}", len(test))
            more = _number(values, names, bool(classes), f"y_test of {what}")
            labels = torch.cat((labels, more))
        classes = names
    ids = [str(i) for i in range(len(train))]
    n_test = 0 if test is None else len(test)
    return Pool(
        classes=classes if labels is not None else (),
        ids=ids + [f"test/{i}" for i in range(n_test)],
        labels=labels,
        examples=train if test is None else torch.cat((train, test)),
        train=torch.arange(len(train)),
        test=None if test is None else torch.arange(n_test) + len(train),
    )


def as_examples(x: np.ndarray | Tensor, what: str) -> Tensor:
    """Bring an array to uint8 images [N, C, H, W] or float32 vectors [N, d].

    uint8 [N, H, W] is grey. uint8 with four dimensions has its channels where a size is 1 or 3:
    in the second place (as torch has them), else in the last.

    Raises:
        DataError: another type or shape, no examples, or values that are not finite.
    """
    array = _to_numpy(x)
    if array.dtype.kind not in "fiu":
        raise DataError(
            f"{what} has type {array.dtype}: save it as an array of numbers, not of objects."
        )
    if array.ndim in (2, 3, 4) and 0 in array.shape:
        raise DataError(f"{what} is empty: its shape is {list(array.shape)}.")
    if array.ndim == 2:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{what} holds values that are not finite: remove or replace them.")
    elif array.ndim in (3, 4) and array.dtype == np.uint8:
        if array.ndim == 3:
            array = array[:, None]
        elif array.shape[1] not in (1, 3):
            if array.shape[3] not in (1, 3):
                raise DataError(
                    f"{what} has shape {list(array.shape)}: images are [N, H, W], [N, C, H, W] or "
                    "[N, H, W, C] with 1 or 3 channels."
                )
            array = array.transpose(0, 3, 1, 2)
    else:
        raise DataError(
            f"{what} has type {array.dtype} and shape {list(array.shape)}: give vectors as "
            "numbers [N, d], or images as uint8 (0 to 255) [N, H, W], [N, C, H, W] or "
            "[N, H, W, C]."
        )
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _read_pool(path: Path) -> Pool:
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    if "x" not in arrays:
        raise DataError(f"{path} has no array 'x': it may hold {', '.join(KEYS)}, and x is needed.")
    return make_pool(
        str(path), arrays["x"], arrays.get("y"), arrays.get("x_test"), arrays.get("y_test")
    )


def _read_npz(path: Path) -> Mapping[str, np.ndarray]:
    try:
        # numpy leaves the file open when it is no good, unless it is given an open one.
        with path.open("rb") as raw:
            _check_size(path, _claimed_bytes(raw))
            raw.seek(0)
            file = np.load(raw, allow_pickle=False)
            return {key: file[key] for key in KEYS if key in file}
    except ModkernelError:
        raise
    # Damaged archives raise almost anything: zlib's and struct's errors, RuntimeError, KeyError.
    except Exception as error:
        reason = "it holds objects" if "allow_pickle" in str(error) else error
        raise DataError(
            f"Cannot read {path}: {reason}. Save it again with numpy.savez(path, x=…, y=…), with "
            "arrays of numbers (and strings for y)."
        ) from None


def _claimed_bytes(raw: BinaryIO) -> int:
    """How many bytes the arrays of an archive take in memory, by their headers alone.

    Raises:
        ValueError: a header claims another number of bytes than there are behind it.
    """
    total = 0
    with zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            if info.filename.removesuffix(".npy") not in KEYS:
                continue
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = HEADERS.get(version, np.lib.format.read_array_header_2_0)
                shape, _, dtype = read(member)
                there = info.file_size - member.tell()
            claimed = math.prod(shape) * dtype.itemsize
            if claimed != there and not dtype.hasobject:
                raise ValueError(
                    f"{info.filename} is damaged: it claims to hold {claimed} bytes, and "
                    f"there are {there}"
                )
            total += there
    return total


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        _check_size(path, path.stat().st_size)
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {key: file.get_tensor(key) for key in KEYS if key in names}
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"Cannot read {path}: {error}. Save it again with safetensors.torch.save_file."
        ) from None


def _check_size(path: Path, size: int) -> None:
    """Refuse arrays that would take more than half of the free memory: a copy of them is made."""
    free = free_memory()
    if size > free // 2:
        raise DataError(
            f"The arrays of {path} take {size / 2**30:.2f} GiB of memory, and half of what is free "
            f"({free / 2**30:.2f} GiB) is allowed: close other programs, or save fewer examples or "
            "a smaller type of number."
        )


def _call(function: object, spec: DatasetSpec) -> Pool:
    if not callable(function):
        raise DataError(
            f"'{spec.name}' is not a function: it must be one that takes a DatasetSpec."
        )
    try:
        raw = function(spec)
    except ModkernelError:
        raise
    except Exception as error:
        raise DataError(
            f"Loader '{spec.name}' failed with {type(error).__name__}: {error}. Fix it, or what "
            "it reads."
        ) from error
    if not isinstance(raw, RawData):
        raise DataError(
            f"Loader '{spec.name}' returned {type(raw).__name__}: it must return "
            "modkernel.data.RawData."
        )
    return make_pool(
        f"'{spec.name}'", raw.x_train, raw.y_train, raw.x_test, raw.y_test, tuple(raw.classes)
    )


def _label_values(y: np.ndarray | Tensor | Sequence[str], what: str, count: int) -> np.ndarray:
    values = _to_numpy(y)
    if values.dtype.kind not in "iubUS":
        raise DataError(f"{what} has type {values.dtype}: labels are integers or strings.")
    if values.ndim != 1 or len(values) != count:
        raise DataError(
            f"{what} has shape {list(values.shape)}, and there are {count} examples: give one "
            "label for each example."
        )
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{what} has the label {error.object!r}, whose bytes are no UTF-8 text: save the "
                "labels as text (numpy's type U) or integers."
            ) from None
    if values.dtype.kind == "U":
        distinct, inverse = np.unique(values, return_inverse=True)
        values = np.array([composed(name) for name in distinct.tolist()])[inverse]
    return values


def _number(values: np.ndarray, names: tuple[str, ...], positions: bool, what: str) -> Tensor:
    """Labels as int64 positions in `names`; integers are positions already if so stated."""
    distinct, inverse = np.unique(values, return_inverse=True)
    place = {name: i for i, name in enumerate(names)}
    numbers = []
    for value in distinct:
        number = place.get(str(value))
        if positions and values.dtype.kind in "iu":
            number = int(value) if 0 <= value < len(names) else None
        if number is None:
            raise ClassError(
                f"{what} has the label '{value}', which is none of the {len(names)} classes: "
                f"{listed(names)}."
            )
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.int64)[torch.from_numpy(inverse)]


def _to_numpy(values: np.ndarray | Tensor | Sequence[str]) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)
