"""The content of examples by its hash: what tells two apart, and which part each falls into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modkernel.data.folder import read_facts
from modkernel.data.images import FileFacts
from modkernel.data.pixel_cache import array_bytes
from modkernel.data.pool import FileList, Unread, take

HASH_BYTES = 32
"""Of SHA-256."""


@dataclass(frozen=True, eq=False)
class Contents:
    """What a pass over some examples of N found: hashes, and what the headers of files say.

    Attributes:
        hashes: uint8 [N, 32], SHA-256 of a file's bytes, or of a row's as the source has it; zeros
            for those that were not looked at.
        facts: of the files that were looked at, in that order; none of rows of an array.
    """

    hashes: np.ndarray
    facts: list[FileFacts] | None = None


class ExampleDigests(NamedTuple):
    """The first eight bytes of the hash of each example, int64 [N] for each part, in its order.

    `fingerprint` is that of the data set.
    """

    fingerprint: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def read_contents(examples: Unread, rows: Tensor, cache: Path) -> Contents:
    """Hash the examples at int64 `rows`; files are read only where an earlier call has not.

    Raises:
        ImageError: a file cannot be read or is no image; the message names it.
        SettingsError: the cache cannot be written.
    """
    if isinstance(examples, Tensor):
        return Contents(_placed(_row_hashes(examples, rows), rows, len(examples)))
    listed = take(examples, rows)
    assert isinstance(listed, FileList)
    facts = read_facts(listed, cache)
    found = b"".join(bytes.fromhex(file.sha256) for file in facts)
    return Contents(_placed(found, rows, len(examples.files)), facts)


def shares(hashes: np.ndarray, seed: int, part: str) -> np.ndarray:
    """A number in [0, 1) for each content, float64 [N]: a hash of the seed, the part and it.

    Args:
        hashes: uint8 [N, 32], SHA-256 of each content.
        seed: of the split.
        part: 'test' or 'validation': the numbers of one say nothing of those of the other.
    """
    started = hashlib.sha256(f"split:{seed}:{part}:".encode())
    content = hashes.tobytes()
    numbers = bytearray()
    for start in range(0, len(content), HASH_BYTES):
        hashed = started.copy()
        hashed.update(content[start : start + HASH_BYTES])
        numbers += hashed.digest()[:8]
    # Of 64 bits the 53 that a float64 holds: more would round up to 1.
    return (np.frombuffer(bytes(numbers), ">u8") >> 11) / 2.0**53


def digests_of(hashes: np.ndarray) -> Tensor:
    """The first eight bytes of each hash, int64 [N]: enough to tell the examples of sets apart."""
    first = np.ascontiguousarray(hashes[:, :8]).view(">i8")[:, 0]
    return torch.from_numpy(first.astype(np.int64))


def _row_hashes(examples: Tensor, rows: Tensor) -> bytes:
    content = array_bytes(examples)
    size = len(content) // len(examples)
    starts = (rows * size).tolist()
    return b"".join(hashlib.sha256(content[start : start + size]).digest() for start in starts)


def _placed(found: bytes, rows: Tensor, count: int) -> np.ndarray:
    hashes = np.zeros((count, HASH_BYTES), np.uint8)
    hashes[rows.numpy()] = np.frombuffer(found, np.uint8).reshape(-1, HASH_BYTES)
    return hashes
