"""Modules in one pass: each by its own objective alone, resumable bit for bit, never confused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modkernel.backbones import build_hidden
from modkernel.control import UNWATCHED, Control
from modkernel.errors import SpecError, StoppedError
from modkernel.features.extractor import frozen_chain
from modkernel.modules.stored import write_module
from modkernel.pairs.labels import PairLabels
from modkernel.plan import HiddenPlan, plan_hidden
from modkernel.spec import BackboneSpec, HiddenSpec, ObjectiveSpec, Recipe
from modkernel.spec.group import GroupSpec
from modkernel.system.seeding import generator_for
from modkernel.training.hidden import hidden_problem, train_hidden
from modkernel.training.report import TrainReport
from modkernel.training.together import TogetherProblem, _on, train_together, write_group
from modkernel.training.with_tail import with_tail
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.training_examples import (
    FACTS,
    PREPROCESSING,
    made_images,
    paired,
)

pytestmark = pytest.mark.gpu

PLAIN = Recipe(epochs=3, batch_size=32)
AUGMENTED = Recipe(
    epochs=2, batch_size=32, crop_padding=1, flip=True, optimizer="adamw", clip_norm=0.5
)
DATA = paired(96), paired(30, 1)
Trained = tuple[tuple[dict[str, Tensor], TrainReport], ...]


DEEP = BackboneSpec(name="mlp", width=16, depth=3)


def group(*recipes: Recipe, temperature: float = 0.1, backbone: BackboneSpec = DEEP) -> GroupSpec:
    """Small modules; the temperature is the last one's."""
    hidden = [HiddenSpec(recipe=one) for one in recipes]
    hidden[-1] = hidden[-1].changed(
        objective=ObjectiveSpec(name="anchor_contrastive", temperature=temperature)
    )
    plans = plan_hidden(backbone, hidden, PREPROCESSING.shape)
    return of(plans)


def of(plans: Sequence[HiddenPlan], upstream: str = PREPROCESSING.id) -> GroupSpec:
    return GroupSpec.of([plan.spec(upstream, PREPROCESSING, FACTS, 3) for plan in plans])


def fit(spec: GroupSpec, control: Control = UNWATCHED) -> Trained:
    return train_together(spec, *DATA, arithmetic=FLOAT32, control=control)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def numbers(report: TrainReport) -> list[tuple[float, float | None]]:
    return [(line.objective, line.validation) for line in report.history]


def test_each_gradient_is_that_of_the_modules_own_objective() -> None:
    """Against gradients in float64 of one module at a time, on outputs that have none."""
    # Batch norms in train mode; two blocks a stage.
    spec = group(PLAIN, PLAIN, PLAIN, backbone=BackboneSpec(name="resnet18", width=8))
    first = hidden_problem(spec.modules[0], *DATA, (), FLOAT32, UNWATCHED, None)
    members = [first, *(_on(first, one, *DATA) for one in spec.modules[1:])]
    problem = TogetherProblem(nn.ModuleList([one.model for one in members]), members)
    problem.model.train()
    indices = torch.arange(32)
    (raw,) = problem.load([indices], 0)
    for loss in problem.loss(raw, indices, generator_for(0)):
        loss.backward()

    images, labels = made_images(96)
    pairs = PairLabels.from_classes(labels[:32])
    x = (images[:32].double() / 255 - 0.5) / 0.25
    assert [one.tail is None for one in problem.model] == [False, False, True]
    for member in members:
        found = [p.grad.double().cpu() for p in member.model.parameters() if p.grad is not None]
        module, tail = member.model.double().cpu().module, member.model.tail
        with torch.enable_grad():
            h = module(x)
            z = h if tail is None else tail(h)
            value = -member.objective(member.kernel.gram(z, z), pairs)
            expected = torch.autograd.grad(value, list(member.model.parameters()))
        assert len(found) == len(expected) > 2
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=2e-3, atol=1e-5)
        x = h.detach()


@pytest.mark.parametrize("recipe", [PLAIN, AUGMENTED], ids=["plain", "augmented"])
def test_a_group_of_one_is_the_module_trained_in_turn(recipe: Recipe) -> None:
    spec = group(recipe)
    ((weights, report),) = fit(spec)
    alone, in_turn = train_hidden(spec.modules[0], *DATA, arithmetic=FLOAT32)
    assert equal(weights, alone)
    assert numbers(report) == numbers(in_turn)
    assert report.best_epoch == in_turn.best_epoch


def test_what_stands_above_changes_nothing_below() -> None:
    one = PLAIN.changed(epochs=1)
    faster = one.changed(learning_rate=0.3, momentum=0.5, weight_decay=0.0, clip_norm=None)
    (lower, _), (upper, report) = fit(group(one, one))
    (same, _), (other, faster_report) = fit(group(one, faster, temperature=0.5))
    alone, _ = train_hidden(group(one, one).modules[0], *DATA, arithmetic=FLOAT32)
    assert equal(lower, same)
    assert equal(lower, alone)
    assert not equal(upper, other)
    assert faster_report.history[0].learning_rate == pytest.approx(
        3 * report.history[0].learning_rate
    )


def test_a_tail_in_place_leaves_what_the_next_module_takes() -> None:
    own = BackboneSpec(name="tests.modkernel.test_own_backbones:in_place")
    hidden = [HiddenSpec(until="first"), HiddenSpec(until="layer"), HiddenSpec(until="dropout")]
    for plan in plan_hidden(own, hidden, PREPROCESSING.shape)[:2]:
        model, _ = with_tail(plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, 3))
        x = torch.randn(8, *plan.takes)
        h, _ = model.both(x)
        assert torch.equal(h, model.module(x))


