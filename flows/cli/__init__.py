"""The command line `modkernel`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from modkernel.system.collector import collect_seldom

PRIVATE = 0o077
"""Umask of all commands and their children: databases, weights and logs are their user's alone."""

__all__ = ["main", "program"]


def program() -> None:
    """The installed program `modkernel`, which has the process to itself."""
    collect_seldom()
    try:
        main()
    finally:
        # All is stored. Another Ctrl-C, while threads end, would print a traceback out of them.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line and exit.

    With 0 when it is done, 1 for a typed error, 2 for wrong usage, and 128 + its number after a
    signal (130 after Ctrl-C). What modkernel raises on purpose becomes its one sentence on stderr,
    with no traceback.
    """
    users = os.umask(PRIVATE)
    os.umask(users | PRIVATE)
    try:
        from modkernel.flows.cli.app import app

        app(obj=users)  # For `push`, whose files are for others.
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        from modkernel.errors import ModkernelError

        if isinstance(error, ModkernelError):
            told = str(error)
        elif isinstance(error, ModuleNotFoundError) and error.name == "torch":
            told = "PyTorch is not installed here: install torch, or run this in a worker's image."
        elif (full := _full_disk(error)) is not None:
            told = f"The disk is full ({full}): free some space, then run the same command again."
        else:
            raise
        from modkernel.flows.cli._output import plain

        print(f"modkernel: {plain(told)}", file=sys.stderr)
        sys.exit(1)


def _full_disk(error: Exception) -> str | None:
    """What lies on the full disk that an error came from, if one did.

    A server of ours that cannot write answers 500: what it wants to write to is the home.
    """
    from modkernel.errors import SettingsError
    from modkernel.registry import Settings
    from modkernel.system.files import disk_is_full, has_no_room

    with suppress(SettingsError):
        home = Settings().home
        if disk_is_full(error):
            # Of a copy, the second is where it was to go.
            names = (getattr(error, name, None) for name in ("filename2", "filename"))
            return str(next(filter(None, names), home))
        if has_no_room(home):
            return str(home)
    return None
