"""Where and in which number format the heavy arithmetic runs.

Only convolutions and linear maps run in bfloat16, under autocast. Kernel matrices and objectives
are computed in float32 or float64 outside of it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modkernel.errors import SettingsError


@dataclass(frozen=True)
class Arithmetic:
    """A device and a number format."""

    device: torch.device
    dtype: torch.dtype
    """torch.bfloat16 (under autocast) or torch.float32."""
    graphs: bool = True
    """Whether a GPU's training steps are captured once and replayed (`training/replay.py`)."""

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which a module's forward pass runs."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device; convolutions get channels-last weights."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def arrange(self, x: Tensor) -> Tensor:
        """Lay a batch of images [B, C, H, W] out as channels-last; leave vectors alone."""
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    @property
    def threads(self) -> int | None:
        """Threads that compute on a CPU; None on a GPU.

        Sums are split among them, so that another number of threads rounds otherwise.
        """
        return torch.get_num_threads() if self.device.type == "cpu" else None

    @property
    def name(self) -> str:
        """`bfloat16` or `float32`."""
        return str(self.dtype).removeprefix("torch.")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch.cpu.get_capabilities() is the public way, but torch 2.9 does not have it yet.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_arithmetic(
    device: str = "auto", precision: Literal["auto", "float32", "bfloat16"] = "auto"
) -> Arithmetic:
    """Resolve `auto` to what this machine does best.

    Raises:
        SettingsError: `cuda` was asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(
            f"Device '{device}' was asked for, but torch sees no GPU here: "
            "set the device to 'cpu' or 'auto', or install a CUDA build of torch and its driver."
        )
    place = torch.device(device)
    fast = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(place))
    return Arithmetic(place, torch.bfloat16 if fast else torch.float32)
