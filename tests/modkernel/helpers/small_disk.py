"""Real file systems that can be made full, and larger."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOM = "size=64m"


class SmallDisk:
    """A file system of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def leave(self, size: int) -> None:
        """Make so many bytes of room for new files, and no more."""
        whole = shutil.disk_usage(self.folder).used + size
        subprocess.run(["mount", "-o", f"remount,size={whole}", self.folder], check=True)

    @property
    def grow(self) -> list[str]:
        """The command that makes room enough."""
        return ["mount", "-o", f"remount,{ROOM}", str(self.folder)]


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A file system on a folder; the test is skipped where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"{ROOM},mode=0700", "tmpfs", folder]
    try:
        made = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("no file system can be mounted here")
    (folder / "used").write_text("so that it may be smaller: a limit of 0 is none")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
