"""Prefect's surroundings, set before Prefect is imported: it reads them once, when it loads."""

from __future__ import annotations

import os
import socket
import urllib.request
from http.client import HTTPException
from urllib.error import URLError

from modkernel.errors import ServiceError
from modkernel.flows import SURROUNDINGS
from modkernel.flows.servers.up import running, without_user
from modkernel.registry import Settings

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
    chosen = SURROUNDINGS | (QUIET if quiet else {})
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


def require_prefect() -> None:
    """See that the Prefect server of `PREFECT_API_URL`, if one is named, is there at all.

    Raises:
        ServiceError: there is nothing at its address.
    """
    if "PREFECT_API_URL" not in os.environ:
        return
    url = without_user(os.environ["PREFECT_API_URL"])
    try:
        urllib.request.urlopen(f"{url}/health", timeout=10).close()
    except URLError as error:
        # Whatever else is wrong (a refusal, a certificate), Prefect's own client knows better.
        if isinstance(error.reason, ConnectionError | socket.gaierror):
            raise ServiceError(
                f"The Prefect server at {url} does not answer: {error.reason}. Start it, "
                "or correct or unset PREFECT_API_URL."
            ) from None
    except (OSError, ValueError, HTTPException):
        return
