"""Features of frozen modules on disk: computed once, mapped by every process that uses them.

One safetensors file a key. A file is written under a temporary name and renamed in one step; a
killed writer leaves at most a temporary file, which the next one removes. All files together take
no more than the limit: the least recently used are evicted first, but never one that a process is
writing or waiting for. A process that has mapped a file can go on reading it after its eviction;
the disk space is free when the last such process ends.

Each key has two lock files, held by `flock`, so a lock ends with the process that holds it:
`users`, shared, from the look-up until the file is mapped, so that nothing is evicted that a
process waits for; and `writer`, exclusive, by the process that computes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modkernel.errors import DataError, StoppedError
from modkernel.system.files import UNFINISHED, remove_abandoned, written_whole
from modkernel.system.locks import locked, release, try_lock

__all__ = ["VALUES", "FeatureCache", "FeatureKey", "NoRoomError"]

FEATURE_FORMAT = 1
"""Version of how features are computed and stored; part of every key's digest."""
VALUES = "values"
"""Name of the features among the tensors of a key."""
SUFFIX = ".safetensors"
"""Of the file of a key."""
ALIGNMENT = 64
"""Bytes; the mapped numbers begin at a multiple of it."""
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
"""Number formats that can be stored, and their names in a safetensors header."""


class NoRoomError(Exception):
    """The values are larger than the cache or than the room on its disk: do without it."""


