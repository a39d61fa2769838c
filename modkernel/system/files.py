"""Files and folders that appear complete or not at all.

Every one is written under another name beside its place and renamed, so a process that dies leaves
no half of it under the real name. *Durable* ones are flushed to the disk before that, so that they
are whole even after the machine itself stops: what a record in a database names (modules, moments,
ground truths) and their private copies, results of training and checkpoints, what a person is
handed, and files whose bytes were reserved before they came. Progress and caches are not: they are
made again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

UNFINISHED = ".tmp"
"""How the names end that files and folders are written under; a killed process may leave one."""
_RANDOM = "[0-9a-f]" * 32
"""Pattern of what tells apart the names of those who write to one place."""
_PIECE = 1 << 20
"""Bytes written at once: some file systems take one large write several times slower."""

NO_ROOM = 1 << 20
"""Bytes: on a disk with less free, whatever failed did so for want of room."""
_FULL = ("No space left on device", "disk is full")
"""How those say it that hand on no number: safetensors, SQLite."""


@contextmanager
def written_whole(path: Path, durable: bool = False) -> Iterator[Path]:
    """Write a file or a folder in one step: in the block under another name, which it yields.

    The block makes the file or folder of that name; after the block it takes the place of `path`,
    unless the block raised. Parents are made. An old file stays until then; an old folder has to
    be empty. What is there and holds no file, as a device or a pipe, stays in its place and is
    written into, as every program does to `/dev/null` or `/dev/stdout`.

    Args:
        path: where it appears.
        durable: flush it to the disk first, and of a folder all that is in it.

    Raises:
        OSError: it cannot be written or moved there; nothing is left beside it.
    """
    if _takes_bytes(path):
        with tempfile.TemporaryDirectory() as elsewhere:
            made = Path(elsewhere, path.name)
            yield made
            with made.open("rb") as file, path.open("ab") as taken:
                shutil.copyfileobj(file, taken)
        return
    holders = {path.parent, *(folder.parent for folder in path.parents if not folder.exists())}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{UNFINISHED}")
    try:
        yield temporary
        if durable:
            _flush_tree(temporary)
        os.replace(temporary, path)
        if durable:
            for folder in holders:
                _flush(folder)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink()


def remove_abandoned(folder: Path, pattern: str, idle: float = 0) -> None:
    """Remove what killed processes have left of files that `written_whole` was to make.

    Args:
        folder: that they were to appear in.
        pattern: of their own names, with '*' for any signs.
        idle: seconds since the last byte after which nobody can be writing any more; none where
            the caller holds the lock of those who write.
    """
    latest = time.time() - idle
    for left in folder.glob(f".{pattern}.{_RANDOM}{UNFINISHED}"):
        with suppress(OSError):  # Gone meanwhile, or another user's.
            if not idle or left.lstat().st_mtime < latest:
                left.unlink()


def _takes_bytes(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, or the system's link to an open file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode):
        return path.is_symlink() and os.readlink(path).startswith("/proc/")
    return not stat.S_ISDIR(mode)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, down to the disk.

    Raises:
        OSError: it is there already, or cannot be written; nothing is left then.
    """
    view = memoryview(content)
    with path.open("xb") as file:
        try:
            for start in range(0, len(view), _PIECE):
                file.write(view[start : start + _PIECE])
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()  # Half of it would stand in the way of the next attempt.
            raise


def replace_file(path: Path, content: bytes, durable: bool = False) -> None:
    """Write a file in one step; see `written_whole`.

    Raises:
        OSError: it cannot be written; nothing is left beside it.
    """
    with written_whole(path, durable) as temporary:
        temporary.write_bytes(content)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in one step, durably; see `written_whole`.

    Raises:
        OSError: it cannot be read or written; nothing is left beside it.
    """
    with written_whole(target, durable=True) as temporary:
        shutil.copyfile(source, temporary)


def flush_written(path: Path) -> None:
    """Have a file or folder that somebody else wrote, and the folders it lies in, reach the disk.

    Raises:
        OSError: it cannot be read, or its disk failed.
    """
    _flush_tree(path)
    for folder in path.absolute().parents:
        # Those above may be closed to us; they were there before.
        with suppress(PermissionError):
            _flush(folder)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that a disk has no room left."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if says_full_disk(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def says_full_disk(text: str) -> bool:
    """Whether a message, or the end of a log, says that a disk has no room left."""
    return any(words in text for words in _FULL)


def has_no_room(path: Path) -> bool:
    """Whether the disk of a file or folder is as good as full: not every failure says why."""
    with suppress(OSError):
        return shutil.disk_usage(path).free < NO_ROOM
    return False


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_tree(path: Path) -> None:
    """Flush a file, or a folder and all that is in it."""
    for folder, _, files in os.walk(path):
        for name in files:
            _flush(Path(folder, name))
        _flush(Path(folder))
    if not path.is_dir():
        _flush(path)


def _flush(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder, however deep."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
