"""The command line `modkernel`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 done, 1 a typed error, 2 wrong usage, 130 Ctrl-C.

    What modkernel raises on purpose becomes its one sentence on stderr, with no traceback.
    """
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
