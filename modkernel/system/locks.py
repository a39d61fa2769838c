"""Locks on files by `flock`: the kernel frees them when their process ends, whatever ended it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["locked", "release", "try_lock"]

POLL_SECONDS = 0.05


def try_lock(path: Path, shared: bool = False) -> int | None:
    """Lock a file, which is made if it is missing; none while another holds it.

    Returns:
        A descriptor for `release`.

    Raises:
        OSError: the file cannot be made, such as in a folder that is not there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # The last holder may have removed the file: then a newcomer locks another inode.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def release(descriptor: int) -> None:
    """Give up what `try_lock` took, also where a process that was forked since still has it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextlib.contextmanager
def locked(
    path: Path, waiting: Callable[[], None] | None = None, shared: bool = False
) -> Iterator[None]:
    """Hold a lock for the time of a block.

    Args:
        path: the lock file, made if it is missing.
        waiting: called again and again during a wait; what it raises ends the wait.
        shared: with others that hold it shared.

    Raises:
        OSError: see `try_lock`.
    """
    while (descriptor := try_lock(path, shared)) is None:
        if waiting is not None:
            waiting()
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        release(descriptor)