@dataclass(frozen=True)
class FeatureKey:
    """What features are of; equal keys, equal features.

    Attributes:
        module: id of the last module that the examples went through; several with spaces between.
        data: fingerprint of the data set.
        split: the examples' split of it.
        transform: what was done before and after: `plain`, `view-3 …`, `features …`.
        dtype: number format that they were computed in.
    """

    module: str
    data: str
    split: str
    transform: str
    dtype: str

    def digest(self) -> str:
        """SHA-256 of all of it and of `FEATURE_FORMAT`, as 64 hexadecimal digits."""
        parts = {"format": FEATURE_FORMAT, **asdict(self)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features, shared by all processes, of `limit` bytes at most."""

    folder: Path
    limit: int

    def find(self, key: FeatureKey) -> dict[str, Tensor] | None:
        """The tensors stored under a key, mapped, with `values` [N, …] among them, or None."""
        return self._read(self._path(key.digest()))

    def find_or_make(
        self,
        key: FeatureKey,
        count: int,
        make: Callable[[], Iterator[Tensor]],
        extra: Mapping[str, Tensor] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Tensor]:
        """The tensors stored under a key, made and stored first if there are none.

        Of several processes that want the same key one computes, and the others wait for it.
        Values are written block by block, never held as a whole.

        Args:
            key: what they are of.
            count: N; stored values of another number of examples are made again.
            make: gives blocks [B, …] of one shape and format, N rows in all, in order.
            extra: small tensors that are stored with the values.
            stop: called while waiting for another process.

        Returns:
            `values` [N, …] and the extra tensors, on the CPU, mapped: do not write to them.

        Raises:
            DataError: N is 0.
            NoRoomError: they exceed the limit, or the disk is full, or the folder cannot
                be written; nothing is left behind, and at most one block was computed.
            StoppedError: `stop` said so.
        """
        if not count:
            raise DataError("There are no examples to cache features of: give some.")
        digest = key.digest()
        path = self._path(digest)
        found = self._read(path, count)
        if found is not None:
            return found

        def waiting() -> None:
            if stop():
                raise StoppedError(
                    "Training was stopped while it waited for another process that computes the "
                    "same features: run the same command to resume."
                )

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                locked(self._lock(digest, "users"), waiting, shared=True),
                locked(self._lock(digest, "writer"), waiting),
            ):
                found = self._read(path, count)  # Another process may have written it.
                if found is None:
                    self._write(digest, key, count, make(), dict(extra or {}))
                    found = self._read(path, count)
        except OSError as error:
            raise NoRoomError(f"{self.folder}: {error.strerror or error}") from None
        if found is None:
            raise NoRoomError(f"{path} was removed or damaged as soon as it was written")
        return found

    def files(self) -> Iterator[tuple[Path, str, int]]:
        """Each file, the `FeatureKey.module` that its features are of, and its bytes."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with contextlib.suppress(OSError, SafetensorError):  # Just evicted, or damaged.
                with safe_open(path, framework="pt") as file:
                    module = (file.metadata() or {}).get("module")
                if module is not None:
                    yield path, module, path.stat().st_size

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}{SUFFIX}"

    def _lock(self, digest: str, name: str) -> Path:
        return self.folder / f".{digest}.{name}"

    def _read(self, path: Path, count: int | None = None) -> dict[str, Tensor] | None:
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None  # Missing, just evicted, or damaged: it is made again.
        with contextlib.suppress(OSError):
            os.utime(path)  # Now the most recently used.
        if VALUES not in found or len(found[VALUES]) != (count or len(found[VALUES])):
            return None
        return found

    def _write(
        self,
        digest: str,
        key: FeatureKey,
        count: int,
        blocks: Iterator[Tensor],
        extra: dict[str, Tensor],
    ) -> None:
        path = self._path(digest)
        remove_abandoned(self.folder, path.name)  # Its writer was killed: we hold the lock.
        # Damaged or of another number of examples: it must not take the room of what replaces it.
        path.unlink(missing_ok=True)
        first = next(blocks)
        tensors = {VALUES: (first.dtype, (count, *first.shape[1:]))} | {
            name: (values.dtype, tuple(values.shape)) for name, values in extra.items()
        }
        header, size = _layout(key, tensors)
        # Durable: reserved bytes that never arrived would read as zeros.
        with written_whole(path, durable=True) as temporary:
            self._reserve(temporary, size)
            with temporary.open("r+b") as file:
                file.write(header)
                file.write(_bytes(first))
                for block in blocks:
                    file.write(_bytes(block))
                for values in extra.values():
                    file.write(_bytes(values))
                assert file.tell() == size, "as many rows as were announced"

    def _reserve(self, temporary: Path, size: int) -> None:
        """Make a file whose bytes are reserved, in the limit and on the disk."""

        def waiting() -> None:
            """The process that holds the lock only removes files and reserves bytes: be patient."""

        # One at a time: two writers must not both count on the same room.
        with locked(self.folder / ".reserving", waiting):
            self._evict(size)
            with temporary.open("xb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)

    def _evict(self, size: int) -> None:
        """Remove what was used longest ago, until `size` bytes more are within the limit."""
        if size > self.limit:
            raise NoRoomError(f"{size} bytes are more than the cache may take")
        stored: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            if path.suffix in (SUFFIX, UNFINISHED):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    # What a killed writer left is evicted first.
                    age = 0.0 if path.suffix == UNFINISHED else status.st_mtime
                    stored.append((age, status.st_size, path))
        total = sum(length for _, length, _ in stored)
        for age, length, path in sorted(stored):
            if (age and total + size <= self.limit) or not self.remove(path):
                continue
            total -= length
        if total + size > self.limit:
            raise NoRoomError("the rest of the cache is in use by other processes")

    def remove(self, path: Path) -> bool:
        """Remove a file and its locks, unless a process writes it or waits for it."""
        digest = path.name.lstrip(".").split(".")[0]
        users = self._lock(digest, "users")
        descriptor = try_lock(users)
        if descriptor is None:
            return False
        try:
            path.unlink(missing_ok=True)
            if not self._path(digest).exists():
                self._lock(digest, "writer").unlink(missing_ok=True)
                users.unlink(missing_ok=True)
        finally:
            release(descriptor)
        return True


def _layout(
    key: FeatureKey, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> tuple[bytes, int]:
    """The safetensors header of tensors that follow one another, and the size of the file."""
    entries: dict[str, object] = {"__metadata__": asdict(key)}
    start = 0
    for name, (dtype, shape) in tensors.items():
        end = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    return header, len(header) + start


def _bytes(block: Tensor) -> memoryview:
    plain = block.detach().to("cpu").contiguous()
    return plain.view(-1).view(torch.uint8).numpy().data
