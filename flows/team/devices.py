"""The devices of this machine, as a worker tells them: asked in a process of its own.

Asking a GPU for its name and memory starts CUDA, which would take some of its memory for as long
as the process lives.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from modkernel.errors import ServiceError, SettingsError
from modkernel.registry import Settings
from modkernel.spec import Spec
from modkernel.system.limits import all_memory

GIB = 2**30


class DeviceFacts(Spec):
    """One GPU, or the place of one training on the CPU."""

    kind: Literal["cpu", "cuda"]
    index: str
    """As `CUDA_VISIBLE_DEVICES` names it, or the number of the place on the CPU."""
    name: str
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.index} {self.name} {self.memory_bytes / GIB:.0f} GiB"


def devices(settings: Settings) -> tuple[DeviceFacts, ...]:
    """What computes on this machine under the settings: its GPUs, else places on the CPU.

    Raises:
        SettingsError: 'cuda' is set and there is no GPU.
        ServiceError: they cannot be listed.
    """
    found = subprocess.run(
        [sys.executable, "-m", "modkernel.flows.team.devices"], capture_output=True, text=True
    )
    if found.returncode != 0:
        last = (found.stderr.strip().splitlines() or ["no word"])[-1]
        raise ServiceError(f"Cannot list this machine's devices: {last}.")
    listed = json.loads(found.stdout)
    gpus = () if settings.device == "cpu" else tuple(map(DeviceFacts.model_validate, listed))
    if gpus:
        return gpus
    if settings.device == "cuda":
        raise SettingsError(
            "Device 'cuda' is set and no GPU can be used here: set MODKERNEL_DEVICE to 'auto' or "
            "'cpu', or see 'nvidia-smi' and 'modkernel doctor'."
        )
    memory = all_memory() // settings.cpu_slots
    return tuple(
        DeviceFacts(kind="cpu", index=str(place), name="CPU", memory_bytes=memory)
        for place in range(settings.cpu_slots)
    )


def named(found: Sequence[DeviceFacts]) -> tuple[str, ...]:
    """Devices for people: those of a kind together."""
    kinds = Counter(f"{one.kind} {one.name} {one.memory_bytes / GIB:.0f} GiB" for one in found)
    return tuple(f"{number} × {kind}" for kind, number in kinds.items())


def main() -> None:
    """Print the GPUs as JSON."""
    import torch

    from modkernel.jobs.slots import gpus

    found = []
    for place, index in enumerate(gpus()):
        about = torch.cuda.get_device_properties(place)
        name = about.name.removeprefix("NVIDIA ")
        found.append(
            {"kind": "cuda", "index": index, "name": name, "memory_bytes": about.total_memory}
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
