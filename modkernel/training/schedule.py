"""torch's optimisers and learning-rate schedules, from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
)

from modkernel.spec import Recipe

Parameters = Sequence[nn.Parameter]

OPTIMIZERS: dict[str, Callable[[Parameters, Recipe], Optimizer]] = {
    "sgd": lambda parameters, r: SGD(
        parameters,
        lr=r.learning_rate,
        momentum=r.momentum,
        weight_decay=r.weight_decay,
        nesterov=r.momentum > 0,
        fused=True,
    ),
    "adam": lambda parameters, r: Adam(
        parameters,
        lr=r.learning_rate,
        betas=(r.momentum, 0.999),
        weight_decay=r.weight_decay,
        fused=True,
        capturable=parameters[0].is_cuda,
    ),
    "adamw": lambda parameters, r: AdamW(
        parameters,
        lr=r.learning_rate,
        betas=(r.momentum, 0.999),
        weight_decay=r.weight_decay,
        fused=True,
        capturable=parameters[0].is_cuda,
    ),
}
"""Optimiser of parameters by its name in `Recipe.optimizer`."""

SCHEDULES: dict[str, Callable[[Optimizer, Recipe, int, int], LRScheduler]] = {
    "one_cycle": lambda optimizer, r, epochs, steps: (
        OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=epochs * steps,
            # A cycled momentum would make a recipe's own momentum a mere bound.
            cycle_momentum=False,
        )
        if epochs * steps > 1
        else ConstantLR(optimizer, factor=1.0)  # A cycle of one step is its end, where all stops.
    ),
    "cosine": lambda optimizer, r, epochs, steps: CosineAnnealingLR(optimizer, epochs * steps),
    "multistep": lambda optimizer, r, epochs, steps: MultiStepLR(
        optimizer, [epoch * steps for epoch in r.milestones], gamma=0.1
    ),
    "constant": lambda optimizer, r, epochs, steps: ConstantLR(optimizer, factor=1.0),
}
"""Schedule of an optimiser over epochs and steps an epoch, by its name in `Recipe.schedule`."""


def make_optimizer(recipe: Recipe, parameters: Parameters) -> Optimizer:
    """The recipe's optimiser."""
    return OPTIMIZERS[recipe.optimizer](parameters, recipe)


def add_parts(optimizer: Optimizer, parts: Iterable[tuple[Recipe, Parameters]]) -> None:
    """Have an optimiser update more parameters, by the rates of recipes of their own."""
    for recipe, parameters in parts:
        (group,) = make_optimizer(recipe, parameters).param_groups
        optimizer.add_param_group(group)


def make_schedule(recipe: Recipe, optimizer: Optimizer, epochs: int, steps: int) -> LRScheduler:
    """The recipe's schedule, to be stepped once after each of `epochs * steps` steps."""
    return SCHEDULES[recipe.schedule](optimizer, recipe, epochs, steps)
