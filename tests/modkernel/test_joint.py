"""Joining modules: moments, scores and the choice are those of concatenated features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from modkernel.backbones import build_hidden
from modkernel.errors import MomentsError, ScoreError
from modkernel.modules.cost import hidden_cost
from modkernel.reuse.joint import Features, Sample, choose, joint_moments
from modkernel.reuse.scores import reusability
from tests.modkernel.helpers.stored_examples import PREPROCESSING, make_hidden

SIDES = 3
CLASSES = ("a", "b", "c")


def unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=1, keepdim=True).clamp_min(1e-12)


def modules(count: int, seed: int = 0) -> tuple[list[Features], Tensor, Tensor]:
    """Features of modules that each see a little of what tells three sides apart."""
    draw = torch.Generator().manual_seed(seed)
    sides = [torch.arange(n) % SIDES for n in (210, 120)]
    centres = torch.randn(SIDES, 24, generator=draw)
    hidden = [centres[each] + torch.randn(len(each), 24, generator=draw) for each in sides]
    found = []
    for place in range(count):
        sees = torch.randn(24, 4 + place % 3, generator=draw)
        sees[torch.rand(24, generator=draw) < 0.8] = 0
        train, held_out = (unit(torch.relu(part @ sees)) for part in hidden)
        found.append((train, held_out))
    return found, sides[0], sides[1]


def test_joint_moments_and_scores_are_those_of_concatenated_features() -> None:
    (one, two, three), labels, _ = (modules(3)[0], *modules(3)[1:])
    parts = [one[0], two[0], three[0]]
    labels[::17] = -1
    found = joint_moments(parts, labels, CLASSES, "f")
    joined = torch.cat(parts, dim=1).double()
    for number in range(SIDES):
        rows = joined[labels == number]
        torch.testing.assert_close(found.sums[number], rows.sum(0), rtol=0, atol=1e-9)
        torch.testing.assert_close(found.products[number], rows.T @ rows, rtol=0, atol=1e-9)
    # The kernel of the joint features is the sum of the modules' kernels.
    known = labels >= 0
    kernel = sum(part[known].double() @ part[known].double().T for part in parts)
    same = labels[known][:, None] == labels[known][None]
    above = torch.ones_like(same).triu(1)
    oracle = np.corrcoef(kernel[above], same[above].double())[0, 1]
    assert reusability(found, score="pair_correlation") == pytest.approx(oracle, abs=1e-9)
    with pytest.raises(MomentsError, match="210, 120 examples cannot be joined under 210"):
        joint_moments([one[0], two[1]], labels, CLASSES, "f")


def by_hand(parts: list[Features], sample: Sample) -> tuple[float, float, float]:
    """Squared error that chooses, share explained and balanced accuracy that judge."""
    train = torch.cat([part[0] for part in parts], 1)[sample.train].double().numpy()
    held = torch.cat([part[1] for part in parts], 1)[sample.held_out].double().numpy()
    targets = np.eye(SIDES)[sample.train_sides]
    n = len(train)
    ridge = Ridge(alpha=n * min(1e-3, 0.1 / n)).fit(train, targets)
    outputs, sides = ridge.predict(held), sample.held_out_sides.numpy()
    errors = ((outputs - np.eye(SIDES)[sides]) ** 2).sum(1)
    start = ((targets.mean(0) - np.eye(SIDES)[sides]) ** 2).sum(1)
    right = outputs.argmax(1) == sides
    by = np.arange(len(held)) < sample.choosing

    def mean(values: np.ndarray, rows: np.ndarray) -> float:
        return float(np.mean([values[rows & (sides == side)].mean() for side in range(SIDES)]))

    return mean(errors, by), 1 - mean(errors, ~by) / mean(start, ~by), mean(right, ~by)


def test_each_step_is_the_best_by_brute_force() -> None:
    features, train, held_out = modules(7)
    held_out[::11] = -1
    sample = Sample.of(train, held_out, 1000)
    found = choose(features.__getitem__, len(features), sample, 4)
    chosen: list[Features] = []
    left = set(range(len(features)))
    assert len(found.steps) >= 2
    before = 1 / SIDES
    for step in found.steps:
        best = min(left, key=lambda place: by_hand([*chosen, features[place]], sample)[0])
        assert step.place == best
        left.remove(best)
        chosen.append(features[best])
        _, explained, accuracy = by_hand(chosen, sample)
        assert step.explained == pytest.approx(explained, abs=1e-9)
        assert step.accuracy == pytest.approx(accuracy, abs=1e-9)
        assert step.gain == pytest.approx(accuracy - before, abs=1e-9)
        assert step.features == sum(part[0].shape[1] for part in chosen)
        before = accuracy


def test_what_brings_nothing_ends_the_choice() -> None:
    (good, *_), train, held_out = modules(1)
    draw = torch.Generator().manual_seed(1)
    noise = [
        tuple(unit(torch.rand(len(part), 5, generator=draw)) for part in good) for _ in range(30)
    ]
    candidates: list[Features] = [*noise, good, good]  # type: ignore[list-item]
    sample = Sample.of(train, held_out, 1000)
    found = choose(candidates.__getitem__, len(candidates), sample, 6)
    assert [step.place for step in found.steps] == [30]
    assert found.refused is not None
    assert found.refused.brings < 2


def test_modules_whose_features_are_gone_are_told() -> None:
    features, train, held_out = modules(4)
    sample = Sample.of(train, held_out, 1000)
    gone = {1, 2}
    found = choose(lambda place: None if place in gone else features[place], 4, sample, 4)
    assert found.unusable == (1, 2)
    assert not gone & {step.place for step in found.steps}
    with pytest.raises(ScoreError, match="are in the cache"):
        choose(lambda _: None, 4, sample, 4)


def test_a_sample_is_an_even_share_of_each_side() -> None:
    train = torch.tensor([0] * 600 + [1] * 300 + [-1] * 50)
    held_out = torch.tensor([1, -1, 0] * 30)
    sample = Sample.of(train, held_out, 90)
    assert torch.bincount(sample.train_sides).tolist() == [60, 30]
    assert torch.equal(train[sample.train], sample.train_sides)
    assert torch.equal(held_out[sample.held_out], sample.held_out_sides)
    halves = sample.held_out_sides.tensor_split([sample.choosing])
    assert [torch.bincount(half).tolist() for half in halves] == [[15, 15], [15, 15]]
    assert len(sample.held_out.unique()) == 60
    for few in (torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([-1, -1])):
        with pytest.raises(ScoreError, match="at least 4 validation examples of each side"):
            Sample.of(train, few, 90)


def test_the_cost_of_a_module_is_that_of_its_layers() -> None:
    spec, module = make_hidden(("stem",), (1, 8, 8), PREPROCESSING.id)
    made = build_hidden(spec.backbone, spec.blocks, (1, 8, 8), 0)
    products, layers = 0, 0
    for layer in made.modules():
        if isinstance(layer, torch.nn.Conv2d):
            products, layers = products + layer.weight.numel() * 8 * 8, layers + 1
    found = hidden_cost("0" * 64, spec)
    assert (found.multiply_adds, found.layers) == (products, layers)
    assert layers > 0
    assert found.parameters == sum(each.numel() for each in module.parameters())
