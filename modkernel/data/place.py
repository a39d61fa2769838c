"""Where a loaded data set lives while a device trains on it."""

from __future__ import annotations

from dataclasses import replace

import torch

from modkernel.data.sources import Resident
from modkernel.data.values import Dataset


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
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    resident = {
        name: split.images for name, split in splits.items() if isinstance(split.images, Resident)
    }
    # The splits of a set are neighbours in one tensor, and stay so.
    bases = {id(images.base): images.base for images in resident.values()}
    if device.type == "cpu" or not bases:
        return data
    if limit is None:
        limit = torch.cuda.mem_get_info(device)[0] // 2
    if sum(base.nbytes for base in bases.values()) > limit:
        return data
    moved = {key: base.to(device) for key, base in bases.items()}
    return replace(
        data,
        **{
            name: replace(
                splits[name],
                images=Resident(moved[id(images.base)], images.start, images.stop),
            )
            for name, images in resident.items()
        },
    )
