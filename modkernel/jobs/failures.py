"""What ends a job, as one of modkernel's errors, and as the JSON that one process tells another."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modkernel import errors
from modkernel.errors import ChildError, ModkernelError, SpecError
from modkernel.jobs.job import FULL_DISK, disk_full
from modkernel.system.files import disk_is_full, replace_file

__all__ = ["ERRORS", "error_told", "fail", "read_error", "tell_error", "typed", "without_room"]

ERROR = "error.json"
ERRORS: dict[str, type[ModkernelError]] = {
    **{name: getattr(errors, name) for name in errors.__all__},
    "UnknownNameError": SpecError,  # Its constructor takes more than a message.
}
"""By the name that is told."""


def typed(error: Exception, work: Path) -> ModkernelError:
    """An exception as one of modkernel's; the traceback of any other goes to standard error."""
    if isinstance(error, ModkernelError):
        return error
    traceback.print_exc()
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        reason = str(error).splitlines()[0] if str(error) else "no memory is left"
        return ChildError(
            f"Training ran out of memory ({reason}): make recipe.batch_size or "
            "backbone.width smaller, or free the device."
        )
    if disk_is_full(error):
        return disk_full(work)
    return ChildError(
        f"Training failed with {type(error).__name__}: {error}. "
        f"The whole traceback is in {work / 'log.txt'}."
    )


def tell_error(error: ModkernelError) -> dict[str, Any]:
    """An error, JSON-clean."""
    died = isinstance(error, ChildError) and error.died
    return {"type": type(error).__name__, "message": str(error), "died": died}


def error_told(told: Mapping[str, Any]) -> ModkernelError:
    """The error of what `tell_error` gave, in another process."""
    error = ERRORS.get(told["type"], ModkernelError)(told["message"])
    if isinstance(error, ChildError):
        error.died = told["died"]
    return error


def fail(work: Path, error: ModkernelError) -> int:
    """Leave an error for whoever waits for the job, and give the exit status that says so."""
    try:
        replace_file(work / ERROR, json.dumps(tell_error(error)).encode())
    except OSError as failed:
        return without_room(failed)
    return 1


def read_error(work: Path) -> ModkernelError | None:
    """The error that a child left; None if it left none."""
    try:
        return error_told(json.loads((work / ERROR).read_bytes()))
    except FileNotFoundError:
        return None


def without_room(error: OSError) -> int:
    """The exit status where not even an error.json can be written."""
    if disk_is_full(error):
        return FULL_DISK
    raise error
