"""The deployments: every flow by name, with a form in Prefect's UI that a person can fill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, nullcontext, suppress
from functools import partial
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError, TerminationSignal
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.schedules import Cron, Schedule
from tzlocal import get_localzone_name

from modkernel.errors import SettingsError
from modkernel.flows.deployments.forms.follow import StoredNow, follow, offer
from modkernel.flows.deployments.forms.modules import (
    compose_network,
    measure_modules,
    promote_module,
    stitch_modules,
    train_module,
)
from modkernel.flows.deployments.forms.network import retrain_network, train_baseline, train_network
from modkernel.flows.deployments.forms.search import search_modules
from modkernel.flows.deployments.forms.study import transfer_study
from modkernel.flows.deployments.of_specs.records import BY_NAME, serve_deployed
from modkernel.flows.maintenance import HOUR, maintenance
from modkernel.flows.module_work import module_work
from modkernel.flows.servers.automations import install_automations
from modkernel.flows.servers.engine_server import EngineServer
from modkernel.flows.servers.forking_runner import POLL_SECONDS, ForkingRunner, look_after
from modkernel.flows.servers.registration import (
    KeptDeployment,
    deployments_of_specs,
    skip_missed_runs,
)
from modkernel.flows.servers.work_pools import FLOWS, GPU, Pool, make_pools, missing_pools
from modkernel.flows.team.serve import check_stores, serve_pools
from modkernel.registry import Settings, StoredNames

CONCURRENT_RUNS = 8
"""Flows in hand at once; how many of them compute is up to the device slots."""
TEAM_SECONDS = 10.0
"""How often it is looked whether the server has a team by now."""


def deployments(names: StoredNames | None = None) -> tuple[KeptDeployment, ...]:
    """All deployments, each named like its flow; forms are filled in with the digits example.

    Args:
        names: what is stored, to choose from; any text is allowed where that is not known.
    """
    made = (
        _deployment(
            train_network,
            "Train a network module by module. Every module is stored and can be reused; what is "
            "stored already is not trained again.",
        ),
        _deployment(
            train_module,
            "Train one hidden module on a stored hidden module, or on the data.",
        ),
        _deployment(
            compose_network,
            "Make a network of a stored hidden module, with all that it stands on, and train a "
            "new output module.",
        ),
        _deployment(
            stitch_modules,
            "Set a copy of a stored hidden module on one that it was not trained on, by a small "
            "map that is fitted to examples without labels.",
        ),
        _deployment(
            promote_module,
            "Compare a stored hidden module with the one that an alias means, and ask a person to "
            "decide: the run waits until it is resumed.",
        ),
        _deployment(
            train_baseline,
            "Train the same network end to end, to compare with.",
        ),
        _deployment(
            retrain_network,
            "Keep a stored network's modules before a stage, and train again what stands on them.",
        ),
        _deployment(
            search_modules,
            "Try several modules for each stage of a network and go on with the best ones: the "
            "cost is the sum over the stages, not the product.",
        ),
        _deployment(
            transfer_study,
            "Train a module for each of several tasks, and compare what the scores say of all of "
            "them for all tasks with how well they do.",
        ),
        _deployment(
            measure_modules,
            "Compute the class moments of stored modules on a data set, so that they can be "
            "ranked for any task made of its classes.",
        ),
        _deployment(
            maintenance,
            "Record the aliases that people set in MLflow, check every stored byte, and finish or "
            "undo what was left half-stored.",
            Cron(f"0 {HOUR} * * *", timezone=local_timezone()),
        ),
    )
    offer(made, names)
    return made


def team_deployment() -> KeptDeployment:
    """The deployment whose runs are modules of other flows."""
    return KeptDeployment.of(
        module_work,
        module_work.name,
        "Trains or measures one module for another flow. That flow starts it: it needs nothing of "
        "you here.",
        {},
        pool=GPU,
    )


def serve_all() -> None:
    """Serve all deployments to the Prefect server in use, until stopped.

    What people set in Prefect stays as it is, the automations for crashed runs too. Of the runs
    of a schedule that were due while nothing served, the newest is made up for. Where the server
    has a team, this is one of its machines, for flows; where it gets one later, once the runs that
    are in hand by then have ended.
    """
    # First: it is a fork of this process, which has threads later.
    with closing(EngineServer()) as engines:
        has_team = asyncio.run(_has_team())
        if not has_team:
            # Prefect's `serve` takes up nothing once it runs.
            with suppress(KeyboardInterrupt, TerminationSignal):
                has_team = asyncio.run(_serve_all(engines))
        if has_team:
            _serve_team(engines, Settings(), (FLOWS,), get_logger(__name__).info)


def serve_team(settings: Settings, pools: Sequence[Pool], say: Callable[[str], None]) -> None:
    """Work for the team of the Prefect server in use, until stopped; see `serve_pools`.

    A machine that serves flows keeps the forms as the registry is.
    """
    with closing(EngineServer()) as engines:
        _serve_team(engines, settings, pools, say)


def _serve_team(
    engines: EngineServer, settings: Settings, pools: Sequence[Pool], say: Callable[[str], None]
) -> None:
    beside = partial(_kept_forms, [team_deployment()]) if FLOWS in pools else nullcontext
    serve_pools(engines, settings, pools, say, beside)


def make_team() -> list[str]:
    """Make a team on the Prefect server in use: pools, deployments, automations; what was made.

    What is there stays as people set it, but for what the code decides.
    """
    return asyncio.run(_make_team())


async def _make_team() -> list[str]:
    async with get_client() as client:
        made = await make_pools(client)
    lines = [f"Made work pool '{pool}'." for pool in made] or ["The work pools are there already."]
    async with _kept_forms([team_deployment()]):
        pass
    specs = await deployments_of_specs(list(BY_NAME))
    for flow, kept in specs:
        await KeptDeployment.of_kept(BY_NAME[flow], kept).aapply()
    lines.append(
        "Deployments and automations are up to date. Now run 'modkernel worker' on every machine."
    )
    return lines


async def _has_team() -> bool:
    async with get_client() as client:
        return not await missing_pools(client)


@asynccontextmanager
async def _kept_forms(more: Sequence[KeptDeployment]) -> AsyncIterator[list[KeptDeployment]]:
    """Within the block the deployments are there, and their forms offer what the registry has.

    Args:
        more: deployments beside those that people start.
    """
    say = get_logger(__name__).info
    stored = StoredNow(say)
    names = await asyncio.to_thread(stored.first)
    made = [*deployments(names), *more]
    await skip_missed_runs([deployment.full_name for deployment in made])
    # A module's run too, though there may be no team yet: what is there is not changed again.
    flows = {*(one.flow_name or "" for one in made), module_work.name}
    await install_automations(sorted(flows))
    for deployment in made:
        await deployment.aapply()
    following = asyncio.create_task(follow(made, stored, names, say))
    try:
        yield made
    finally:
        stored.stop()
        following.cancel()


async def _serve_all(engines: EngineServer) -> bool:
    """Serve without a team; whether there is one by now, of which this is to be a machine."""
    async with _kept_forms(()) as made:
        runner = ForkingRunner(
            pause_on_shutdown=False, limit=CONCURRENT_RUNS, query_seconds=POLL_SECONDS
        )
        for deployment in made:
            await runner.aadd_deployment(deployment)
        leaving = asyncio.create_task(_leave_to_team(runner))
        beside = [
            asyncio.create_task(look_after(engines)),
            asyncio.create_task(serve_deployed(runner, get_logger(__name__).info)),
            leaving,
        ]
        try:
            await runner.start()
        finally:
            for task in beside:
                task.cancel()
        return runner.has_left


async def _leave_to_team(runner: ForkingRunner) -> None:
    """Stop serving once the server has a team, and the runs in hand have ended.

    Its workers have the data and the devices that a run needs; this process may not.
    """
    async with get_client() as client:
        lacks = True
        while lacks:
            await asyncio.sleep(TEAM_SECONDS)
            with suppress(httpx.HTTPError, PrefectHTTPStatusError):  # It may be away for a while.
                lacks = bool(await missing_pools(client))
    try:
        check_stores(Settings())
    except SettingsError as error:
        return get_logger(__name__).warning("The server has a team by now. %s", error)
    runner.take_no_more()
    get_logger(__name__).info(
        "The server has a team by now: further runs are for its workers, and this is one of them "
        "once the runs in hand have ended."
    )
    while runner.has_runs:
        await asyncio.sleep(1)
    await runner.leave()


def local_timezone() -> str:
    """Name of this machine's time zone; UTC where it has none with a name."""
    try:
        return get_localzone_name() or "UTC"
    except ZoneInfoNotFoundError:
        return "UTC"


def _deployment(
    run: Flow[..., Any], description: str, schedule: Schedule | None = None
) -> KeptDeployment:
    # The forms' own defaults fill them in, so that a schedule which sets one field keeps the rest.
    return KeptDeployment.of(run, run.name, description, {}, schedule)
