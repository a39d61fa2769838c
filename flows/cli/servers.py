"""`up`, `serve`: the servers, and serving the deployments."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from modkernel.flows.cli._output import err


def up(
    host: Annotated[
        str,
        typer.Option(help="Name or address of this machine to listen on; 0.0.0.0 is all of them."),
    ] = "127.0.0.1",
) -> None:
    """Start MLflow's and Prefect's servers and serve all deployments, until Ctrl-C.

    Both listen on this machine only, unless --host lets others in, who then need the logins of
    both servers. Ports: MODKERNEL_MLFLOW_PORT and MODKERNEL_PREFECT_PORT. TLS:
    MODKERNEL_TLS_CERTIFICATE and MODKERNEL_TLS_KEY.
    Prefect's page asks for a password once, which is told on a terminal and in the home's file
    prefect-password. Other commands of the same home find it themselves.
    """
    from modkernel.flows.servers.up import up as run_up
    from modkernel.registry import Settings

    # A log file may be read by others, now or later.
    secretly = sys.stderr.isatty()
    run_up(Settings(), lambda line: err.print(line, soft_wrap=True), secretly, host)


def prepare_home(
    served: Annotated[
        bool, typer.Option("--served", help="MLflow's is that of a server for other machines.")
    ] = False,
) -> None:
    """Make or check the home's databases, for `up` in a process of its own."""
    from modkernel.flows.servers.up import prepare_stores
    from modkernel.registry import Settings

    prepare_stores(Settings(), served)


def serve() -> None:
    """Serve all deployments to the Prefect server of PREFECT_API_URL, until stopped.

    The server may start later: it is waited for, for three minutes.
    """
    from modkernel.errors import SettingsError
    from modkernel.flows.servers.prefect_env import await_prefect, prepare_prefect
    from modkernel.registry import Settings
    from modkernel.system.forked import importing_without_threads

    prepare_prefect(Settings())
    if "PREFECT_API_URL" not in os.environ:
        raise SettingsError(
            "There is no Prefect server to serve to: set PREFECT_API_URL to one, or use "
            "'modkernel up', which starts one and serves to it."
        )
    with importing_without_threads():  # It forks.
        from modkernel.flows.deployments.serve import serve_all

    await_prefect(lambda line: err.print(line, soft_wrap=True))
    serve_all()
