"""The scheduled flow that follows promotions and repairs what was left half-stored."""

from __future__ import annotations

from prefect.logging import get_run_logger

from modkernel.errors import StoreError
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.tasks.work_folder import sweep_work
from modkernel.registry.records import Action, PromotionRecord
from modkernel.spec import Spec

NAME = "maintenance"
"""Of the flow and of its deployment."""
HOUR = 4
"""Of the day, when it runs: every stored byte is read, which takes a large store a while."""


class MaintenanceResult(Spec):
    """What `maintenance` found to do."""

    promotions: tuple[PromotionRecord, ...]
    """Aliases that people have set or moved in MLflow since it last looked."""
    repairs: tuple[Action, ...]


@form_flow(NAME)
def maintenance() -> MaintenanceResult:
    """Record the aliases set in MLflow, check every stored byte, and finish or undo half-stores.

    Work folders and checkpoints that killed flows have left, and nobody will resume, are removed.

    What a live process is storing at that moment is left alone.

    Raises:
        StoreError: the database or MLflow cannot be used, or something could not be read or
            repaired; all else is done then.
    """
    registry, log = open_registry(), get_run_logger()
    result = MaintenanceResult(promotions=registry.promotions.sync(), repairs=registry.repair())
    sweep_work(registry)
    for name in registry.checkpoints.sweep():
        log.info("The checkpoint that was left behind of %s, which is stored, is removed.", name)
    for seen in result.promotions:
        target = f"version {seen.version}" if seen.version else "no version now"
        log.info("%s@%s is %s.", seen.name, seen.alias, target)
    for action in result.repairs:
        log.warning("%s", action.message)
    failed = [action.message for action in result.repairs if action.kind == "failed"]
    if failed:
        raise StoreError(
            f"Not all could be repaired ({len(failed)} left), and the rest is done: {failed[0]}"
        )
    return result
