"""Passwords that are made once and kept in a file that its owner alone may read."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from modkernel.errors import SettingsError

BYTES = 16
"""Of randomness: 32 hexadecimal digits, which a double click selects."""


def kept_password(path: Path, whose: str) -> str:
    """The password in a file, made at the first call; two that make it at once get the same.

    Args:
        path: of the file, in a folder that is there.
        whose: password it is, for errors, such as "Prefect's".

    Raises:
        SettingsError: the file cannot be made or read, or is empty.
    """
    try:
        if not path.exists():
            _make(path)
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{whose} password cannot be read from {path}: {error}. Delete the file, and "
            "another is made; then start 'modkernel up' again."
        ) from None
    if not found:
        raise SettingsError(
            f"{whose} password file {path} is empty: delete it, and another is made; then start "
            "'modkernel up' again."
        )
    return found


def _make(path: Path) -> None:
    # A temporary file is made with mode 0600, whatever the umask.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Not a rename: the first one stays, since somebody may have read it already.
        with suppress(FileExistsError):
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise
            except OSError:  # Of a disk without hard links.
                content = Path(temporary).read_bytes()
                own = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(own, "wb") as file:
                    file.write(content)
    finally:
        os.unlink(temporary)
