"""The flow that trains a module per task and compares scores of them with the ground truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from prefect.futures import PrefectFuture

from modkernel.flows.runtime.events import Planned, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.results import ModuleResult
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.study.files import files_of, write_files
from modkernel.flows.study.plan import plan_study
from modkernel.flows.study.report import log_study, show_study
from modkernel.flows.study.result import StudyResult
from modkernel.flows.study.run import study_run
from modkernel.flows.study.spec import StudySpec
from modkernel.flows.tasks.child import tasks_in_hand
from modkernel.flows.tasks.ground_truth import measure_stored_ground_truth
from modkernel.flows.tasks.measure import measure_stored_module
from modkernel.flows.tasks.side_by_side import side_by_side
from modkernel.flows.tasks.train import train_stored_module

T = TypeVar("T")


@form_flow("transfer-study", flow_run_name=named("{spec.name}"))
def transfer_study(spec: StudySpec, output: str | None = None) -> StudyResult:
    """Train a module for every task, evaluate each on every task, and compare scores with that.

    What was trained, measured or evaluated before is reused: a flow that was killed is resumed
    by the next call, and a call after that trains nothing.

    Args:
        spec: the study.
        output: folder for results.json, scores.csv and the figures; studies/NAME in the home if
            left out.

    Raises:
        ModkernelError: before anything is trained, where the tasks or the data cannot be; later,
            what ended a module's training or evaluation, once the other modules in hand are done.
    """
    from modkernel.flows.study.assemble import assemble_result, study_figures

    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    plan = plan_study(registry, spec)
    folder = registry.settings.home / "studies" / spec.name if output is None else Path(output)
    names = [plan.module_name(task) for task in plan.tasks]
    emit(Planned(tuple(names)))
    with study_run(registry, plan) as run:
        at_once = tasks_in_hand(registry.settings)
        named = list(zip(names, plan.tasks, strict=True))
        modules: list[ModuleResult] = _results(
            [
                partial(train_stored_module.submit, name, task.module, task.dataset, None, run.id)
                for name, task in named
            ],
            at_once,
        )
        _results(
            [
                # Of a small set the features tell which validation examples are held out.
                partial(
                    measure_stored_module.submit, module.id, part.union, part.info.n_borrowed > 0
                )
                for module in modules
                for part in plan.parts
            ],
            at_once,
        )
        found = _results(
            [
                partial(
                    measure_stored_ground_truth.submit,
                    name,
                    plan.ground_truth(task, number, module.id),
                    part.union,
                )
                for (name, task), module in zip(named, modules, strict=True)
                for number, part in enumerate(plan.parts)
            ],
            at_once,
        )
        count = len(plan.parts)
        evaluated = [found[at : at + count] for at in range(0, len(found), count)]
        result = assemble_result(registry, plan, modules, evaluated, folder, run.id, began)
        figures = study_figures(result)
        files = files_of(result, figures)
        write_files(folder, files)
        if run.is_new:
            log_study(registry, run.id, result, files)
        show_study(result, figures)
        return result


def _results(starts: Sequence[Callable[[], PrefectFuture[T]]], at_once: int) -> list[T]:
    """Results of tasks in their order; the first error ends it."""
    done = {place: future.result() for place, future in side_by_side(starts, at_once)}
    return [done[place] for place in range(len(starts))]
