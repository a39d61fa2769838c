"""Sets that are given as one file of arrays."""

from __future__ import annotations

import hashlib
import math
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import safe_open
from torch import Tensor

from modkernel.data.array_pool import Part, make_pool
from modkernel.data.changes import outlast_tick
from modkernel.data.class_names import listed
from modkernel.data.file_kinds import ARRAYS
from modkernel.data.findings import Finding
from modkernel.data.places import DataPlaces
from modkernel.data.pool import Pool, Source
from modkernel.errors import DataError, ModkernelError
from modkernel.spec import DatasetSpec
from modkernel.system.memory import free_memory

KEYS = ("x", "y", "x_val", "y_val", "x_test", "y_test")
"""Arrays that a file may hold: examples and labels, for training, validation and testing."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0}
"""What reads the header of an array, by the version of numpy's format; else it is the second's."""

Arrays = Mapping[str, np.ndarray] | Mapping[str, Tensor]


def open_arrays(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Find the .npz or .safetensors file at `spec.path` with x, y and perhaps other parts.

    Parts of their own are x_val, y_val and x_test, y_test; without them they are split off. Without
    y the set has no labels. Classes are the different values of y, sorted, as text.

    Raises:
        DataError: no such file, or one of another type.
    """
    path = found_file(spec, "arrays", ARRAYS)
    return stamped_source([path], partial(_read_pool, path, spec.unlabelled))


def found_file(spec: DatasetSpec, name: str, suffixes: tuple[str, ...]) -> Path:
    """The file that a data set needs.

    Raises:
        DataError: none is given, or one of another type.
    """
    if spec.path is None:
        raise DataError(f"Data set '{name}' needs a file: set dataset.path.")
    path = Path(spec.path)
    if not path.name.lower().endswith(suffixes):
        raise DataError(
            f"Cannot read {path}: data set '{name}' is one file of type {' or '.join(suffixes)}."
        )
    return path


def stamped_source(paths: Sequence[Path], read: Callable[[], Pool]) -> Source:
    """A set of files that are read as a whole, and refused if they change meanwhile.

    Args:
        paths: all that is read.
        read: reads it.

    Raises:
        DataError: a file cannot be looked at.
    """
    stamp = file_stamp(*paths)

    def unchanged() -> Pool:
        pool = read()
        if file_stamp(*paths) != stamp:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            raise DataError(
                f"{paths[0]}{more} changed while the data set was read: run the command again."
            )
        return pool

    return Source(stamp, unchanged)


def file_stamp(*paths: Path) -> str:
    """Changes with the files' places, sizes and times, of what is read after this call.

    Raises:
        DataError: a file cannot be looked at.
    """
    digest, times = hashlib.sha256(), list[int]()
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(
                f"Cannot read {path}: {error.strerror}. Check dataset.path and its permissions."
            ) from None
        facts = f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}\n{stat.st_ctime_ns}\n"
        digest.update(facts.encode(errors="surrogateescape"))
        times += (stat.st_mtime_ns, stat.st_ctime_ns)
    outlast_tick(times)
    return digest.hexdigest()


def _read_pool(path: Path, unlabelled: str | None) -> Pool:
    arrays, others = read_arrays(path)
    if "x" not in arrays:
        there = f", and it has {listed(others)}" if others else ""
        raise DataError(
            f"{path} has no array 'x': it may hold {', '.join(KEYS)}, and x is needed{there}."
        )
    parts = {"train": Part(arrays["x"], arrays.get("y"))}
    for name in ("val", "test"):
        if f"x_{name}" in arrays:
            parts[name] = Part(arrays[f"x_{name}"], arrays.get(f"y_{name}"))
        elif f"y_{name}" in arrays:
            raise DataError(
                f"{path} must have labels for all of its parts or for none: y_{name} needs "
                f"x_{name}."
            )
    findings: tuple[Finding, ...] = ()
    if others:
        text = (
            f"{len(others)} array(s) of {path.name} are not read: {listed(others)}. Those that are "
            f"read are called {', '.join(KEYS)}."
        )
        findings = (Finding(kind="unread", text=text, count=len(others)),)
    return make_pool(str(path), parts, unlabelled=unlabelled, findings=findings)


def read_arrays(path: Path) -> tuple[Arrays, list[str]]:
    """The arrays of a file that are called as one of `KEYS`, and the names of all others.

    Raises:
        DataError: it cannot be read, or takes too much memory.
    """
    return _read_npz(path) if path.suffix.lower() == ".npz" else _read_safetensors(path)


def _read_npz(path: Path) -> tuple[Arrays, list[str]]:
    try:
        # numpy leaves the file open when it is no good, unless it is given an open one.
        with path.open("rb") as raw, warnings.catch_warnings():
            # Of odd headers, which are read all the same or refused.
            warnings.simplefilter("ignore")
            check_memory(path, _claimed_bytes(raw))
            raw.seek(0)
            file = np.load(raw, allow_pickle=False)
            names = [name.removesuffix(".npy") for name in file.zip.namelist()]
            return {key: file[key] for key in KEYS if key in file}, _others(names)
    except ModkernelError:
        raise
    # Damaged archives raise almost anything: zlib's and struct's errors, RuntimeError, KeyError.
    except Exception as error:
        reason = "it holds objects" if "allow_pickle" in str(error) else _one_line(error)
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


def _read_safetensors(path: Path) -> tuple[Arrays, list[str]]:
    try:
        check_memory(path, path.stat().st_size)
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {key: file.get_tensor(key) for key in KEYS if key in names}, _others(names)
    except ModkernelError:
        raise
    # A damaged header may name a type that torch lacks, or text that is none.
    except Exception as error:
        raise DataError(
            f"Cannot read {path}: {_one_line(error)}. Save it again with "
            "safetensors.torch.save_file."
        ) from None


def check_memory(path: Path, size: int) -> None:
    """Refuse arrays that would take more than half of the free memory: a copy of them is made.

    Raises:
        DataError: `size`, in bytes, is too much.
    """
    free = free_memory()
    if size > free // 2:
        raise DataError(
            f"The arrays of {path} take {size / 2**30:.2f} GiB of memory, and half of what is free "
            f"({free / 2**30:.2f} GiB) is allowed: close other programs, or save fewer examples or "
            "a smaller type of number."
        )


def _others(names: list[str]) -> list[str]:
    return sorted({name for name in names if name not in KEYS})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
