"""Locks that last as long as the process that holds them, and the device slots made of them.

A slot is a lock file per device. The child that computes holds it by `flock`, so the kernel frees
the device when the child ends, whatever ended it: there is no lease to expire, nothing to clean up.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from modkernel.errors import SettingsError, StoppedError
from modkernel.jobs.job import Device
from modkernel.system.locks import release, try_lock

__all__ = ["device_slot", "gpus", "hold"]

POLL_SECONDS = 0.05


@contextmanager
def hold(
    paths: Sequence[Path], stop: Callable[[], bool], waiting: Callable[[], None]
) -> Iterator[Path]:
    """Lock one of the files, waiting while all of them are held, and yield its path.

    Args:
        paths: lock files, made if they are missing; their folder must exist.
        stop: asked while waiting.
        waiting: called once if there is a wait.

    Raises:
        StoppedError: `stop` became true before a lock was free.
        FileNotFoundError: the folder is not there, or went away during the wait.
    """
    told = False
    while True:
        for path in paths:
            descriptor = try_lock(path)
            if descriptor is not None:
                try:
                    yield path
                finally:
                    release(descriptor)
                return
        if stop():
            raise StoppedError("Training was stopped while it waited for its turn; run it again.")
        if not told:
            waiting()
            told = True
        time.sleep(POLL_SECONDS)


def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` would name them.

    CUDA itself is not touched (torch counts through NVML), so that the variable can still be set.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(str(index) for index in range(torch.cuda.device_count()))
    names = tuple(name.strip() for name in visible.split(",") if name.strip())
    if any(name.startswith("MIG-") for name in names):
        return names  # NVML does not count these; CUDA would have to be started to ask.
    return names[: torch.cuda.device_count()]


@contextmanager
def device_slot(
    folder: Path,
    device: Device,
    cpu_slots: int,
    stop: Callable[[], bool],
    waiting: Callable[[], None],
) -> Iterator[str]:
    """Wait for a free device, hold it, and yield `cuda` or `cpu`.

    The GPU that was taken becomes the only one that this process sees: call it before CUDA is
    touched. `auto` takes a GPU where there is one.

    Raises:
        SettingsError: `cuda` was asked for and there is no GPU.
        StoppedError: `stop` became true during the wait.
    """
    names = () if device == "cpu" else gpus()
    if device == "cuda" and not names:
        raise SettingsError(
            "Device 'cuda' was asked for but no GPU can be used here: use device 'auto' or 'cpu', "
            "or fix the driver or the PyTorch build (see 'nvidia-smi' and 'modkernel doctor')."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if names:
        files = {
            folder / f"cuda-{re.sub(r'[^A-Za-z0-9-]', '-', name)}.lock": name for name in names
        }
    else:
        files = {folder / f"cpu-{index}.lock": "" for index in range(cpu_slots)}
    with hold(tuple(files), stop, waiting) as path:
        if names:
            os.environ["CUDA_VISIBLE_DEVICES"] = files[path]
        yield "cuda" if names else "cpu"
