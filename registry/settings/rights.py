"""The rights to a home's folders: they are their owner's alone."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from modkernel.errors import SettingsError

FOR_OTHERS = 0o077
"""The rights of everybody but a file's owner, as in a mode."""
OURS = (
    *("artifacts", "cache", "data", "logs", "prefect", "slots", "studies", "work"),
    *("mlflow.db*", "mlflow.home", "mlflow.lock", "mlflow-auth.*", "mlflow-password"),
    *("prefect-password", "registry.db*", "registry.lock", "settings.toml", "up.json"),
)
"""Names in a home that modkernel makes or reads; a database has files beside it, and copies."""


def close_to_others(path: Path) -> None:
    """Take every right of others from a file, or from a folder and all that is in it.

    Another user's files and what links point to are left as they are.
    """
    _close(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            _close(Path(folder, name))


def close_home(home: Path) -> None:
    """Close what is ours in a home, and the home itself if all in it is ours.

    A folder that holds something else as well may be shared on purpose. What is closed already
    costs one look, whatever is in it: nobody gets further.
    """
    home = home.resolve()
    entries = sorted(home.iterdir())
    ours = [entry for entry in entries if any(fnmatchcase(entry.name, name) for name in OURS)]
    for path in (home, *ours) if ours == entries else ours:
        if _is_open(path):
            close_to_others(path)


def _close(path: Path) -> None:
    with suppress(OSError):  # Another user's, or just gone.
        if _is_open(path):
            path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~FOR_OTHERS)


def _is_open(path: Path) -> bool:
    """Whether others have rights to a file or folder; a link, and what is gone, has none."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return bool(mode & FOR_OTHERS) and not stat.S_ISLNK(mode)


def ensure_writable(folder: Path, what: str, variable: str, private: bool) -> None:
    """Make a folder that is missing, and write to it.

    Args:
        folder: it.
        what: says what it is, for the message.
        variable: sets it.
        private: whether it is for its owner alone.

    Raises:
        SettingsError: it cannot be made or written to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o777 & ~FOR_OTHERS if private else 0o777, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(
            f"Cannot write to the {what} {folder}: {error.strerror}. "
            f"Set {variable} to a folder that you can write to."
        ) from None
