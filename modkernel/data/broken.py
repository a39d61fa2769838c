"""Files that cannot be read as images, and the one error for all of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modkernel.data.class_names import LISTED
from modkernel.errors import ImageError

MISSING = os.strerror(errno.ENOENT)
"""The reason why a file cannot be read that is not there."""


@dataclass(frozen=True)
class Broken:
    """A file that cannot be read as an image, and why."""

    path: Path
    reason: str


def no_file(path: Path) -> str:
    """What is said of a file that is not there."""
    return f"There is no file {path}: correct its path, or leave it out."


def unreadable(broken: Sequence[Broken]) -> ImageError:
    """The error for one or more files that cannot be read."""
    if len(broken) == 1:
        if broken[0].reason == MISSING:
            return ImageError(no_file(broken[0].path))
        return ImageError(
            f"Cannot read image {broken[0].path}: {broken[0].reason}. Replace or remove the file."
        )
    in_order = sorted(broken, key=lambda each: str(each.path))
    shown = "; ".join(f"{each.path}: {each.reason}" for each in in_order[:LISTED])
    more = f"; and {len(broken) - LISTED} more" if len(broken) > LISTED else ""
    return ImageError(
        f"Cannot read {len(broken)} images: {shown}{more}. Replace or remove the files."
    )
