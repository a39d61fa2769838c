"""CUDA graphs: a function of tensors of fixed shapes is captured once, and then replayed.

A step of a small network starts hundreds of kernels, and starting them takes longer than they run.
A replay starts all of them at once. What it computes is what the function computed when it was
captured: the same kernels, in the same memory, on other inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modkernel.system.precision import Arithmetic

log = logging.getLogger(__name__)

WARM_UP_CALLS = 3
"""Calls that run as they are before the capture: they make what is made once (states of the
optimiser, workspaces) and choose the fastest convolutions, none of which can be captured."""
KNOWN_CODE = ("modkernel", "torch", "torchvision", "timm")
"""Packages whose modules choose on the device, if at all. What Python code of others decides anew
in every step, a replay would repeat."""


def can_replay(arithmetic: Arithmetic, *modules: nn.Module) -> bool:
    """Whether what modules compute may be captured: on a GPU, and where all their code is known."""
    parts = (part for module in modules for part in module.modules())
    return (
        arithmetic.graphs
        and arithmetic.device.type == "cuda"
        and all(type(part).__module__.split(".")[0] in KNOWN_CODE for part in parts)
    )


class Replayed:
    """A function of tensors on a GPU that gives one tensor, captured and then replayed.

    The first calls run the function itself, as do those with inputs of other shapes than the
    captured ones. A function that cannot be captured (it waits for the GPU, mostly) always runs
    itself, and the log says so. What the function changes, a replay changes too; Python values that
    it reads stay as they were.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self.function, self.device = function, device
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.calls = 0
        self.failed = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the function gives of inputs on the device."""
        self.calls += 1
        if self.calls == 1:
            self.inputs = tuple(torch.empty_like(given) for given in inputs)
        fits = [(x.shape, x.dtype) for x in self.inputs] == [(x.shape, x.dtype) for x in inputs]
        if self.failed or not fits or self.calls <= WARM_UP_CALLS:
            return self._run(inputs)
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        if self.graph is None and not self._capture():
            return self._run(inputs)
        assert self.graph is not None
        self.graph.replay()
        return self.output.clone()

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The function itself, on the stream of the capture: autograd ties gradients to one."""
        before = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(before)
        with torch.cuda.stream(self.stream), _fastest_convolutions():
            found = self.function(*inputs)
        before.wait_stream(self.stream)
        return found

    def _capture(self) -> bool:
        """Capture the function, which runs nothing; false where that fails."""
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                _fastest_convolutions(),
                torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                self.output = self.function(*self.inputs)
        except RuntimeError as error:
            log.warning("Steps run one kernel at a time: they cannot be captured (%s).", error)
            self.failed = True
            self.inputs = ()
            torch.cuda.synchronize(self.device)
            _end_capture_of_random_numbers(self.device)
            return False
        self.graph = graph
        return True


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Have cuDNN time its algorithms, once for each shape, and take the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _end_capture_of_random_numbers(device: torch.device) -> None:
    """A generator that a failed capture has drawn from would refuse to draw outside of one."""
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())
