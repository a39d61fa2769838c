"""Learning rates by step."""

from __future__ import annotations

import torch
from torch import nn

from modkernel.spec import Recipe
from modkernel.training.schedule import make_optimizer, make_schedule


def rates(recipe: Recipe, steps: int) -> list[float]:
    optimizer = make_optimizer(recipe, [nn.Parameter(torch.zeros(1))])
    schedule = make_schedule(recipe, optimizer, 1, steps)
    found = []
    for _ in range(steps):
        found += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return found


def test_a_cycle_reaches_its_peak_however_short_it_is() -> None:
    recipe = Recipe(schedule="one_cycle", learning_rate=0.25)
    assert rates(recipe, 1) == [0.25]
    assert max(rates(recipe, 50)) > 0.24
    assert rates(recipe, 50)[-1] < 1e-4
