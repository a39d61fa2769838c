"""What of a data set stays in memory: main memory, and that of the GPU that trains on it.

Both have the limit `resident_limit`, or half of what is free.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modkernel.data.dataset import Dataset, Split
from modkernel.data.sources import Resident
from modkernel.system.memory import free_memory


def fits_main_memory(size: int, limit: int | None = None) -> bool:
    """Whether decoded examples are held in main memory, or decoded again for every batch.

    Args:
        size: of all examples, in bytes.
        limit: bytes above which they are not held; half of the free memory if None.
    """
    return size <= (free_memory() // 2 if limit is None else limit)


def place_dataset(data: Dataset, device: torch.device, limit: int | None = None) -> Dataset:
    """The data set with its raw examples on `device`, where they fit.

    They are copied there once; a training step then picks its batch on the device. What does not
    fit, or is streamed from files, stays where it is and is copied batch by batch.

    Args:
        data: in memory or streamed.
        device: that trains.
        limit: bytes of examples above which they do not move to a GPU; half of its free memory if
            None.
    """
    # The splits of a set are neighbours in one tensor, and stay so.
    bases = {
        id(split.examples.base): split.examples.base
        for split in (data.train, data.validation, data.test, data.unlabelled)
        if split is not None and isinstance(split.examples, Resident)
    }
    if device.type == "cpu" or not bases:
        return data
    if limit is None:
        limit = torch.cuda.mem_get_info(device)[0] // 2
    if sum(base.nbytes for base in bases.values()) > limit:
        return data
    moved = {key: base.to(device) for key, base in bases.items()}
    return replace(
        data,
        train=_onto(data.train, moved),
        validation=_onto(data.validation, moved),
        test=_onto(data.test, moved),
        unlabelled=None if data.unlabelled is None else _onto(data.unlabelled, moved),
    )


def _onto(split: Split, moved: dict[int, Tensor]) -> Split:
    examples = split.examples
    if not isinstance(examples, Resident):
        return split
    return replace(split, examples=replace(examples, base=moved[id(examples.base)]))
