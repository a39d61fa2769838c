"""The command line `modkernel`."""

from __future__ import annotations

import os
import sys

PRIVATE = 0o077
"""Umask of all commands and their children: databases, weights and logs are their user's alone."""

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 done, 1 a typed error, 2 wrong usage, 130 Ctrl-C.

    What modkernel raises on purpose becomes its one sentence on stderr, with no traceback.
    """
    os.umask(os.umask(PRIVATE) | PRIVATE)
    try:
        from modkernel.flows.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from modkernel.errors import ModkernelError

        if not isinstance(error, ModkernelError):
            raise
        print(f"modkernel: {error}", file=sys.stderr)
        sys.exit(1)