def test_the_clipping_of_one_is_not_of_all() -> None:
    """A gradient of a module above would shorten that of the one below, were they one norm."""
    one = PLAIN.changed(epochs=1, clip_norm=0.1)
    (lower, _), _ = fit(group(one, one, temperature=0.01))
    alone, _ = train_hidden(group(one, one).modules[0], *DATA, arithmetic=FLOAT32)
    assert equal(lower, alone)


def test_what_only_training_has_is_neither_stood_on_nor_kept() -> None:
    one = PLAIN.changed(epochs=1)
    hidden = [HiddenSpec(recipe=one, projection=5), HiddenSpec(recipe=one)]
    plans = plan_hidden(DEEP, hidden, PREPROCESSING.shape)
    spec = of(plans)
    (lower, _), (upper, _) = fit(spec)
    alone, _ = train_hidden(spec.modules[0], *DATA, arithmetic=FLOAT32)
    assert equal(lower, alone)
    for weights, member in zip((lower, upper), spec.modules, strict=True):
        blocks = build_hidden(member.backbone, member.blocks, member.interface.takes, 0)
        assert weights.keys() == blocks.state_dict().keys()


@pytest.mark.parametrize("recipe", [PLAIN, AUGMENTED], ids=["plain", "augmented"])
@pytest.mark.parametrize("stop_after", [1, 4], ids=["mid-epoch-1", "mid-epoch-2"])
def test_stopped_and_resumed_is_bitwise_the_undisturbed_run(
    recipe: Recipe, stop_after: int, tmp_path: Path
) -> None:
    spec = group(recipe, recipe.changed(learning_rate=0.02))
    whole = fit(spec)
    asked = itertools.count()
    control = Control(checkpoints=tmp_path, stop=lambda: next(asked) >= stop_after)
    with pytest.raises(StoppedError):
        fit(spec, control)
    torch.rand(7)
    resumed = fit(spec, Control(checkpoints=tmp_path))
    for (weights, report), (again, other) in zip(whole, resumed, strict=True):
        assert equal(weights, again)
        assert numbers(report) == numbers(other)


def test_all_are_of_the_epoch_that_is_best_for_the_last() -> None:
    seen: list[Mapping[str, Any]] = []
    spec = group(PLAIN, PLAIN)
    (_, lower), (_, upper) = fit(spec, Control(progress=seen.append))
    validations = [line.validation for line in upper.history]
    assert upper.best_epoch == lower.best_epoch
    assert validations[upper.best_epoch - 1] == max(v for v in validations if v is not None)
    for index, report in enumerate((lower, upper)):
        told = [tuple(event["parts"][index].values()) for event in seen]
        assert told == numbers(report)
    assert numbers(lower) != numbers(upper)


def test_the_modules_below_a_group_stay_as_they_are(tmp_path: Path) -> None:
    plans = plan_hidden(DEEP, [HiddenSpec(recipe=PLAIN)] * 3, PREPROCESSING.shape)
    lowest = plans[0].spec(PREPROCESSING.id, PREPROCESSING, FACTS, 0)
    weights, _ = train_hidden(lowest, *DATA, arithmetic=FLOAT32)
    below = write_module(tmp_path / "below", lowest, weights)
    spec = of(plans[1:], below.id)
    before = (below.folder / "weights.safetensors").read_bytes()
    done = train_together(spec, *DATA, [below], arithmetic=FLOAT32)
    assert (below.folder / "weights.safetensors").read_bytes() == before
    stored = [one for one, _ in write_group(tmp_path / "group", spec, done)]
    out = frozen_chain([below, *stored])(made_images(2)[0])
    assert out.shape == (2, *stored[-1].spec.interface.gives)


def test_a_group_and_its_members_are_known_before_and_told_apart_after(tmp_path: Path) -> None:
    spec = group(PLAIN, PLAIN)
    again = GroupSpec.of([spec.member(0, ""), spec.member(1, "a" * 64)])
    assert again == spec, "ids of modules above the first are no part of a group"
    stored = [one for one, _ in write_group(tmp_path, spec, fit(spec))]
    assert [one.spec_sha256 for one in stored] == [
        spec.member(0, "").digest(),
        spec.member(1, stored[0].id).digest(),
    ]
    in_turn = [one.spec.changed(together=None).digest() for one in stored]
    other = group(PLAIN, PLAIN, temperature=0.5)
    assert len({*in_turn, *(one.spec_sha256 for one in stored), other.member(0, "").digest()}) == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 2), ("batch_size", 16), ("flip", True), ("optimizer", "adam"), ("clip_norm", 1.0)],
)
def test_recipes_that_cannot_share_a_pass_are_refused(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=rf"hidden\[1\]\.recipe differs .* in {field} \("):
        group(PLAIN, PLAIN.changed(**{field: value}))


def test_a_module_that_starts_from_a_stored_one_is_refused() -> None:
    plain = group(PLAIN, PLAIN).modules
    adapted = plain[1].changed(hidden=plain[1].hidden.changed(start_from="a" * 64), source="a")
    with pytest.raises(SpecError, match=r"hidden\[1\]\.start_from: .* fresh weights"):
        GroupSpec.of([plain[0], adapted])
