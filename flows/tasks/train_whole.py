"""The task that trains a network end to end in a child process, or finds its baseline stored."""

from __future__ import annotations

from functools import partial

from modkernel.data import describe_dataset
from modkernel.flows.runtime.mlflow_runs import ending_with
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.tasks.child import make_job, runs_child
from modkernel.flows.tasks.epochs import training
from modkernel.flows.tasks.once import RunChild, once
from modkernel.flows.tasks.work import work_of
from modkernel.jobs.job import EndToEndJob
from modkernel.registry.tracking.baselines import Baseline
from modkernel.spec import NetworkSpec


@runs_child("{name}")
def train_whole(
    name: str, spec: NetworkSpec, digest: str, fingerprint: str
) -> tuple[bool, Baseline]:
    """Have a network trained as a whole, unless it was with the same recipe.

    Args:
        name: what its progress is shown under.
        spec: the network.
        digest: of the baseline's recipe.
        fingerprint: of the data that this was planned on.

    Returns:
        Whether the baseline was there already, and the baseline.

    Raises:
        ChildError: the child failed, or died twice.
        ModkernelError: what ended training.
    """
    from modkernel.flows.display.figures import module_figures

    registry = open_registry()

    def train(run: RunChild) -> Baseline:
        job = make_job(
            EndToEndJob,
            registry.settings,
            digest,
            network=spec,
            dataset=spec.dataset,
            fingerprint=fingerprint,
        )
        run_id = registry.baselines.start_run(spec.name, spec, digest)
        with (
            ending_with(registry, run_id),
            training(run, job, name, registry, run_id) as report,
        ):
            classes = describe_dataset(spec.dataset, registry.settings.places).classes
            return registry.baselines.store(run_id, report, module_figures(report, name, classes))

    baseline, is_new = once(
        registry,
        digest,
        name,
        "training",
        find=lambda: registry.baselines.find(digest),
        make=train,
        work=partial(
            work_of,
            registry,
            "train_whole",
            spec.dataset,
            fingerprint,
            passes=spec.hidden[-1].recipe.epochs,
            name=name,
            spec=spec,
            digest=digest,
            fingerprint=fingerprint,
        ),
    )
    return not is_new, baseline
