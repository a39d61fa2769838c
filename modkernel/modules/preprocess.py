"""Normalisation of raw examples before the first module, as part of a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modkernel.errors import InterfaceError, SpecError
from modkernel.spec import Preprocessing

_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
"""torch's type by its name in `Preprocessing.dtype`."""


class Normalise(nn.Module):
    """Raw examples [N, *shape], uint8 or float32 as `spec` says -> normalised float32 [N, *shape].

    uint8 is divided by 255 first; then the mean is taken off and the result divided by std, one
    value per channel (images) or column (vectors). In vectors, values outside a column's bounds are
    set to the nearer one before, and missing values (NaN) become 0, the mean.

    Raises:
        SpecError: mean and std are not one for all or one per channel or column, the bounds are
            not one pair or None per column, or a std is not positive.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, spec: Preprocessing) -> None:
        super().__init__()
        self.spec = spec
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            if len(values) not in (1, spec.shape[0]):
                raise SpecError(
                    f"Preprocessing of shape {list(spec.shape)} has {len(values)} values of "
                    f"{name}: give one per channel or column, or one for all."
                )
        if min(spec.std) <= 0:
            raise SpecError("Preprocessing has a std that is not positive: use 1 for constants.")
        if spec.bounds is not None and (len(spec.bounds),) != spec.shape:
            raise SpecError(
                f"Preprocessing of shape {list(spec.shape)} has {len(spec.bounds)} bounds: give "
                "[least, greatest] or null for each column of vectors, and none for images."
            )
        ones = (1,) * (len(spec.shape) - 1)
        # Not part of the state dict: they are stored in the spec of every module.
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, *ones), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(-1, *ones), persistent=False)
        bounds = [pair or (-math.inf, math.inf) for pair in spec.bounds or ()]
        for name, side in (("low", 0), ("high", 1)):
            limits = torch.tensor([pair[side] for pair in bounds])
            self.register_buffer(name, limits, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch.

        Raises:
            InterfaceError: another shape or dtype than the network was trained on.
        """
        if x.shape[1:] != self.spec.shape or x.dtype != _DTYPES[self.spec.dtype]:
            found = str(x.dtype).removeprefix("torch.")
            expected = ", ".join(map(str, self.spec.shape))
            raise InterfaceError(
                f"The network takes {self.spec.dtype} batches of shape [N, {expected}], "
                f"but got {found} of shape {list(x.shape)}: {self._remedy()}."
            )
        if self.spec.dtype == "uint8":
            return (x.float() / 255 - self.mean) / self.std
        if self.spec.bounds is not None:
            x = x.clamp(self.low, self.high)
        scaled = (x - self.mean) / self.std
        return scaled.masked_fill_(scaled.isnan(), 0)

    def _remedy(self) -> str:
        if len(self.spec.shape) == 3:
            return (
                "load the data with the image_size and channels that the network was trained with"
            )
        return "give the columns that the network was trained with, in their order"
