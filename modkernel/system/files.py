"""Files that are complete or not there, also when the machine stops in the middle."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_PIECE = 1 << 20


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, down to the disk.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    view = memoryview(content)
    with path.open("xb") as file:
        # In pieces: some file systems take one large write several times slower.
        for start in range(0, len(view), _PIECE):
            file.write(view[start : start + _PIECE])
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step, in a folder that is made if need be; an old one stays until then.

    Raises:
        OSError: it cannot be written; nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}-{uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_new(temporary, content)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in one step, in a folder that is made if need be; an old one stays until then.

    Not down to the disk: for copies that are checked by their hash whenever they are read.

    Raises:
        OSError: it cannot be read or written; nothing is left beside it.
    """
    temporary = target.with_name(f".{target.name}-{uuid4().hex}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
