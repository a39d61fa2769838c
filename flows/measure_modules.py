"""The flow that measures stored modules on a data set, so that they can be scored for its tasks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from hashlib import sha256

from prefect import flow

from modkernel.errors import InterfaceError, ModkernelError, StoppedError
from modkernel.features.measure import measured_features
from modkernel.flows.plans import datasets
from modkernel.flows.runtime.events import emit, tell
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.child import chain_files, device_slots, make_job, run_watched, runs_child
from modkernel.flows.tasks.claims import find_or_make
from modkernel.flows.tasks.side_by_side import side_by_side
from modkernel.jobs.job import MeasureJob
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.backends import feature_cache
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.spec import DatasetSpec, Spec

__all__ = ["MeasureResult", "NotMeasured", "measure_modules", "measure_stored_module"]


class NotMeasured(Spec):
    """A module without moments, and why."""

    module_id: str
    name: str
    reason: str


class MeasureResult(Spec):
    """What `measure_modules` did, by ids of modules."""

    fingerprint: str
    """Of the data set."""
    measured: tuple[str, ...]
    found: tuple[str, ...]
    """Measured before."""
    left_out: tuple[NotMeasured, ...]


@flow(name="measure-modules", persist_result=False)
def measure_modules(
    dataset: DatasetSpec, modules: tuple[str, ...] | None = None, features: bool = False
) -> MeasureResult:
    """Keep class moments of stored hidden modules on a data set, where there are none yet.

    Each module is a task of its own on a device slot, as many at once as there are slots. A flow
    that was killed goes on with those that are left when it is called again.

    Args:
        dataset: labelled; scores of all tasks that its classes make come from these moments.
        modules: ids, names, NAME@ALIAS or NAME/VERSION; all hidden modules if left out.
        features: measure again, too, where the measured features are in the cache no more.

    Raises:
        ModkernelError: the data set or a reference cannot be used. What is wrong with a single
            module is in the result, and hinders no other.
    """
    fork_server().start()
    registry = open_registry()
    info = datasets.describe(registry, dataset)
    records = _hidden(registry, modules)
    found: list[str] = []
    left_out: list[NotMeasured] = []
    wanted: list[ModuleRecord] = []
    for record in records:
        try:
            datasets.check_fits(info, record)
        except InterfaceError as error:
            left_out.append(_not_measured(record, error))
            continue
        if _is_measured(registry, record, info.fingerprint, features):
            found.append(record.id)
        else:
            wanted.append(record)
    emit({"event": "plan", "modules": [label(record) for record in wanted]})
    measured: list[str] = []
    starts = [
        partial(measure_stored_module.submit, record.id, dataset, features) for record in wanted
    ]
    # No more tasks than slots: a thousand waiting children would take the memory of the others.
    for place, future in side_by_side(starts, device_slots(registry.settings)):
        try:
            (measured if future.result() else found).append(wanted[place].id)
        except StoppedError:
            raise
        except ModkernelError as error:
            left_out.append(_not_measured(wanted[place], error))
    return MeasureResult(
        fingerprint=info.fingerprint,
        measured=tuple(measured),
        found=tuple(found),
        left_out=tuple(left_out),
    )


@runs_child("measure {module_id}")
def measure_stored_module(module_id: str, dataset: DatasetSpec, features: bool = False) -> bool:
    """Have a module measured in a child and its moments kept; false if there was nothing to do.

    Args:
        module_id: of a hidden module.
        dataset: a labelled data set that its chain takes.
        features: measure again, too, where the measured features are in the cache no more.

    Raises:
        ChildError: the child failed, or died twice.
        ModkernelError: what ended measuring or storing.
    """
    registry = open_registry()
    record = registry.modules.resolve(module_id)
    fingerprint = datasets.describe(registry, dataset).fingerprint

    def find() -> bool | None:
        return _is_measured(registry, record, fingerprint, features) or None

    key = sha256(f"measure {module_id} {fingerprint}".encode()).hexdigest()

    def make(lost: threading.Event) -> bool:
        _measure(registry, record, dataset, fingerprint, key, lost)
        return True

    _, measured = find_or_make(registry, key, label(record), find, make)
    tell(label(record), "stored" if measured else "reused")
    return measured


def _is_measured(
    registry: Registry, record: ModuleRecord, fingerprint: str, features: bool
) -> bool:
    if not registry.moments.has(record, fingerprint):
        return False
    cache = feature_cache(registry.settings)
    return not features or measured_features(cache, record.id, fingerprint) is not None


def _measure(
    registry: Registry,
    record: ModuleRecord,
    dataset: DatasetSpec,
    fingerprint: str,
    key: str,
    lost: threading.Event,
) -> None:
    job = make_job(
        MeasureJob,
        registry.settings,
        key,
        fingerprint=fingerprint,
        dataset=dataset,
        upstream=chain_files(registry, record),
    )
    run_watched(job, label(record), "measuring", lost)
    registry.moments.store(record, job.result / MOMENTS_FILE, dataset.name)


def label(record: ModuleRecord) -> str:
    """How events name a module here, where several versions of a name are in hand."""
    return f"{record.name} {record.short_id}"


def _hidden(registry: Registry, references: Sequence[str] | None) -> tuple[ModuleRecord, ...]:
    if references is None:
        return registry.modules.find(kind="hidden")
    records = {record.id: record for record in map(registry.modules.resolve, references)}
    for record in records.values():
        if record.kind != "hidden":
            raise InterfaceError(
                f"{record.name} is an output module, whose features are those of the module under "
                f"it: name {record.spec.interface.upstream[:12]}."
            )
    return tuple(records.values())


def _not_measured(record: ModuleRecord, error: ModkernelError) -> NotMeasured:
    return NotMeasured(module_id=record.id, name=record.name, reason=str(error))
