"""Files that appear whole, and what is written into because it holds no file."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from modkernel.system.files import replace_file, write_new, written_whole

CONTENT = bytes(range(256)) * 1024  # More than a pipe holds.


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    replace_file(pipe, CONTENT, durable=True)
    reader.join(10)
    assert read == [CONTENT]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_systems_link_to_an_open_file_is_followed(tmp_path: Path) -> None:
    """As /dev/stdout is one, whatever the shell has opened there."""
    file, link = tmp_path / "shell", tmp_path / "stdout"
    with file.open("ab") as opened:
        opened.write(b"before\n")
        opened.flush()
        link.symlink_to(f"/proc/self/fd/{opened.fileno()}")
        replace_file(link, CONTENT)
    assert link.is_symlink()
    assert file.read_bytes() == b"before\n" + CONTENT


def test_half_of_a_new_file_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_new(tmp_path / "labels.csv", b"half")
    write_new(tmp_path / "labels.csv", b"whole")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "labels.csv", b"again")
    assert (tmp_path / "labels.csv").read_bytes() == b"whole"


def test_a_device_stays_one(tmp_path: Path) -> None:
    nothing = tmp_path / "null"
    try:
        os.mknod(nothing, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        nothing.write_bytes(b"")
    except PermissionError:
        pytest.skip("devices are made by root alone")
    replace_file(nothing, CONTENT)
    assert stat.S_ISCHR(nothing.lstat().st_mode)
    with pytest.raises(OSError, match="s a directory"), written_whole(nothing) as folder:
        folder.mkdir()
    assert list(tmp_path.iterdir()) == [nothing]


def test_a_users_own_link_gives_way_to_the_file(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"mine")
    link.symlink_to(file)
    replace_file(link, CONTENT)
    assert (file.read_bytes(), link.read_bytes()) == (b"mine", CONTENT)
    assert not link.is_symlink()
