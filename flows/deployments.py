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

from modkernel.flows.compose_network import compose_network
from modkernel.flows.maintenance import HOUR, maintenance
from modkernel.flows.measure_modules import measure_modules
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.search.score import score_names
from modkernel.flows.search.spec import demo_search
from modkernel.flows.search_modules import search_modules
from modkernel.flows.servers.automations import install_automations
from modkernel.flows.servers.registration import KeptDeployment, skip_missed_runs
from modkernel.flows.spec_deployments.records import serve_deployed
from modkernel.flows.specs.demo import demo_spec
from modkernel.flows.study.spec import demo_study
from modkernel.flows.train_baseline import train_baseline
from modkernel.flows.train_module import train_module
from modkernel.flows.train_network import train_network
from modkernel.flows.transfer_study import transfer_study
from modkernel.kernels import AUTO, KERNELS
from modkernel.objectives.table import OBJECTIVES
from modkernel.spec import OutputSpec, Spec

CONCURRENT_RUNS = 8
"""Flows in hand at once; how many of them compute is up to the device slots."""


def deployments() -> tuple[KeptDeployment, ...]:
    """All deployments, each named like its flow; forms are filled in with the digits example."""
    digits = demo_spec()
    first = digits.hidden[0]
    return (
        _deployment(
            train_network,
            "Train a network module by module. Every module is stored and can be reused; what is "
            "stored already is not trained again.",
            {"spec": _json(digits)},
        ),
        _deployment(
            train_module,
            "Train one hidden module on a stored hidden module, or on the data.",
            {"name": "digits.first", "hidden": _json(first), "dataset": _json(digits.dataset)},
        ),
        _deployment(
            compose_network,
            "Make a network of a stored hidden module, with all that it stands on, and train a "
            "new output module.",
            {
                "name": "digits-composed",
                "hidden": "digits.hidden-2",
                "output": _json(OutputSpec(labels_per_class=1, draws=20)),
            },
        ),
        _deployment(
            train_baseline,
            "Train the same network end to end, to compare with.",
            {"spec": _json(digits)},
        ),
        _deployment(
            retrain_network,
            "Keep a stored network's modules before a stage, and train again what stands on them.",
            {"network": digits.name, "stage": "output"},
        ),
        _deployment(
            search_modules,
            "Try several modules for each stage of a network and go on with the best ones: the "
            "cost is the sum over the stages, not the product.",
            {"spec": _json(demo_search())},
        ),
        _deployment(
            transfer_study,
            "Train a module for each of several tasks, and compare what the scores say of all of "
            "them for all tasks with how well they do.",
            {"spec": _json(demo_study())},
        ),
        _deployment(
            measure_modules,
            "Compute the class moments of stored modules on a data set, so that they can be "
            "ranked for any task made of its classes.",
            {"dataset": _json(digits.dataset)},
        ),
        _deployment(
            maintenance,
            "Record the aliases that people set in MLflow, check every stored byte, and finish or "
            "undo what was left half-stored.",
            {},
            Cron(f"0 {HOUR} * * *", timezone=local_timezone()),
        ),
    )


def serve_all() -> None:
    """Serve all deployments to the Prefect server in use, until stopped.

    What people set in Prefect stays as it is, the automations for crashed runs too. Of the runs
    of a schedule that were due while nothing served, the newest is made up for.
    """
    # Prefect's `serve` takes up nothing once it runs.
    with suppress(KeyboardInterrupt, TerminationSignal):
        asyncio.run(_serve_all())


async def _serve_all() -> None:
    made = deployments()
    await skip_missed_runs([deployment.full_name for deployment in made])
    await install_automations([deployment.flow_name or "" for deployment in made])
    runner = Runner(pause_on_shutdown=False, limit=CONCURRENT_RUNS)
    for deployment in made:
        await runner.aadd_deployment(deployment)
    looking = asyncio.create_task(serve_deployed(runner, get_logger(__name__).info))
    try:
        await runner.start()
    finally:
        looking.cancel()


def local_timezone() -> str:
    """Name of this machine's time zone; UTC where it has none with a name."""
    try:
        return get_localzone_name() or "UTC"
    except ZoneInfoNotFoundError:
        return "UTC"


def _deployment(
    run: Flow[..., Any],
    description: str,
    parameters: dict[str, Any],
    schedule: Schedule | None = None,
) -> KeptDeployment:
    made = KeptDeployment.of(run, run.name, description, parameters, schedule)
    made.offer(
        {
            ("KernelSpec", "name"): (AUTO, *KERNELS),
            ("ObjectiveSpec", "name"): OBJECTIVES,
            ("SearchSpec", "score"): score_names(),
        }
    )
    return made


def _json(spec: Spec) -> dict[str, Any]:
    return spec.model_dump(mode="json")
