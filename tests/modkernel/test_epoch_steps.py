"""Steps of an epoch are known without drawing one: to draw many classes' batches takes time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modkernel.control import UNWATCHED
from modkernel.pairs.groups import PairGroups
from modkernel.spec import Recipe
from modkernel.training.end_to_end import WholeProblem
from modkernel.training.heads import Heads, HeadsProblem, cross_entropy
from modkernel.training.hidden import hidden_problem, train_hidden
from modkernel.training.problem import Problem
from modkernel.training.stitch import StitchProblem
from modkernel.training.together import TogetherProblem
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.training_examples import FACTS, MLP, PREPROCESSING, paired, plans

UNUSED: Any = None


def test_every_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    batches = PairGroups.batches

    def counted(self: PairGroups, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        drawn.append(self.n)
        return batches(self, size, generator)

    monkeypatch.setattr(PairGroups, "batches", counted)
    (plan,) = plans(MLP, Recipe(epochs=2, batch_size=16), kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    train_hidden(spec, paired(48), paired(20, 1), arithmetic=FLOAT32)
    assert drawn == [20, 48, 48]  # What is validated on is drawn before the first epoch.


def problem_of(kind: str, recipe: Recipe, count: int) -> Problem:
    if kind == "heads":
        rows = torch.arange(count)
        size = min(recipe.batch_size, count)
        zeros = torch.zeros(count, 1)
        return HeadsProblem(Heads(1, 1, 2), zeros, rows, rows[None], cross_entropy, size, 3)
    if kind == "stitch":
        rows = torch.arange(count)
        return StitchProblem(
            *[UNUSED] * 4, train=rows, held_out=rows, recipe=recipe, arithmetic=UNUSED
        )
    if kind == "whole":
        labels = torch.zeros(count, dtype=torch.int64)
        return WholeProblem(UNUSED, UNUSED, recipe, UNUSED, labels, *[UNUSED] * 3)
    (plan,) = plans(MLP, recipe, kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    hidden = hidden_problem(spec, paired(count), paired(20, 1), (), FLOAT32, UNWATCHED, None)
    return hidden if kind == "hidden" else TogetherProblem(UNUSED, [hidden])


@pytest.mark.parametrize("kind", ["hidden", "together", "heads", "stitch", "whole"])
@pytest.mark.parametrize("count", [7, 32, 47])
def test_there_are_as_many_batches_as_is_said(kind: str, count: int) -> None:
    problem = problem_of(kind, Recipe(batch_size=16), count)
    assert len(problem.batches(torch.Generator().manual_seed(0))) == problem.steps
