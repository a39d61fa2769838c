"""Prefect's surroundings, set before Prefect is imported: it reads them once, when it loads."""

from __future__ import annotations

import os

from flows.up import running
from registry import Settings

QUIET = {
    # The terminal belongs to the command; the flow's own log still reaches Prefect.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FLOW_RUNS_LEVEL": "CRITICAL",
}


def prepare_prefect(settings: Settings, quiet: bool = False) -> None:
    """Choose the Prefect server that flows of this process use, through the environment.

    It is the one that `PREFECT_API_URL` names; else the one that `modkernel up` runs for this
    home; else a temporary one that Prefect starts with the first flow. Both of the last keep
    their records in HOME/prefect, so a run is seen in the UI later whichever it was. What was
    set by the user stays.

    Args:
        settings: of the home.
        quiet: keep Prefect's log away from the terminal.

    Raises:
        SettingsError: the home cannot be made or written to.
    """
    chosen = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # A first start makes its database, which takes 12 to 19 s on two cores.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        **(QUIET if quiet else {}),
    }
    if "PREFECT_API_URL" not in os.environ:
        settings.ensure_home()
        folder = settings.home / "prefect"
        folder.mkdir(exist_ok=True)
        chosen["PREFECT_HOME"] = str(folder)
        server = running(settings)
        if server is not None:
            chosen["PREFECT_API_URL"] = server.prefect_api
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
