"""The task that measures one stored module on a data set, or finds it measured already."""

from __future__ import annotations

from functools import partial
from hashlib import sha256

from modkernel.data import DatasetInfo, describe_dataset
from modkernel.features.measure import measured_features
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.tasks.child import chain_files, make_job, runs_child
from modkernel.flows.tasks.once import RunChild, once
from modkernel.flows.tasks.work import work_of
from modkernel.jobs.job import MeasureJob
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.backends import feature_cache
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.spec import DatasetSpec


@runs_child("measure {module_id}")
def measure_stored_module(module_id: str, dataset: DatasetSpec, features: bool = False) -> bool:
    """Have a module measured in a child and its moments stored; false if nothing was to be done.

    Args:
        module_id: of a hidden module.
        dataset: a labelled data set that its chain takes.
        features: measure again, too, where the measured features are not in this machine's cache.

    Raises:
        ChildError: the child failed, or died twice.
        ModkernelError: what ended measuring or storing.
    """
    registry = open_registry()
    record = registry.modules.resolve(module_id)
    info = describe_dataset(dataset, registry.settings.places)
    fingerprint = info.fingerprint
    key = sha256(f"measure {module_id} {fingerprint}".encode()).hexdigest()

    def find() -> bool | None:
        return is_measured(registry, record, info, features) or None

    def measure(run: RunChild) -> bool:
        job = make_job(
            MeasureJob,
            registry.settings,
            key,
            fingerprint=fingerprint,
            dataset=dataset,
            upstream=chain_files(registry, registry.modules.chain(record)),
        )
        run(job)
        registry.moments.store(record, job.result / MOMENTS_FILE, dataset.name)
        return True

    elsewhere = partial(
        work_of,
        registry,
        "measure",
        dataset,
        fingerprint,
        passes=1,
        module_id=record.id,
        dataset=dataset,
    )
    _, is_new = once(
        registry,
        key,
        label(record),
        "measuring",
        find=find,
        make=measure,
        work=None if features else elsewhere,  # Another machine would keep them for itself.
    )
    return is_new


def is_measured(
    registry: Registry, record: ModuleRecord, info: DatasetInfo, features: bool
) -> bool:
    """Whether a module has moments on some data, and cached features of them if wanted."""
    if not registry.moments.has(record, info.fingerprint, info.classes):
        return False
    cache = feature_cache(registry.settings)
    return not features or measured_features(cache, record.id, info.fingerprint) is not None


def label(record: ModuleRecord) -> str:
    """How events name a module here, where several versions of a name are in hand."""
    return f"{record.name} {record.short_id}"
