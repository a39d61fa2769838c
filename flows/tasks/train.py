"""The task that trains one module in a child process and stores it, or finds it stored already."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect.logging import get_run_logger

from modkernel.data import describe_dataset
from modkernel.errors import StitchError
from modkernel.flows.display import artifacts
from modkernel.flows.runtime.mlflow_runs import ending_with
from modkernel.flows.runtime.results import ModuleResult
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.tasks.child import chain_files, make_job, runs_child
from modkernel.flows.tasks.epochs import training
from modkernel.flows.tasks.once import RunChild, once
from modkernel.flows.tasks.seen import Untested, remember, trained_on, untested
from modkernel.flows.tasks.work import work_of
from modkernel.flows.tasks.work_folder import remove_work
from modkernel.jobs.job import HiddenJob, Job, OutputJob, StitchJob, UpstreamFiles
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import DatasetSpec, ModuleSpec

FEW_PASSES = 2
"""Times that the examples of an output module, or of a stitch, pass through what it stands on."""


@runs_child("{name}")
def train_stored_module(
    name: str,
    module: ModuleSpec,
    dataset: DatasetSpec,
    pairs: str | None = None,
    parent_run_id: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    below: ModuleResult | tuple[ModuleResult, ...] | None = None,
    force: bool = False,
) -> ModuleResult:
    """Have a module trained and stored, unless one with the same recipe is stored already.

    Args:
        name: registered name, '<network>.hidden-<k>' or '<network>.output'.
        module: what to train; its digest is the recipe digest.
        dataset: the data that the module's facts are of.
        pairs: what to train on in place of class labels: views, a file of pairs, or both.
        parent_run_id: MLflow run of the network.
        label: what it is called in progress, where several of one name are trained at once.
        labels: file of labels to train an output module on.
        below: the module that it stands on, or those that end in it, where the spec does not name
            it.
        force: store a stitch even if it is not worth it.

    Raises:
        ChildError: the child failed, or died twice.
        StitchError: a stitch that is not worth storing; nothing of it is left.
        ModkernelError: what ended training or storing.
    """
    from modkernel.flows.display.figures import module_figures

    registry, log = open_registry(), get_run_logger()
    if below is not None:
        last = below[-1] if isinstance(below, tuple) else below
        module = module.changed(interface=module.interface.changed(upstream=last.id))
    digest, label = module.digest(), label or name
    remember(registry, dataset, module.dataset)
    tests = Untested()
    if module.kind == "output":
        chain = registry.modules.joined_chain(module.interface.stands_on)
        tests = untested(registry, chain, dataset, module.dataset.fingerprint)

    def train(run: RunChild) -> ModuleRecord:
        settings = registry.settings
        known: dict[str, Any] = {"dataset": dataset, "upstream": _upstream(registry, module)}
        job: Job
        if module.kind == "hidden":
            if module.hidden.start_from is not None:
                source = registry.modules.resolve(module.hidden.start_from)
                (known["start"],) = chain_files(registry, [source])
            known["devices"] = settings.devices_per_module
            job = make_job(HiddenJob, settings, digest, module=module, pairs=pairs, **known)
        elif module.kind == "stitch":
            over = registry.modules.joined_chain([module.upper_id])
            both = registry.modules.joined_chain([*module.interface.stands_on, module.upper_id])
            known["left_out"] = trained_on(registry, both, dataset, module.dataset.fingerprint)
            known |= {"upper": chain_files(registry, over), "force": force}
            job = make_job(StitchJob, settings, digest, module=module, **known)
        else:
            known |= {"left_out": tests.left_out, "seen": tests.seen}
            job = make_job(OutputJob, settings, digest, module=module, labels=labels, **known)
        info = describe_dataset(dataset, settings.places)
        run_id = registry.runs.start_module(name, module, parent_run_id, info)
        with (
            ending_with(registry, run_id),
            training(run, job, label, registry, run_id) as report,
        ):
            return registry.modules.store(
                job.result,
                name=name,
                report=report,
                run_id=run_id,
                figures=module_figures(report, name, module.classes),
                dataset=dataset,
                pairs=pairs,
            )

    work = partial(
        work_of,
        registry,
        "train",
        dataset,
        module.dataset.fingerprint,
        passes=module.recipe.epochs if module.kind == "hidden" else FEW_PASSES,
        like=name,
        name=name,
        module=module,
        dataset=dataset,
        pairs=pairs,
        parent_run_id=parent_run_id,
        label=label,
        labels=labels,
        force=force,
    )

    def find() -> ModuleRecord | None:
        return registry.modules.find_ready(digest)

    try:
        record, trained = once(
            registry, digest, label, "training", find=find, make=train, work=work
        )
    except StitchError:
        remove_work(registry, digest)  # Nobody goes on with it.
        raise
    report = registry.modules.report(record)
    log.info("%s: %s, module %s.", label, "stored" if trained else "reused", record.short_id)
    artifacts.show_module(
        record,
        registry.modules.chain(record)[:-1],
        report,
        module_figures(report, record.name, record.spec.classes),
    )
    return ModuleResult.of(record, report, reused=not trained)


def _upstream(registry: Registry, module: ModuleSpec) -> tuple[UpstreamFiles, ...]:
    """Where the modules under this one lie, fetched and verified."""
    return chain_files(registry, registry.modules.joined_chain(module.interface.stands_on))
