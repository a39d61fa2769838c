"""Whether this machine can take a run: its version, its devices, its data."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from modkernel.data import describe_dataset
from modkernel.errors import ModkernelError
from modkernel.flows.runtime.our_version import OUR_VERSION
from modkernel.flows.team.devices import GIB, DeviceFacts
from modkernel.flows.team.needs import Needs
from modkernel.lookup import is_import_path
from modkernel.registry import Settings
from modkernel.spec import DatasetSpec

LOOK_SECONDS = 1.0
"""How long a look is waited for before other runs have their turn."""
SAID_SECONDS = 45.0
"""How long after that a lack is still said: what nobody asks for any more is not."""
FITS_SECONDS, LACKS_SECONDS = 300.0, 15.0
"""How long what was found of a data set holds: a person mends what is missing, and waits."""


def device_lacks(needs: Needs, device: DeviceFacts | None) -> str | None:
    """What a device lacks for a run, as words that follow the machine's name; None if nothing.

    Args:
        needs: of the run.
        device: that would compute, or none for a flow that only waits.
    """
    if needs.version != OUR_VERSION:
        return f"has modkernel {OUR_VERSION}, and {needs.version} is needed"
    if device is None:
        return None
    if needs.device != "auto" and device.kind != needs.device:
        return "has no GPU" if needs.device == "cuda" else "computes on GPUs alone"
    if needs.memory_bytes is not None and device.memory_bytes < needs.memory_bytes:
        return (
            f"has {device.memory_bytes / GIB:.3g} GiB of memory on {device.kind}:{device.index}, "
            f"and {needs.memory_bytes / GIB:.3g} GiB are needed"
        )
    return None


class Fit:
    """What this machine lacks for runs; data sets are looked at once, and again after a while."""

    def __init__(self, settings: Settings, devices: Sequence[DeviceFacts]) -> None:
        self._settings, self._devices = settings, devices
        self._known: dict[str, tuple[float, str | None]] = {}
        self._looking: dict[str, asyncio.Task[str | None]] = {}

    @property
    def fits(self) -> tuple[str, ...]:
        """Keys of needs that this machine was seen to meet, the last ones last."""
        return tuple(key for key, (_, lack) in self._known.items() if lack is None)

    @property
    def lacks(self) -> dict[str, str]:
        """What this machine lacks for what was asked lately, by the key of the needs."""
        recent = time.monotonic() - SAID_SECONDS
        return {
            key: lack
            for key, (until, lack) in self._known.items()
            if lack is not None and until > recent
        }

    async def judge(self, needs: Needs, computes: bool) -> str | None:
        """What this whole machine lacks for a run; None if nothing, or not known yet.

        A large data set is looked at in a thread, so that other runs do not wait for it.

        Args:
            needs: of the run.
            computes: whether it needs a device.
        """
        found = self._known.get(needs.key)
        if found is not None and time.monotonic() < found[0]:
            # What was here may have gone since: a look at the place is cheap.
            is_whole = found[1] is not None or not await asyncio.to_thread(self._has_gone, needs)
            if is_whole:
                return found[1]
        task = self._looking.get(needs.key)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._look, needs, computes))
            self._looking[needs.key] = task
        await asyncio.wait([task], timeout=LOOK_SECONDS)
        if not task.done():
            return None
        self._looking.pop(needs.key, None)
        lack = task.result()
        until = time.monotonic() + (FITS_SECONDS if lack is None else LACKS_SECONDS)
        self._known.pop(needs.key, None)
        self._known[needs.key] = (until, lack)
        return lack

    def is_fit(self, needs: Needs) -> bool:
        """Whether this machine was seen to meet needs."""
        return needs.key in self._known and self._known[needs.key][1] is None

    def _look(self, needs: Needs, computes: bool) -> str | None:
        lacking = [device_lacks(needs, one) for one in self._devices] if computes else []
        if all(lacking) and lacking:
            return lacking[0]
        lack = None if computes else device_lacks(needs, None)
        return lack or self._missing_file(needs) or self._missing_data(needs)

    def _has_gone(self, needs: Needs) -> bool:
        path = None if needs.dataset is None else needs.dataset.path
        places = self._settings.places
        return any(not os.path.lexists(places.at(one)) for one in (*needs.files, path) if one)

    def _missing_file(self, needs: Needs) -> str | None:
        for path in needs.files:
            try:
                self._settings.places.at(path).stat()
            except OSError as error:
                return f"has no {path} ({error.strerror})"
        return None

    def _missing_data(self, needs: Needs) -> str | None:
        if needs.dataset is None or is_import_path(needs.dataset.name):
            return None  # A user's own loader runs with the flow that names it, and nowhere else.
        try:
            info = describe_dataset(needs.dataset, self._settings.places)
        except ModkernelError as error:
            return f"lacks data set '{_named(needs.dataset)}': {error}"
        except Exception as error:  # A fault in one data set must not end the worker.
            return f"cannot read data set '{_named(needs.dataset)}': {type(error).__name__}"
        if needs.fingerprint not in (None, info.fingerprint):
            return (
                f"has other examples in data set '{_named(needs.dataset)}' "
                f"(fingerprint {info.fingerprint[:12]}, and {needs.fingerprint[:12]} is needed)"
            )
        return None


def _named(dataset: DatasetSpec) -> str:
    return dataset.name if dataset.path is None else dataset.path
