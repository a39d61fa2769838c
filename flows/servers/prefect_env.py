"""Prefect's surroundings, set before Prefect is imported: it reads them once, when it loads.

What is imported already reads those again that say which server is used, and not those of its log.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from urllib.error import URLError
from urllib.parse import urlsplit

from modkernel.errors import ServiceError
from modkernel.flows import SURROUNDINGS
from modkernel.flows.servers.prefect_password import (
    OWN_SERVER,
    basic_authorization,
    prefect_password,
)
from modkernel.flows.servers.reach import trust
from modkernel.flows.servers.supervisor import POLL_SECONDS, START_SECONDS
from modkernel.flows.servers.up import running, without_user
from modkernel.registry import Settings
from modkernel.system.proxies import ask_directly

QUIET = {
    # The terminal belongs to the command; the flow's own log still reaches Prefect.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FLOW_RUNS_LEVEL": "CRITICAL",
}

CLIENT = "PREFECT_API_AUTH_STRING"
"""Where Prefect's clients read the password that they send."""


def prepare_prefect(settings: Settings, quiet: bool = False) -> None:
    """Choose the Prefect server that flows of this process use, through the environment.

    It is the one that `PREFECT_API_URL` names; else the one that `modkernel up` runs for this
    home; else a temporary one that Prefect starts with the first flow. Both of the last keep
    their records in HOME/prefect, so a run is seen in the UI later whichever it was, and ask for
    the home's password, which no other server is sent. What was set by the user stays.

    Args:
        settings: of the home.
        quiet: keep Prefect's log away from the terminal.

    Raises:
        SettingsError: the home cannot be made or written to, or its password cannot be read.
    """
    for name, value in (SURROUNDINGS | (QUIET if quiet else {})).items():
        os.environ.setdefault(name, value)
    server = running(settings)
    ours = None if server is None else server.prefect_api
    if os.environ.get("PREFECT_API_URL", ours) != ours:
        return
    settings.ensure_home()
    folder = settings.home / "prefect"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(folder))
    if server is not None:
        os.environ["PREFECT_API_URL"] = server.prefect_api
        ask_directly(os.environ, [urlsplit(server.prefect_url).hostname or ""])
        for name, value in trust(server.certificate).items():
            os.environ.setdefault(name, value)
        os.environ.setdefault(CLIENT, prefect_password(settings))
    else:
        _prepare_temporary(settings)
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _prepare_temporary(settings: Settings) -> None:
    """The password for the server that Prefect starts itself, and for none besides."""
    before = dict(os.environ)
    os.environ.setdefault(CLIENT, prefect_password(settings))
    os.environ.setdefault(OWN_SERVER, os.environ[CLIENT])
    # Here, so that all of the above is seen by it.
    from prefect.settings import Settings as PrefectSettings

    # A prefect.toml, .env or pyproject.toml of the working folder may name somebody's server.
    if PrefectSettings().api.url:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


class _NotThereError(ServiceError):
    """Nothing listens at the server's address."""


def require_prefect() -> None:
    """Check that the Prefect server of `PREFECT_API_URL`, if one is named, is there and lets us in.

    Raises:
        ServiceError: there is nothing at its address, or it asks for another password.
    """
    if "PREFECT_API_URL" not in os.environ:
        return
    url = without_user(os.environ["PREFECT_API_URL"])
    try:
        request = urllib.request.Request(f"{url}/admin/version")
        if CLIENT in os.environ:
            # Not where the server may redirect to.
            header = basic_authorization(os.environ[CLIENT])
            request.add_unredirected_header("Authorization", header)
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401 and not _logs_in_otherwise():
            wrong = f"refuses {CLIENT}" if CLIENT in os.environ else "asks for a password"
            raise ServiceError(
                f"The Prefect server at {url} {wrong}: set {CLIENT} to the server's "
                f"{OWN_SERVER} (of 'modkernel up': what 'prefect-password' in its home holds), "
                "or unset PREFECT_API_URL."
            ) from None
    except URLError as error:
        # Whatever else is wrong (a certificate, ...), Prefect's own client knows better.
        if isinstance(error.reason, ConnectionError | socket.gaierror):
            raise _NotThereError(
                f"The Prefect server at {url} does not answer: {error.reason}. Start it, "
                "or correct or unset PREFECT_API_URL."
            ) from None
    except (OSError, ValueError, HTTPException):
        return


def await_prefect(say: Callable[[str], None], seconds: float = START_SECONDS) -> None:
    """`require_prefect`, of a server that may still be starting, as after a boot.

    Args:
        say: is told once that it waits.
        seconds: that are waited at most.

    Raises:
        ServiceError: see `require_prefect`.
    """
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            return require_prefect()
        except _NotThereError:
            if time.monotonic() > deadline:
                raise
        if not told:
            url = without_user(os.environ["PREFECT_API_URL"])
            say(f"Waiting for the Prefect server at {url}, for {seconds:.0f} s at most ...")
            told = True
        time.sleep(POLL_SECONDS)


def _logs_in_otherwise() -> bool:
    """Whether Prefect's client would send more than the environment's password."""
    from prefect.settings import Settings as PrefectSettings

    known = PrefectSettings()
    return bool(
        "@" in urlsplit(os.environ["PREFECT_API_URL"]).netloc
        or known.api.key
        or known.client.custom_headers
        or (known.api.auth_string and CLIENT not in os.environ)
    )
