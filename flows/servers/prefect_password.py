"""The password of this home's Prefect servers: without one, whoever reaches the port runs code."""

from __future__ import annotations

import base64
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from modkernel.errors import SettingsError
from modkernel.registry import Settings

OWN_SERVER = "PREFECT_SERVER_API_AUTH_STRING"
"""Where Prefect's server reads its password; a user's own is used as it is."""
BYTES = 16
"""Of randomness: 32 hexadecimal digits, which a double click selects."""


def prefect_password(settings: Settings) -> str:
    """What this home's Prefect servers ask for: Prefect's auth string.

    It is what PREFECT_SERVER_API_AUTH_STRING says; else the content of a file in the home that
    its owner alone may read, made at the first call. Two commands that make it at once get the
    same. It reaches Prefect by the environment: everyone on the machine can read command lines.

    Raises:
        SettingsError: the home cannot be made or written to, or the file is unreadable or empty.
    """
    if own := os.environ.get(OWN_SERVER):
        return own
    path = password_file(settings)
    try:
        if not path.exists():
            settings.ensure_home()
            _make(path)
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"Prefect's password cannot be read from {path}: {error}. Delete the file, and "
            "another is made; then start 'modkernel up' again."
        ) from None
    if not found:
        raise SettingsError(
            f"Prefect's password file {path} is empty: delete it, and another is made; then start "
            "'modkernel up' again."
        )
    return found


def password_file(settings: Settings) -> Path:
    """Where the password is kept."""
    return settings.home / "prefect-password"


def basic_authorization(password: str) -> str:
    """The Authorization header that Prefect's server expects."""
    return f"Basic {base64.b64encode(password.encode()).decode()}"


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
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
