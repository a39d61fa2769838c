"""The task that trains hidden modules in one pass, in one child, and stores each of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from prefect.logging import get_run_logger

from modkernel.data import describe_dataset
from modkernel.flows.display import artifacts
from modkernel.flows.runtime.events import State, tell
from modkernel.flows.runtime.mlflow_runs import ending_with
from modkernel.flows.runtime.results import ModuleResult
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.tasks.checkpoints import shared_checkpoints
from modkernel.flows.tasks.child import chain_files, make_job, runs_child
from modkernel.flows.tasks.epochs import GroupEpochs
from modkernel.flows.tasks.once import RunChild, once
from modkernel.flows.tasks.seen import remember
from modkernel.flows.tasks.work import work_of
from modkernel.jobs.job import TogetherJob
from modkernel.modules.stored import read_module
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import DatasetSpec
from modkernel.spec.group import GroupSpec
from modkernel.training.report import TrainReport


def group_label(names: Sequence[str]) -> str:
    """What modules that are trained together are called in progress: 'a.hidden-1 to hidden-4'."""
    return f"{names[0]} to {names[-1].rpartition('.')[2]}"


@runs_child("{label}")
def train_stored_group(
    label: str,
    names: tuple[str, ...],
    group: GroupSpec,
    dataset: DatasetSpec,
    pairs: str | None = None,
    parent_run_id: str | None = None,
) -> tuple[ModuleResult, ...]:
    """Have the modules of a group trained and stored, unless all of them are stored already.

    A module's MLflow run is made when it is trained: what it stands on has no id before.

    Args:
        label: what all are called in progress.
        names: registered names, '<network>.hidden-<k>', first to last.
        group: what to train; its digest is what flows claim.
        dataset: the data that the modules' facts are of.
        pairs: what to train on in place of class labels: views, a file of pairs, or both.
        parent_run_id: MLflow run of the network.

    Raises:
        ChildError: the child failed, or died twice.
        ModkernelError: what ended training or storing.
    """
    from modkernel.flows.display.figures import module_figures

    registry, log = open_registry(), get_run_logger()
    digest, first = group.digest(), group.modules[0]
    remember(registry, dataset, first.dataset)

    def train(run: RunChild) -> tuple[ModuleRecord, ...]:
        upstream = chain_files(registry, registry.modules.joined_chain(first.interface.stands_on))
        job = make_job(
            TogetherJob,
            registry.settings,
            digest,
            group=group,
            pairs=pairs,
            dataset=dataset,
            upstream=upstream,
        )
        # On the network's run: those of the modules are not there yet.
        sharing = (
            nullcontext()
            if parent_run_id is None
            else shared_checkpoints(registry, parent_run_id, job, label)
        )
        with sharing:
            run(job, GroupEpochs(label, names))
            return _stored(registry, job, names, parent_run_id)

    records, trained = once(
        registry,
        digest,
        label,
        "training",
        find=lambda: registry.modules.find_group(group),
        make=train,
        work=partial(
            work_of,
            registry,
            "train_together",
            dataset,
            first.dataset.fingerprint,
            passes=first.recipe.epochs,
            like=names[-1],
            label=label,
            names=names,
            group=group,
            dataset=dataset,
            pairs=pairs,
            parent_run_id=parent_run_id,
        ),
    )
    results = []
    for name, record in zip(names, records, strict=True):
        report = registry.modules.report(record)
        state: State = "stored" if trained else "reused"
        tell(name, state)
        log.info("%s: %s, module %s.", name, state, record.short_id)
        artifacts.show_module(
            record,
            registry.modules.chain(record)[:-1],
            report,
            module_figures(report, record.name, record.spec.classes),
        )
        results.append(ModuleResult.of(record, report, reused=not trained))
    return tuple(results)


def _stored(
    registry: Registry, job: TogetherJob, names: Sequence[str], parent_run_id: str | None
) -> tuple[ModuleRecord, ...]:
    """Store what a job has left, the lowest module first, each with an MLflow run of its own."""
    from modkernel.flows.display.figures import module_figures

    info = describe_dataset(job.dataset, registry.settings.places)
    records: list[ModuleRecord] = []
    for index, name in enumerate(names):
        folder = job.result / f"hidden-{index + 1}"
        report = TrainReport.model_validate_json((folder / "report.json").read_bytes())
        module = job.group.member(index, records[-1].id if records else "")
        there = registry.modules.find_ready(module.digest())
        if there is not None and there.id == read_module(folder).id:
            records.append(there)  # Of a flow that ended before it had stored the others.
            continue
        run_id = registry.runs.start_module(name, module, parent_run_id, info)
        with ending_with(registry, run_id):
            epochs = len(report.history)
            registry.runs.log_epochs(run_id, [line.event(epochs) for line in report.history])
            record = registry.modules.store(
                folder,
                name=name,
                report=report,
                run_id=run_id,
                figures=module_figures(report, name, module.classes),
                dataset=job.dataset,
                pairs=job.pairs,
            )
        records.append(record)
    return tuple(records)
