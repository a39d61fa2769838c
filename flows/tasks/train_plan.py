"""Train the steps of a plan one after the other, and record the network that they make."""

from __future__ import annotations

from typing import Any

from prefect.futures import PrefectFuture

from modkernel.flows.plans.steps import TO_BE_TRAINED, Below, Plan, stored_already
from modkernel.flows.runtime.events import Planned, emit
from modkernel.flows.runtime.mlflow_runs import is_recorded, network_run
from modkernel.flows.runtime.results import ModuleResult, NetworkResult
from modkernel.flows.tasks.record import record_network
from modkernel.flows.tasks.train import train_stored_module
from modkernel.flows.tasks.train_together import group_label, train_stored_group
from modkernel.registry import Registry
from modkernel.spec import NetworkSpec


def train_network_of(
    registry: Registry,
    name: str,
    plan: Plan,
    recipe: NetworkSpec | str,
    began: float,
) -> NetworkResult:
    """Train what a plan still lacks, and record the network of what it keeps and trains.

    Args:
        registry: keeps both.
        name: of the network.
        plan: its modules.
        recipe: the network's spec, or words that tell what it is made from; see `network_run`.
        began: `time.perf_counter()` at the flow's start.
    """
    registry.networks.check_names(name, plan.names)
    emit(Planned(plan.names))

    def done() -> bool:
        return is_done(registry, name, plan)

    kept = [ModuleResult.of(record, registry.modules.report(record), True) for record in plan.kept]
    dataset = plan.steps[-1].dataset.name
    first = plan.steps[0].spec_on(plan.below)
    with network_run(registry, name, dataset, first.digest(), recipe, done) as run_id:
        modules = [*kept, *train_in_order(plan, run_id)]
        spec = recipe if isinstance(recipe, NetworkSpec) else None
        return record_network(registry, name, modules, run_id, began, spec)


def train_in_order(plan: Plan, run_id: str | None) -> list[ModuleResult]:
    """Train the steps of a plan, each on the one before it; what is stored already is reused.

    Those that are trained in one pass are one task.

    Args:
        plan: the modules.
        run_id: MLflow run of the network.
    """
    tasks: list[PrefectFuture[Any]] = []
    below, group, count = plan.below, plan.group, plan.in_one_pass
    if group is not None:
        first, label = plan.steps[0], group_label(plan.names[:count])
        task: PrefectFuture[Any] = train_stored_group.with_options(name=label).submit(
            label, plan.names[:count], group, first.dataset, first.pairs, run_id
        )
        tasks.append(task)
        below = Below.of_module(TO_BE_TRAINED, group.modules[-1])
    for step in plan.steps[count:]:
        module = step.spec_on(below)
        # All at once, so that a run's page shows from its start what is to come, and in which
        # order; Prefect starts each when the one before it is done, and hands over its result.
        standing_on: Any = tasks[-1] if tasks else None
        task = train_stored_module.with_options(name=step.name).submit(
            step.name,
            module,
            step.dataset,
            step.pairs,
            run_id,
            labels=step.labels,
            below=standing_on,
        )
        tasks.append(task)
        below = Below.of_module(TO_BE_TRAINED, module)
    results = [task.result() for task in tasks]
    return [*results.pop(0), *results] if group is not None else results


def is_done(registry: Registry, name: str, plan: Plan) -> bool:
    """Whether all modules of a plan are stored, and a network of just these under its name."""
    ready = stored_already(registry, plan)
    return len(ready) == len(plan.steps) and is_recorded(registry, name, [*plan.kept, *ready])
