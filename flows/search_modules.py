"""The flow that searches for the modules of a network, a stage after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from prefect.task_runners import ThreadPoolTaskRunner

from modkernel.flows.plans.steps import Below, Plan, output_step
from modkernel.flows.runtime.events import Note, Planned, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.mlflow_runs import network_run
from modkernel.flows.runtime.results import ModuleResult, NetworkResult
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.search.plan import SearchPlan, plan_search
from modkernel.flows.search.report import log_search, show_search, stage_sentence
from modkernel.flows.search.result import CandidateResult, SearchResult, cost
from modkernel.flows.search.spec import SearchSpec
from modkernel.flows.search.stage import Entry, run_stage
from modkernel.flows.tasks.record import record_network
from modkernel.flows.tasks.train_plan import is_done, train_in_order
from modkernel.registry import Registry
from modkernel.spec import ModuleSpec

AT_ONCE = 32
"""Candidates in hand at once; how many of them compute is up to the device slots."""


@form_flow(
    "search-modules",
    flow_run_name=named("{spec.name}"),
    task_runner=ThreadPoolTaskRunner(max_workers=AT_ONCE),
)
def search_modules(spec: SearchSpec) -> SearchResult:
    """Try several modules for each stage of a network, and build on the best ones.

    The candidates of a stage are trained in parallel on the same stored modules and compared on
    held-out examples: the search costs the sum over its stages, not the product. Every candidate
    stays in the registry and is reused by later searches; a search that was killed is resumed by
    the next call. A candidate whose training diverges or runs out of memory is reported and left
    out, and tried again by the next call.

    Args:
        spec: data, backbone, and the candidates of each stage.

    Raises:
        ModkernelError: before anything is trained, where the spec or the data cannot be; later,
            what ended the training of a module, or of all candidates of a stage.
    """
    from modkernel.flows.search.figure import search_figure

    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    plan = plan_search(registry, spec)
    registry.networks.check_names(spec.name, _names(spec))
    emit(Planned(tuple(_names(spec))))
    stages: list[tuple[CandidateResult, ...]] = []
    beam: Sequence[Entry] = ()
    with ExitStack() as stack:
        run = _Run(registry, plan, stack)
        for stage in range(len(spec.stages)):
            done = run_stage(registry, plan, stage, beam, run.for_modules)
            beam = done.beam
            stages.append(done.rows)
            rows = [row for rows in stages for row in rows]
            emit(Note(stage_sentence(rows, spec.score, last=stage == len(spec.stages) - 1)))
        network, output = _finish(registry, plan, beam[0], run, began)
        result = _result(spec, stages, network, output, time.perf_counter() - began)
        figure = search_figure(result)
        if run.id is not None:
            log_search(registry, run.id, result, figure)
        show_search(result, figure)
    return result


class _Run:
    """The search's MLflow run: started once there is something to train, ended with the block."""

    def __init__(self, registry: Registry, plan: SearchPlan, stack: ExitStack) -> None:
        self._registry, self._spec, self._stack = registry, plan.spec, stack
        self._data = plan.info.fingerprint
        self.id: str | None = None

    def for_modules(self, modules: Sequence[ModuleSpec]) -> str | None:
        """The run, if it is there already or one of these modules is to be trained."""

        def done() -> bool:
            find = self._registry.modules.find_ready
            return all(find(module.digest()) is not None for module in modules)

        self.start_unless(done)
        return self.id

    def start_unless(self, is_done: Callable[[], bool]) -> None:
        """Start the run, unless it is there or nothing is to be done."""
        if self.id is None:
            recipe = f"search {self._spec.canonical_json()}"
            name, dataset = self._spec.name, self._spec.dataset.name
            run = network_run(self._registry, name, dataset, self._data, recipe, is_done)
            self.id = self._stack.enter_context(run)


def _finish(
    registry: Registry, plan: SearchPlan, best: Entry, run: _Run, began: float
) -> tuple[NetworkResult, ModuleResult]:
    """Train the output module on the best chain and record the network of both."""
    spec = plan.spec
    step = output_step(
        f"{spec.name}.output",
        spec.output,
        plan.info,
        spec.seed,
        spec.dataset,
        unlabelled=plan.unlabelled,
    )
    chain = registry.modules.chain(best.record)
    network = Plan(Below.of_record(best.record), (step,), kept=chain)
    run.start_unless(lambda: is_done(registry, spec.name, network))
    (output,) = train_in_order(network, run.id)
    return record_network(registry, spec.name, [*best.chain, output], run.id, began), output


def _result(
    spec: SearchSpec,
    stages: Sequence[Sequence[CandidateResult]],
    network: NetworkResult,
    output: ModuleResult,
    seconds: float,
) -> SearchResult:
    rows = [row for stage in stages for row in stage]
    modules = [*(row.module for row in rows if row.module is not None), output]
    training_seconds, networks, networks_seconds = cost(stages)
    return SearchResult(
        name=spec.name,
        score=spec.score,
        beam=spec.beam,
        candidates=tuple(rows),
        network=network,
        trained_modules=sum(not module.reused for module in modules),
        reused_modules=sum(module.reused for module in modules),
        training_seconds=training_seconds,
        networks=networks,
        networks_seconds=networks_seconds,
        seconds=seconds,
    )


def _names(spec: SearchSpec) -> list[str]:
    """Name of every module that is to be trained, those of a stage alike."""
    names, standing = [], 1
    for number, stage in enumerate(spec.stages, start=1):
        count = standing * len(stage.candidates)
        names += [f"{spec.name}.hidden-{number}"] * count
        standing = min(spec.beam, count)
    return [*names, f"{spec.name}.output"]
