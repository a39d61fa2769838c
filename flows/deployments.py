"""The deployments: every flow by name, with a form in Prefect's UI that a person can fill."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from prefect.exceptions import TerminationSignal
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from tzlocal import get_localzone_name

from modkernel.flows.forms.follow import StoredNow, follow, offer
from modkernel.flows.forms.modules import compose_network, measure_modules, train_module
from modkernel.flows.forms.network import retrain_network, train_baseline, train_network
from modkernel.flows.forms.search import search_modules
from modkernel.flows.forms.study import transfer_study
from modkernel.flows.maintenance import HOUR, maintenance
from modkernel.flows.servers.automations import install_automations
from modkernel.flows.servers.registration import KeptDeployment, skip_missed_runs
from modkernel.flows.spec_deployments.records import serve_deployed
from modkernel.registry import StoredNames

CONCURRENT_RUNS = 8
"""Flows in hand at once; how many of them compute is up to the device slots."""


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


def serve_all() -> None:
    """Serve all deployments to the Prefect server in use, until stopped.

    What people set in Prefect stays as it is, the automations for crashed runs too. Of the runs
    of a schedule that were due while nothing served, the newest is made up for.
    """
    # Prefect's `serve` takes up nothing once it runs.
    with suppress(KeyboardInterrupt, TerminationSignal):
        asyncio.run(_serve_all())


async def _serve_all() -> None:
    say = get_logger(__name__).info
    stored = StoredNow(say)
    names = await asyncio.to_thread(stored.first)
    made = deployments(names)
    await skip_missed_runs([deployment.full_name for deployment in made])
    await install_automations([deployment.flow_name or "" for deployment in made])
    runner = Runner(pause_on_shutdown=False, limit=CONCURRENT_RUNS)
    for deployment in made:
        await runner.aadd_deployment(deployment)
    looking = [
        asyncio.create_task(serve_deployed(runner, say)),
        asyncio.create_task(follow(made, stored, names, say)),
    ]
    try:
        await runner.start()
    finally:
        for task in looking:
            task.cancel()


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
