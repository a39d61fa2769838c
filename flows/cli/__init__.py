"""The command line `modkernel`."""

from __future__ import annotations

import os
import signal
import sys

PRIVATE = 0o077
"""Umask of all commands and their children: databases, weights and logs are their user's alone."""

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit.

    With 0 when it is done, 1 for a typed error, 2 for wrong usage, and 128 + its number after a
    signal (130 after Ctrl-C). What modkernel raises on purpose becomes its one sentence on stderr,
    with no traceback.
    """
    os.umask(os.umask(PRIVATE) | PRIVATE)
    try:
        from modkernel.flows.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        from modkernel.errors import ModkernelError

        if not isinstance(error, ModkernelError):
            raise
        print(f"modkernel: {error}", file=sys.stderr)
        sys.exit(1)
