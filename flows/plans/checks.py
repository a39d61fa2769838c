"""What several flows and commands refuse before anything is computed. Imports no Prefect."""

from __future__ import annotations

from modkernel.data import DatasetInfo
from modkernel.errors import DataError, InterfaceError
from modkernel.jobs.slots import check_enough, gpus
from modkernel.registry import ModuleRecord, Settings
from modkernel.spec import AnyHiddenSpec


def check_labelled(info: DatasetInfo, need: str) -> None:
    """Check that a data set has class labels.

    Args:
        info: the data set.
        need: what the labels are for, such as 'which a search compares candidates by'.

    Raises:
        DataError: it has none.
    """
    if not info.labelled:
        raise DataError(
            f"Data set '{info.name}' has no class labels, {need}: sort the images into one folder "
            "a class."
        )


def check_devices(settings: Settings) -> None:
    """Check that this machine has as many devices as are to train a module.

    Raises:
        SettingsError: it has fewer.
    """
    if settings.devices_per_module > 1:
        found = 0 if settings.device == "cpu" else len(gpus())
        check_enough(settings.devices_per_module, found, settings.cpu_slots)


def check_is_hidden(
    record: ModuleRecord,
) -> AnyHiddenSpec:
    """The spec of a stored hidden module or stitch, on which others can stand.

    Raises:
        InterfaceError: it is an output module.
    """
    if record.spec.kind == "output":
        raise InterfaceError(
            f"Module {record.short_id} ({record.name}) is an output module: name the hidden module "
            f"{' or '.join(one[:12] for one in record.spec.interface.stands_on)} under it."
        )
    return record.spec
