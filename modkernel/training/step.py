"""One step of an optimisation: loss, gradient, clipping, optimiser; replayed on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modkernel.spec import Recipe
from modkernel.training.parallel.ranks import Ranks
from modkernel.training.problem import PreparedProblem, Problem
from modkernel.training.replay import Replayed

Step = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Takes a step on a raw batch [B, …], its indices [B] and the step's generator, and returns the
loss before it, a scalar; of a model of several parts, one each."""

Clip = Callable[[Sequence[nn.Parameter], float], object]
"""Scales the gradients of parameters down, in place, to a largest norm."""


def make_step(
    problem: Problem,
    recipe: Recipe,
    optimizer: Optimizer,
    trained: Sequence[nn.Parameter],
    ranks: Ranks,
    clip: Clip,
) -> Step:
    """How a problem's steps are taken: replayed where they can be."""

    def update(loss: Tensor | Iterator[Tensor]) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = _descend(loss) if isinstance(loss, Tensor) else torch.stack([*map(_descend, loss)])
        ranks.sum_gradients(trained)
        if recipe.clip_norm is not None:
            for group in optimizer.param_groups:  # One for each part of the model.
                clip(group["params"], recipe.clip_norm)
        optimizer.step()
        return value

    if isinstance(problem, PreparedProblem) and problem.replayable:
        return _replayed(problem, optimizer, update, trained[0].device)
    return lambda raw, indices, generator: update(problem.loss(raw, indices, generator))


def _descend(loss: Tensor) -> Tensor:
    """Add a loss's gradient to its parameters'; the loss without it."""
    loss.backward()
    return loss.detach()


def _replayed(
    problem: PreparedProblem,
    optimizer: Optimizer,
    update: Callable[[Tensor | Iterator[Tensor]], Tensor],
    device: torch.device,
) -> Step:
    replayed = Replayed(lambda *inputs: update(problem.prepared_loss(*inputs)), device)
    rate = torch.zeros((), device=device)

    def step(raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        inputs = problem.prepare(raw, indices, generator)
        with _rate_on_device(optimizer, rate):
            return replayed(*inputs)

    return step


@contextmanager
def _rate_on_device(optimizer: Optimizer, rate: Tensor) -> Iterator[None]:
    """Have the optimiser read its learning rate from a tensor: a number would be captured."""
    (group,) = optimizer.param_groups
    number = float(group["lr"])
    group["lr"] = rate.fill_(number)
    try:
        yield
    finally:
        group["lr"] = number


class LateScalar:
    """A number on a device that is looked at now and then, without a wait for it.

    Of a GPU, a look gives the number as it was at the look before: its copy came meanwhile.
    """

    def __init__(self) -> None:
        self.copy = torch.zeros(())
        self.copied: torch.cuda.Event | None = None

    def latest(self, scalar: Tensor) -> float:
        """The newest value that is known of the scalar; 0 at the first look at a GPU."""
        if not scalar.is_cuda:
            return scalar.item()
        if self.copied is not None:
            self.copied.synchronize()
        known = self.copy.item()
        self.copy = scalar.to("cpu", non_blocking=True)
        self.copied = torch.cuda.Event()
        self.copied.record(torch.cuda.current_stream(scalar.device))
        return known
