"""`deploy`, `deployments`, `undeploy`: spec files that run by schedule or by one click."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._output import Json, err, out, print_json, print_table

if TYPE_CHECKING:
    from modkernel.flows.deployments.of_specs.records import Deployed

MINUTE = "%Y-%m-%d %H:%M %Z"


def deploy(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC.yaml",
            help="Spec file of a network, a search, a study or a composition (name, hidden: "
            "NAME@ALIAS, output); see examples/.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the deployment; the spec's own name if left out.")
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(
            metavar="'M H D M W'", help="When it runs: '0 3 * * *' is every day at 3 o'clock."
        ),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Of --cron, as Europe/Berlin; this machine's if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a spec file a deployment: it runs by schedule, or by one click, with nothing to type.

    Called again, it brings the deployment up to the file; schedules set in Prefect stay.

    --json: {name, flow, description, schedules, paused, next_run, id, last_run,
    last_state}.
    """
    from modkernel.errors import SpecError
    from modkernel.flows.servers.up import without_user

    if timezone is not None and cron is None:
        raise SpecError("--timezone is the time zone of --cron: give both, or neither.")
    with _server():
        from modkernel.flows.deployments.of_specs.records import cron_schedule
        from modkernel.flows.deployments.of_specs.records import deploy as make
        from modkernel.flows.deployments.serve import local_timezone

        schedule = None if cron is None else cron_schedule(cron, timezone or local_timezone())
        made = make(spec, name, schedule)
    if json:
        print_json(asdict(made))
        return
    out.print(made.description, soft_wrap=True)
    out.print(f"Deployed as '{made.name}'; runs: {_when(made)}", soft_wrap=True)
    page = without_user(os.environ["PREFECT_API_URL"]).removesuffix("/api")
    out.print(
        f"Run it by hand or change its schedule: {page}/v2/deployments/deployment/{made.id}",
        soft_wrap=True,
    )


def deployments(json: Json = False) -> None:
    """List the deployed spec files and when they run.

    --json: a list of {name, flow, description, schedules, paused, next_run, id, last_run,
    last_state}.
    """
    with _server():
        from modkernel.flows.deployments.of_specs.records import deployed

        found = deployed()
    if json:
        print_json([asdict(one) for one in found])
    elif not found:
        err.print("No spec is deployed: 'modkernel deploy SPEC.yaml' makes a deployment.")
    else:
        columns = ("name", "flow", "runs", "what")
        print_table(
            "", columns, [(one.name, one.flow, _when(one), one.description) for one in found]
        )


def undeploy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As 'modkernel deployments' lists.")],
) -> None:
    """Remove a deployed spec with its schedules; runs that have begun go on."""
    with _server():
        from modkernel.flows.deployments.of_specs.records import undeploy as remove

        flow = remove(name)
    err.print(f"Removed the deployment {flow}/{name}.")


@contextmanager
def _server() -> Iterator[None]:
    """Within the block there is a Prefect server that keeps deployments.

    Raises:
        ServiceError: there is none, or it does not let us in.
    """
    from modkernel.errors import ServiceError
    from modkernel.flows.servers.prefect_env import prepare_prefect, require_prefect
    from modkernel.registry import Settings

    prepare_prefect(Settings(), quiet=True)
    if "PREFECT_API_URL" not in os.environ:
        raise ServiceError(
            "No Prefect server runs that could keep deployments: start 'modkernel up' in another "
            "terminal, or set PREFECT_API_URL to the server that 'modkernel serve' serves to."
        )
    require_prefect()
    yield


def _when(made: Deployed) -> str:
    told = "; ".join(made.schedules) or "by hand"
    if made.schedules and made.paused:
        told = f"{told} (paused)"
    elif made.schedules and made.next_run is not None:
        told = f"{told}, next {made.next_run:{MINUTE}}"
    if made.last_run is not None and made.last_state is not None:
        told = f"{told}, last {made.last_state.lower()} {made.last_run:{MINUTE}}"
    return told
