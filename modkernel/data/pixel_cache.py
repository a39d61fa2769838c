"""Tensors that can be made again at any time, with their hash: decoded pixels, splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modkernel.data.cache_files import write_cached


def cached_pixels(path: Path, shape: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
    """The uint8 tensor stored at `path`, mapped; it is made again if missing or damaged.

    Raises:
        SettingsError: the cache folder cannot be written.
    """
    found = read_tensors(path)
    if found is None or tuple(found["pixels"].shape) != tuple(shape):
        found = {"pixels": make()}
        write_tensors(path, found)
    return found["pixels"]


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors stored at `path`, mapped; None if they are missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return tensors if _hash(tensors) == expected else None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write CPU tensors in one step, with their hash.

    Raises:
        SettingsError: the cache folder cannot be written.
    """
    metadata = {"sha256": _hash(tensors)}
    write_cached(path, lambda temporary: save_file(tensors, temporary, metadata))


def array_bytes(values: Tensor) -> memoryview:
    """A CPU tensor's content, C order, little endian."""
    array = np.ascontiguousarray(values.numpy())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.reshape(-1).view(np.uint8).data


def _hash(tensors: dict[str, Tensor]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(array_bytes(tensors[name]))
    return hashed.hexdigest()
