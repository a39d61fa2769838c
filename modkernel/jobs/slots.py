"""Locks that last as long as the process that holds them, and the device slots made of them.

A slot is a lock file per device. The child that computes holds it by `flock`, so the kernel frees
the device when the child ends, whatever ended it: there is no lease to expire, nothing to clean up.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from modkernel.errors import SettingsError, StoppedError
from modkernel.jobs.job import Device
from modkernel.system.locks import release, try_lock

__all__ = ["Slot", "check_enough", "device_slot", "device_slots", "gpus", "hold"]

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
    with _hold_several(paths, 1, stop, waiting) as locks:
        yield next(iter(locks))


@contextmanager
def _hold_several(
    paths: Sequence[Path], count: int, stop: Callable[[], bool], waiting: Callable[[], None]
) -> Iterator[dict[Path, int]]:
    """Lock `count` of the files as `hold` does, one after the other; yield their descriptors."""
    locks: dict[Path, int] = {}
    told = False
    try:
        while True:
            for path in paths:
                if len(locks) < count and path not in locks:
                    descriptor = try_lock(path)
                    if descriptor is not None:
                        locks[path] = descriptor
            if len(locks) == count:
                break
            if stop():
                raise StoppedError(
                    "Training was stopped while it waited for its turn; run it again."
                )
            if not told:
                waiting()
                told = True
            time.sleep(POLL_SECONDS)
        yield locks
    finally:
        for descriptor in locks.values():
            release(descriptor)


@dataclass(frozen=True)
class Slot:
    """A device that is held."""

    device: str
    """`cuda` or `cpu`."""
    gpu: str
    """As `CUDA_VISIBLE_DEVICES` names it; empty for a CPU."""
    lock: int
    """Descriptor of its lock."""

    def use(self) -> None:
        """Make a GPU the only one that this process sees: call it before CUDA is touched."""
        if self.gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu


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
    with device_slots(folder, device, cpu_slots, 1, stop, waiting) as (slot,):
        slot.use()
        yield slot.device


@contextmanager
def device_slots(
    folder: Path,
    device: Device,
    cpu_slots: int,
    count: int,
    stop: Callable[[], bool],
    waiting: Callable[[], None],
) -> Iterator[tuple[Slot, ...]]:
    """Wait until `count` devices of one kind are free, and hold them.

    Who wants several collects them as they become free, so that jobs of one device cannot keep them
    from it for ever. One process at a time does so: two that have a part each would wait for ever.

    Raises:
        SettingsError: there are not as many here, or `cuda` was asked for and there is no GPU.
        StoppedError: `stop` became true during the wait.
    """
    names = () if device == "cpu" else gpus()
    if device == "cuda" and not names:
        raise SettingsError(
            "Device 'cuda' was asked for but no GPU can be used here: use device 'auto' or 'cpu', "
            "or fix the driver or the PyTorch build (see 'nvidia-smi' and 'modkernel doctor')."
        )
    check_enough(count, len(names), cpu_slots)
    folder.mkdir(parents=True, exist_ok=True)
    if names:
        files = {
            folder / f"cuda-{re.sub(r'[^A-Za-z0-9-]', '-', name)}.lock": name for name in names
        }
    else:
        files = {folder / f"cpu-{index}.lock": "" for index in range(cpu_slots)}
    with ExitStack() as stack:
        collecting = stack.enter_context(ExitStack())
        if count > 1:
            collecting.enter_context(hold([folder / "several.lock"], stop, waiting))
        locks = stack.enter_context(_hold_several(tuple(files), count, stop, waiting))
        collecting.close()
        yield tuple(
            Slot("cuda" if names else "cpu", files[path], lock) for path, lock in locks.items()
        )


def check_enough(count: int, gpus: int, cpu_slots: int) -> None:
    """Refuse more devices a module than there are.

    Args:
        count: devices that a module is to be trained on.
        gpus: that may be used here; 0 where the CPU trains.
        cpu_slots: modules that may be trained on the CPU at once.

    Raises:
        SettingsError: there are fewer.
    """
    if count <= (gpus or cpu_slots):
        return
    if gpus:
        raise SettingsError(
            f"A module is to be trained on {count} devices, and {gpus} GPU{'s' * (gpus > 1)} can "
            f"be used here: set devices_per_module (--devices) to {gpus} at most."
        )
    raise SettingsError(
        f"A module is to be trained on {count} devices, and without a GPU {cpu_slots} may compute "
        f"here: set MODKERNEL_CPU_SLOTS to {count}, or devices_per_module (--devices) to "
        f"{cpu_slots} at most."
    )
