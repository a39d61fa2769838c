"""`team`, `worker`: modules of one flow on many machines."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._output import err

if TYPE_CHECKING:
    from modkernel.registry import Settings

team = typer.Typer(help="One flow over all the machines that a team has.", no_args_is_help=True)


class PoolName(StrEnum):
    """The pools that a machine may serve."""

    FLOWS = "flows"
    GPU = "gpu"


@team.command()
def init() -> None:
    """Make the work pools, the deployments and the automations on the Prefect server in use.

    Run again, it makes what is missing and brings the forms up to date; what people set in
    Prefect stays as it is.
    """
    _prepare("set up a team")
    from modkernel.flows.deployments.serve import make_team

    for line in make_team():
        err.print(line, soft_wrap=True)


def worker(
    pools: Annotated[
        list[PoolName] | None,
        typer.Argument(help="What to serve: flows (they only wait), gpu (modules). Both if none."),
    ] = None,
) -> None:
    """Work for a team on this machine, one worker a device, until stopped.

    It takes the runs of the Prefect server of PREFECT_API_URL that this machine can do: by their
    version, the memory of its devices, and the data that it has. Stopped, it has the runs in hand
    write a checkpoint, and other machines go on.
    """
    # Of the first run after a pause; Prefect's own 10 s would be a tenth of a minute's module.
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "5")
    # What Prefect answers while its database starts again: its client then asks again.
    os.environ.setdefault("PREFECT_CLIENT_RETRY_EXTRA_CODES", "500,502,504")
    settings = _prepare("work for a team")
    from modkernel.system.forked import importing_without_threads

    with importing_without_threads():  # It forks.
        from modkernel.flows.deployments.serve import serve_team
    from modkernel.flows.servers.work_pools import FLOWS, GPU, Pool

    names: dict[PoolName, Pool] = {PoolName.FLOWS: FLOWS, PoolName.GPU: GPU}
    chosen = [names[pool] for pool in pools or PoolName]
    serve_team(settings, chosen, lambda line: err.print(line, soft_wrap=True))


def _prepare(what: str) -> Settings:
    from modkernel.errors import SettingsError
    from modkernel.flows.servers.prefect_env import await_prefect, prepare_prefect
    from modkernel.registry import Settings

    settings = Settings()
    prepare_prefect(settings)
    if "PREFECT_API_URL" not in os.environ:
        raise SettingsError(
            f"There is no Prefect server to {what} with: set PREFECT_API_URL to the team's, or "
            "start one on this machine with 'modkernel up'."
        )
    await_prefect(lambda line: err.print(line, soft_wrap=True))
    return settings
