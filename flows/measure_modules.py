"""The flow that measures stored modules on a data set, so that they can be scored for its tasks."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.logging import get_run_logger

from flows import datasets
from flows.child_task import child_died
from flows.interrupts import stoppable
from flows.jobs import WAITING, chain_files, device_slots, make_job
from flows.leases import claim_unless, kept, remove_work
from flows.progress import emit
from flows.stores import fork_server, open_registry
from modkernel.errors import InterfaceError, ModkernelError, StoppedError
from modkernel.feature_cache import FeatureCache
from modkernel.moment_file import MOMENTS_FILE
from modkernel.spec import DatasetSpec, Spec
from modkernel.training.measure import measured_features
from registry import Claim, ModuleRecord, Registry

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
    running: dict[PrefectFuture[bool], ModuleRecord] = {}

    def finish(future: PrefectFuture[bool]) -> None:
        record = running.pop(future)
        try:
            (measured if future.result() else found).append(record.id)
        except StoppedError:
            raise
        except ModkernelError as error:
            left_out.append(_not_measured(record, error))

    # No more tasks than slots: a thousand waiting children would take the memory of the others.
    slots = device_slots(registry.settings)
    for record in wanted:
        if len(running) == slots:
            finish(next(iter(as_completed(list(running)))))
        running[measure_stored_module.submit(record.id, dataset, features)] = record
    for future in list(running):
        finish(future)
    return MeasureResult(
        fingerprint=info.fingerprint,
        measured=tuple(measured),
        found=tuple(found),
        left_out=tuple(left_out),
    )


@task(
    task_run_name="measure {module_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=1,
    retry_condition_fn=child_died,
)
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
    record = registry.resolve(module_id)
    fingerprint = datasets.describe(registry, dataset).fingerprint

    def find() -> bool | None:
        return _is_measured(registry, record, fingerprint, features) or None

    key = sha256(f"measure {module_id} {fingerprint}".encode()).hexdigest()
    found = claim_unless(
        registry,
        key,
        find,
        lambda: _tell(record, "waiting"),
    )
    measured = isinstance(found, Claim)
    if isinstance(found, Claim):
        try:
            with kept(found) as lost:
                _measure(registry, record, dataset, fingerprint, key, lost)
        except BaseException:
            _tell(record, "failed")
            raise
    remove_work(registry, key)
    _tell(record, "stored" if measured else "reused")
    return measured


def _is_measured(
    registry: Registry, record: ModuleRecord, fingerprint: str, features: bool
) -> bool:
    if not registry.has_moments(record, fingerprint):
        return False
    cache = FeatureCache(registry.settings.features_dir, registry.settings.feature_cache_bytes)
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
        registry.settings,
        key,
        kind="measure",
        fingerprint=fingerprint,
        dataset=dataset,
        upstream=chain_files(registry, record),
    )
    log = get_run_logger()

    def follow(event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "waiting":
                log.info(WAITING[event["for"]])
                _tell(record, "waiting")
            case "started":
                log.info("Measuring on %s in process %d.", event["device"], event["pid"])
                _tell(record, "measuring")

    with stoppable(lost):
        fork_server().run(job, follow, lost)
    registry.keep_moments(record, job.result / MOMENTS_FILE, dataset.name)


def label(record: ModuleRecord) -> str:
    """How events name a module here, where several versions of a name are in hand."""
    return f"{record.name} {record.short_id}"


def _hidden(registry: Registry, references: Sequence[str] | None) -> tuple[ModuleRecord, ...]:
    if references is None:
        return registry.find(kind="hidden")
    records = {record.id: record for record in map(registry.resolve, references)}
    for record in records.values():
        if record.kind != "hidden":
            raise InterfaceError(
                f"{record.name} is an output module, whose features are those of the module under "
                f"it: name {record.spec.interface.upstream[:12]}."
            )
    return tuple(records.values())


def _not_measured(record: ModuleRecord, error: ModkernelError) -> NotMeasured:
    return NotMeasured(module_id=record.id, name=record.name, reason=str(error))


def _tell(record: ModuleRecord, state: str) -> None:
    emit({"event": "module", "module": label(record), "state": state})
