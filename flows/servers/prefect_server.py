"""Prefect's server as we run it: what `prefect server start` does, for few Hosts and many writers.

Prefect answers under any Host name, and has no setting against it. A web page could then reach
the server under a name of its own that it makes point to this machine (DNS rebinding), and the
browser would take both for one site. And on SQLite it refuses what comes while another writes: see
`sqlite_turns`.

    python -m modkernel.flows.servers.prefect_server [HOST NAME ...] [--ssl-certfile FILE ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp

from modkernel.system.collector import collect_seldom

HOSTS = ["127.0.0.1", "localhost", "[::1]"]
"""Names of this machine that no foreign page can take. Any port: it may be forwarded (ssh -L)."""


def guarded_app(hosts: Sequence[str] = ()) -> ASGIApp:
    """Prefect's whole server, which answers 400 to every other Host, websockets included.

    Around the server, not in it: its automations ask it under a Host name of their own, in this
    process.

    Args:
        hosts: names of this machine under which others ask it.
    """
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from modkernel.registry.settings.rights import close_to_others

    app = create_app(final=True)
    if static := get_current_settings().server.ui.static_directory:
        close_to_others(Path(static))  # Prefect copies its page with the folders' old modes.
    return TrustedHostMiddleware(app, allowed_hosts=[*HOSTS, *hosts], www_redirect=False)


def main() -> None:
    """Run the server of Prefect's settings in force until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("hosts", nargs="*")
    parser.add_argument("--ssl-certfile")
    parser.add_argument("--ssl-keyfile")
    given = parser.parse_args()
    collect_seldom()
    import uvicorn
    from prefect.settings import get_current_settings

    from modkernel.flows.servers.sqlite_turns import transactions_in_turn

    server = get_current_settings().server
    with transactions_in_turn():
        uvicorn.run(
            guarded_app(given.hosts),
            ssl_certfile=given.ssl_certfile,
            ssl_keyfile=given.ssl_keyfile,
            host=server.api.host,
            port=server.api.port,
            timeout_keep_alive=server.api.keepalive_timeout,
            ws_ping_interval=server.api.websocket_ping_interval,
            ws_ping_timeout=server.api.websocket_ping_timeout,
            log_level=server.logging_level.lower(),
        )


if __name__ == "__main__":
    main()
