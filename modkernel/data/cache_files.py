"""Files that can be made again at any time: decoded pixels, file hashes, splits, summaries.

Every file is written under a temporary name and renamed in one step, so that processes that write
the same one at once do no harm, and a killed one leaves nothing half-written under a real name.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from modkernel.errors import SettingsError
from modkernel.system import locks
from modkernel.system.files import written_whole


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step.

    Raises:
        SettingsError: the cache folder cannot be written.
    """
    write_cached(path, lambda temporary: temporary.write_text(json.dumps(content)))


def write_cached(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written in one step: `write` is given the name that it has until it is whole.

    Raises:
        SettingsError: the cache folder cannot be written.
    """
    try:
        with written_whole(path) as temporary:
            write(temporary)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for the time of a block; wait until no other process holds it.

    Raises:
        SettingsError: the lock file cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locks.locked(path))
        except OSError as error:
            raise _unwritable(path, error) from None
        yield


def _unwritable(path: Path, error: Exception) -> SettingsError:
    reason = getattr(error, "strerror", None) or error
    return SettingsError(
        f"Cannot write {path}: {reason}. Choose a folder that you can write to, on a disk "
        "with room."
    )
