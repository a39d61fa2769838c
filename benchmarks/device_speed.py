"""How fast a device is at best, and how much arithmetic a network asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

BACKWARD_AND_FORWARD = 3
"""Training takes about three times the operations of a forward pass: the backward pass has a
product for the inputs' gradient and one for the weights'."""


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean seconds of one of so many runs in a row, after three that do not count."""
    for _ in range(3):
        run()
    finish(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    finish(device)
    return (time.perf_counter() - began) / times


def measured_peak(device: torch.device, size: int, times: int = 20) -> float:
    """Operations a second of a bfloat16 product of two size x size matrices of random numbers."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b, out=out), times, device)


def training_operations(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Operations of one training example of a shape: multiplications and additions both count."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(2, *shape))
    return BACKWARD_AND_FORWARD * counter.get_total_flops() // 2
