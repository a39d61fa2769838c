"""Which modules to join: chosen on cached features, and who cannot be chosen is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from modkernel.data import ExampleDigests
from modkernel.errors import ScoreError
from modkernel.features.cache import FeatureKey
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.advice.together import _misfit
from modkernel.registry.backends import feature_cache
from modkernel.reuse.joint import joint_moments
from modkernel.reuse.scores import reusability
from modkernel.reuse.task import parse_task
from modkernel.spec import ImageReading, KernelSpec
from tests.modkernel.helpers.stored_examples import FACTS, PREPROCESSING
from tests.registry.helpers.examples import Examples, store_chain, store_one
from tests.registry.test_advice import BASE, CLASSES, info

TASK = parse_task("cat, dog, ship")
LABELS = {"train": torch.arange(240) % len(CLASSES), "validation": torch.arange(160) % len(CLASSES)}


def cached(registry: Registry, record: ModuleRecord, sees: tuple[float, ...], seed: int) -> Tensor:
    """Keep features of a module that sees each class as clearly as told; those for training."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for split, labels in LABELS.items():
        phi = 0.5 * torch.randn(len(labels), 6, generator=draw)
        phi[:, : len(CLASSES)] += torch.diag(torch.tensor(sees))[labels]
        made[split] = phi / phi.norm(dim=1, keepdim=True)
        feature_cache(registry.settings).find_or_make(
            FeatureKey(record.id, BASE, split, "measured", "float32"),
            len(labels),
            lambda values=made[split]: iter([values]),
            {"labels": labels, "digests": torch.arange(len(labels)) + 1000 * len(split)},
        )
    return made["train"]


def test_modules_that_see_different_things_are_joined(
    registry: Registry, examples: Examples
) -> None:
    first, second, _ = store_chain(registry, examples.chain())
    other = store_one(registry, examples.first(5), "other.hidden-1")
    blind = store_one(registry, examples.first(6), "blind.hidden-1")
    gone = store_one(registry, examples.first(7), "gone.hidden-1")
    seen = {
        second.id: cached(registry, second, (2.0, 0, 0, 0), 0),
        other.id: cached(registry, other, (0, 0, 1.5, 0), 1),
    }
    cached(registry, first, (0, 0, 0, 0), 2)
    cached(registry, blind, (0, 0, 0, 0), 3)
    assert registry.advice.without_features(info()) == (gone.id,)
    found = registry.advice.together(TASK, info(), 3)
    assert {one.module.id for one in found.steps} == seen.keys()
    assert found.refused is not None
    assert found.refused.module.id in (blind.id, first.id)
    assert [(one.module.id, one.reason) for one in found.left_out] == [(gone.id, "features")]
    assert (found.candidates, found.examples, found.of_examples, found.judging) == (4, 180, 180, 60)
    one, two = found.steps
    assert two.gain > 2 * two.gain_error > 0
    assert two.balanced_accuracy == pytest.approx(one.balanced_accuracy + two.gain)
    side = TASK.assign(CLASSES)[LABELS["train"]]
    parts = [seen[step.module.id][side >= 0] for step in found.steps]
    joint = joint_moments(parts, side[side >= 0], TASK.groups, BASE)
    assert two.score == pytest.approx(reusability(joint), abs=1e-9)
    alone = {step.module.id: step for step in registry.advice.together(TASK, info(), 1).steps}
    assert alone[one.module.id].features == 6
    # A chain's first module counts once, whoever stands on it.
    assert two.parameters is not None
    assert two.multiply_adds is not None
    chains = {record.id for step in found.steps for record in registry.modules.chain(step.module)}
    assert chains == {first.id, second.id, other.id}


def test_modules_that_may_have_seen_held_out_examples_are_not_joined(
    registry: Registry, examples: Examples
) -> None:
    record = store_one(registry, examples.first(), "seen.hidden-1")
    cached(registry, record, (1.0,) * 4, 0)
    assert len(registry.advice.together(TASK, info(), 2).steps) == 1
    none = np.empty(0, np.int64)
    trained = ExampleDigests(FACTS.fingerprint, np.arange(10_000, 10_010), none, none)
    registry.examples.remember(trained)
    with pytest.raises(ScoreError, match="no stored module to join"):
        registry.advice.together(TASK, info(), 2)


def test_training_examples_that_are_validated_on_neither_choose_nor_judge(
    registry: Registry, examples: Examples
) -> None:
    record = store_one(registry, examples.first(), "one.hidden-1")
    cached(registry, record, (1.0,) * 4, 0)
    assert registry.advice.together(TASK, info(), 1).judging == 60
    assert registry.advice.together(TASK, info(n_borrowed=80), 1).judging == 30
    with pytest.raises(ScoreError, match="each side that are no training examples"):
        registry.advice.together(TASK, info(n_borrowed=148), 1)


def test_modules_that_cannot_stand_beside_others_are_told(
    registry: Registry, examples: Examples
) -> None:
    record = store_one(registry, examples.first(), "one.hidden-1")
    assert _misfit(record, info()) is None
    interface = record.spec.interface.changed(kernel=KernelSpec(name="gaussian", sigma=1.0))
    gaussian = record.model_copy(update={"spec": record.spec.changed(interface=interface)})
    assert "without features" in (_misfit(gaussian, info()) or "")
    light = PREPROCESSING.changed(reading=ImageReading(background=0))
    assert "read image files in different ways" in (_misfit(record, info(light)) or "")
