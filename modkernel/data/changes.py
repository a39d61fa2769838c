"""Data that change while they are read, and clocks that are too coarse to show it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from modkernel.data.layout import ListedFile
from modkernel.errors import ImageError

SECOND = 1_000_000_000
"""In nanoseconds, as times of files are."""
COARSE = 2 * SECOND
"""Step of the coarsest clock, that of FAT. Times of such clocks are whole seconds."""
FINE = SECOND // 50
"""Step of the others, at most: a kernel's tick."""


def outlast_tick(times: Iterable[int]) -> None:
    """Wait until a file that is saved from now on gets a later time than these.

    What is read after that belongs to these times: a file that is saved twice within a step of its
    clock looks the same both times. Only files that were just saved are waited for, 2 seconds at
    most beside the difference of two machines' clocks.

    Args:
        times: of files, in nanoseconds since 1970.
    """
    now = time.time_ns()
    recent = [at for at in times if now - COARSE < at < now + SECOND]
    left = max((at + (FINE if at % SECOND else COARSE) - now for at in recent), default=0)
    if left > 0:
        time.sleep(left / SECOND)


def check_unchanged(root: Path, files: Iterable[ListedFile]) -> None:
    """Check that files which have just been read are still as they were listed.

    By their sizes and times.

    Raises:
        ImageError: some are not; the message names one.
    """
    changed = [file.path for file in files if _facts(root / file.path) != file[1:]]
    if changed:
        raise ImageError(
            f"{len(changed)} image(s) of {root} have changed since the folder was listed, such as "
            f"{changed[0]}: run the command again, so that they are read anew."
        )


def _facts(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
