"""Normalisation of raw examples before the first module, as part of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modkernel.errors import InterfaceError, SpecError
from modkernel.spec import Preprocessing

_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
"""torch's type by its name in `Preprocessing.dtype`."""


class Normalise(nn.Module):
    """Raw examples [N, *shape], uint8 or float32 as `spec` says -> normalised float32 [N, *shape].

    uint8 is divided by 255 first; then the mean is taken off and the result divided by std, one
    value per channel (images) or a single one (vectors).

    Raises:
        SpecError: mean and std are not one for all or one per channel, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Preprocessing) -> None:
        super().__init__()
        self.spec = spec
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            if len(values) not in (1, spec.shape[0] if len(spec.shape) == 3 else 1):
                raise SpecError(
                    f"Preprocessing of shape {list(spec.shape)} has {len(values)} values of "
                    f"{name}: give one per channel for images, a single one for vectors."
                )
        if min(spec.std) <= 0:
            raise SpecError("Preprocessing has a std that is not positive: use 1 for constants.")
        ones = (1,) * (len(spec.shape) - 1)
        # Not part of the state dict: they are stored in the spec of every module.
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, *ones), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(-1, *ones), persistent=False)

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
                f"but got {found} of shape {list(x.shape)}: load the "
                "data with the image_size and channels that the network was trained with."
            )
        scaled = x.float() / 255 if self.spec.dtype == "uint8" else x
        return (scaled - self.mean) / self.std
