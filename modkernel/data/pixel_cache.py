"""Files that can be made again at any time: decoded pixels, file hashes, splits, summaries.

Every file is written under a temporary name and renamed in one step, so that processes that write
the same one at once do no harm, and a killed one leaves nothing half-written under a real name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modkernel.errors import SettingsError
from modkernel.system import locks
from modkernel.system.files import written_whole


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step.

    Raises:
        SettingsError: the cache folder cannot be written.
    """
    _write(path, lambda temporary: temporary.write_text(json.dumps(content)))


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
    _write(path, lambda temporary: save_file(tensors, temporary, metadata))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for the time of a block; wait until no other process holds it.

    Raises:
        SettingsError: the lock file cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locks.locked(path))
        except OSError as error:
            raise _unwritable(path, error) from None
        yield


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


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        with written_whole(path) as temporary:
            write(temporary)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: Exception) -> SettingsError:
    reason = getattr(error, "strerror", None) or error
    return SettingsError(
        f"Cannot write {path}: {reason}. Choose a folder that you can write to, on a disk "
        "with room."
    )
