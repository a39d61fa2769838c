"""A GPU's replayed steps are those of single kernels; what cannot be replayed runs as it is."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from modkernel.kernels import make_kernel
from modkernel.modules.preprocess import Normalise
from modkernel.objectives.table import OBJECTIVES, make_objective
from modkernel.pairs.labels import PairLabels
from modkernel.spec import BackboneSpec, KernelSpec, ObjectiveSpec, Recipe
from modkernel.system.precision import Arithmetic
from modkernel.training import train_hidden
from modkernel.training.replay import WARM_UP_CALLS, Replayed, can_replay
from tests.modkernel.helpers.devices import DEVICE, FLOAT32, needs_gpu
from tests.modkernel.helpers.training_examples import FACTS, PREPROCESSING, paired, plans

RESNET = BackboneSpec(name="resnet18", width=2)
RECIPES = {
    "sgd": Recipe(epochs=3, batch_size=32, crop_padding=1, flip=True),
    "clipped": Recipe(epochs=3, batch_size=32, clip_norm=0.5),
    "adamw": Recipe(epochs=3, batch_size=32, optimizer="adamw", learning_rate=0.01),
    "adam": Recipe(epochs=3, batch_size=32, optimizer="adam", learning_rate=0.01),
}


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_replayed_training_is_that_of_single_kernels(
    recipe: Recipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another algorithm of a convolution rounds otherwise.
    monkeypatch.setattr("modkernel.training.replay._fastest_convolutions", nullcontext)
    (plan,) = plans(RESNET, recipe)
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=3)
    parts = paired(160), paired(70, 1)  # 5 steps an epoch, and 3 batches of validation.
    runs = [
        train_hidden(spec, *parts, arithmetic=replace(FLOAT32, graphs=graphs))
        for graphs in (False, True)
    ]
    assert not caplog.records, caplog.text
    (eager, told), (replayed, report) = runs
    for one, other in zip(told.history, report.history, strict=True):
        assert other.objective == pytest.approx(one.objective, rel=1e-4)
        assert other.validation == pytest.approx(one.validation, rel=1e-3)
        assert other.learning_rate == one.learning_rate
    for name, value in eager.items():
        torch.testing.assert_close(replayed[name], value, rtol=1e-3, atol=1e-4, msg=name)


@needs_gpu
@pytest.mark.gpu
def test_a_replayed_function_changes_what_it_captured_and_takes_new_inputs() -> None:
    total = torch.zeros(4, device=DEVICE)

    def add(x: Tensor) -> Tensor:
        return total.add_(x).sum()

    replayed, expected = Replayed(add, DEVICE), torch.zeros(4)
    for call in range(WARM_UP_CALLS + 4):
        given = torch.full((4,), float(call))
        expected += given
        assert replayed(given.to(DEVICE)).item() == expected.sum().item()
    assert replayed.graph is not None
    assert replayed(torch.ones(1, device=DEVICE)).item() == expected.sum().item() + 4
    assert torch.equal(total.cpu(), expected + 1)


@needs_gpu
@pytest.mark.gpu
def test_what_cannot_be_captured_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    dropped = nn.Dropout(0.5)
    seen = []

    def waits(x: Tensor) -> Tensor:
        y = dropped(x).sum()
        seen.append(y.item())
        return y

    replayed = Replayed(waits, DEVICE)
    with caplog.at_level(logging.WARNING):
        found = [replayed(torch.ones(64, device=DEVICE)).item() for _ in range(WARM_UP_CALLS + 3)]
    assert found == seen
    assert len(set(found)) > 1
    assert len(caplog.records) == 1
    assert replayed.graph is None
    assert dropped(torch.ones(8, device=DEVICE)).shape == (8,)
    assert Replayed(lambda x: x + 1, DEVICE)(torch.ones(1, device=DEVICE)).item() == 2


def test_steps_of_unknown_code_are_not_replayed() -> None:
    class Own(nn.Linear):
        """Its forward pass may decide anything in Python."""

    known = nn.Sequential(nn.Conv2d(3, 4, 3), Normalise(PREPROCESSING))
    gpu = Arithmetic(torch.device("cuda"), torch.float32)
    assert can_replay(gpu, known)
    assert not can_replay(gpu, nn.Sequential(*known, Own(1, 1)))
    assert not can_replay(replace(gpu, graphs=False), known)
    assert not can_replay(Arithmetic(torch.device("cpu"), torch.float32), known)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("listed", [False, True], ids=["classes", "pairs"])
def test_objectives_of_tensors_are_those_of_numbers(name: str, listed: bool) -> None:
    """What a replay computes from counts on the device is what the host's counts give."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (24,), generator=generator)
    pairs = PairLabels.from_classes(labels)
    if listed:
        i, j = torch.triu_indices(24, 24, 1)[:, torch.randperm(276, generator=generator)[:90]]
        pairs = PairLabels.from_pairs(24, i, j, labels[i] == labels[j])
    kernel = make_kernel(KernelSpec(name="tanh"))
    objective = make_objective(ObjectiveSpec(name=name), kernel)
    h = torch.randn(24, 5, generator=generator, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        gram = kernel.gram(h.to(dtype), h.to(dtype))
        found = objective.value(gram, PairLabels.of_tensors(*pairs.tensors()))
        assert found.dtype == dtype
        torch.testing.assert_close(found, objective(gram, pairs), rtol=tolerance, atol=tolerance)
