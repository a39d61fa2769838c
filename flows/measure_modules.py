"""The flow that measures stored modules on a data set, so that they can be scored for its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from modkernel.errors import InterfaceError, ModkernelError, StoppedError
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_is_hidden
from modkernel.flows.runtime.events import Planned, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.child import tasks_in_hand
from modkernel.flows.tasks.measure import is_measured, label, measure_stored_module
from modkernel.flows.tasks.side_by_side import side_by_side
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import DatasetSpec, Spec

__all__ = ["MeasureResult", "NotMeasured", "measure_modules"]


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


@form_flow("measure-modules")
def measure_modules(
    dataset: DatasetSpec, modules: tuple[str, ...] | None = None, features: bool = False
) -> MeasureResult:
    """Store class moments of stored hidden modules on a data set, where there are none yet.

    Each module is a task of its own on a device slot, as many at once as there are slots. A flow
    that was killed measures those that are left when it is called again.

    Args:
        dataset: labelled; scores of all tasks that its classes make come from these moments.
        modules: ids, names, NAME@ALIAS or NAME/VERSION; all hidden modules if left out.
        features: measure again, too, where the measured features are no longer in the cache.

    Raises:
        ModkernelError: the data set or a reference cannot be used. What is wrong with a single
            module is in the result, and hinders no other.
    """
    fork_server().start()
    registry = open_registry()
    info = datasets.describe(registry, dataset)
    records = _hidden_modules(registry, modules)
    found: list[str] = []
    left_out: list[NotMeasured] = []
    wanted: list[ModuleRecord] = []
    for record in records:
        try:
            datasets.check_fits(info, record)
        except InterfaceError as error:
            left_out.append(_not_measured(record, error))
            continue
        if is_measured(registry, record, info, features):
            found.append(record.id)
        else:
            wanted.append(record)
    emit(Planned(tuple(map(label, wanted))))
    measured: list[str] = []
    starts = [
        partial(measure_stored_module.submit, record.id, dataset, features) for record in wanted
    ]
    # No more tasks than slots: a thousand waiting children would take the memory of the others.
    for place, future in side_by_side(starts, tasks_in_hand(registry.settings)):
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


def _hidden_modules(
    registry: Registry, references: Sequence[str] | None
) -> tuple[ModuleRecord, ...]:
    if references is None:
        return tuple(one for one in registry.modules.find() if one.kind != "output")
    records = {record.id: record for record in map(registry.modules.resolve, references)}
    for record in records.values():
        check_is_hidden(record)
    return tuple(records.values())


def _not_measured(record: ModuleRecord, error: ModkernelError) -> NotMeasured:
    return NotMeasured(module_id=record.id, name=record.name, reason=str(error))
