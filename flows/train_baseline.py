"""The flow that trains a network as a whole, to compare with."""

from __future__ import annotations

import time

from modkernel.flows.display.artifacts import baseline_place, show_baseline
from modkernel.flows.plans import datasets
from modkernel.flows.runtime.events import Planned, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.results import BaselineResult
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.train_whole import train_whole
from modkernel.spec import NetworkSpec
from modkernel.training.end_to_end import baseline_key


@form_flow("train-baseline", flow_run_name=named("{spec.name}"))
def train_baseline(spec: NetworkSpec) -> BaselineResult:
    """Train a network end to end with the recipe of its last hidden module, and evaluate it.

    What was trained before is reused; a flow that was killed is resumed by the next call.

    Args:
        spec: the network; its objectives, pairs and output module play no part.

    Raises:
        ModkernelError: before anything is trained, where it cannot be; later, what ended it.
    """
    from modkernel.flows.display.figures import module_figures

    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    info = datasets.describe(registry, spec.dataset)
    digest = baseline_key(spec, info).digest()
    name = f"{spec.name}.baseline"
    emit(Planned((name,)))
    reused, baseline = train_whole.submit(name, spec, digest, info.fingerprint).result()
    evaluation = baseline.report.evaluation
    assert evaluation is not None
    result = BaselineResult(
        name=spec.name,
        reused=reused,
        evaluation=evaluation,
        train_seconds=baseline.report.seconds,
        peak_memory_bytes=baseline.report.peak_memory_bytes,
        seconds=time.perf_counter() - began,
        run_id=baseline.run_id,
    )
    figures = module_figures(baseline.report, name, info.classes)
    show_baseline(result, baseline_place(registry, baseline.run_id), figures)
    return result
