"""The flow that trains a network as a whole, to compare with."""

from __future__ import annotations

import threading
import time

from prefect import flow

from modkernel.flows.display.artifacts import show_baseline
from modkernel.flows.display.figures import module_pictures
from modkernel.flows.plans import datasets
from modkernel.flows.results import BaselineResult
from modkernel.flows.runtime.events import emit, tell
from modkernel.flows.runtime.mlflow_runs import ending_with
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.child import make_job, run_followed, runs_child
from modkernel.flows.tasks.claims import find_or_make
from modkernel.jobs.job import EndToEndJob
from modkernel.registry import Registry
from modkernel.registry.baselines import Baseline
from modkernel.spec import NetworkSpec
from modkernel.training.end_to_end import baseline_key


@flow(name="train-baseline", flow_run_name="{spec.name}", persist_result=False)
def train_baseline(spec: NetworkSpec) -> BaselineResult:
    """Train a network end to end with the recipe of its last hidden module, and evaluate it.

    What was trained before is reused; a flow that was killed goes on where it was.

    Args:
        spec: the network; its objectives, pairs and output module play no part.

    Raises:
        ModkernelError: before anything is trained, where it cannot be; later, what ended it.
    """
    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    info = datasets.describe(registry, spec.dataset)
    digest = baseline_key(spec, info).digest()
    name = f"{spec.name}.baseline"
    emit({"event": "plan", "modules": [name]})
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
    show_baseline(result, module_pictures(baseline.report, info.classes))
    tell(name, "reused" if reused else "stored")
    return result


@runs_child("{name}")
def train_whole(
    name: str, spec: NetworkSpec, digest: str, fingerprint: str
) -> tuple[bool, Baseline]:
    """Whether the baseline was there already, and the baseline."""
    registry = open_registry()
    baseline, trained = find_or_make(
        registry,
        digest,
        name,
        lambda: registry.baselines.find(spec.name, digest),
        lambda lost: _train(registry, name, spec, digest, fingerprint, lost),
    )
    return not trained, baseline


def _train(
    registry: Registry,
    name: str,
    spec: NetworkSpec,
    digest: str,
    fingerprint: str,
    lost: threading.Event,
) -> Baseline:
    tell(name, "training")
    job = make_job(
        EndToEndJob,
        registry.settings,
        digest,
        network=spec,
        dataset=spec.dataset,
        fingerprint=fingerprint,
    )
    run_id = registry.baselines.start_run(spec.name, spec, digest)
    with ending_with(registry, run_id):
        report = run_followed(job, name, registry, run_id, lost)
        return registry.baselines.store(run_id, report, module_pictures(report, None))
