"""What of a study's data is held out: nothing that a source is trained on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modkernel.features.measure import MeasuredFeatures, held_out_moments
from modkernel.flows.study.scoring import score_all
from modkernel.reuse.ground_truth import GroundTruth
from modkernel.reuse.moments import ModuleMoments, accumulate
from modkernel.reuse.scores import SCORES, reusability
from modkernel.reuse.task import Task, parse_task
from tests.modkernel.helpers.feature_examples import Cached
from tests.registry.test_advice import BASE, CLASSES, features, info

TASKS = (parse_task("cat, dog"), Task.of_classes(CLASSES))
TRUTH: Any = SimpleNamespace(
    undefined={name: "of no account here" for name in SCORES}, scores={}, score_seconds={}
)


def ridges(own: int, cached: bool = True) -> list[float] | str:
    """The scores `ridge` of a module by a study, or why there are none."""
    train, held = features(0, 80), features(50, 40)
    lent = tuple(part[:12] for part in train)
    phi, labels = (torch.cat([ours[:own], theirs]) for ours, theirs in zip(held, lent, strict=True))
    kept = MeasuredFeatures(*train, phi, labels) if cached else None
    parts = (accumulate([part], CLASSES, BASE) for part in (train, (phi, labels)))
    moments = ModuleMoments("m", *parts, 0.1)
    cache: Any = Cached(kept)
    apart = held_out_moments(cache, moments, info(n_borrowed=12))
    truths: list[list[GroundTruth]] = [[TRUTH]]
    found, left_out = score_all([[moments]], truths, [TASKS], [[apart]])
    assert "logme" in found
    return left_out["ridge"] if "ridge" in left_out else found["ridge"].matrix[0].tolist()


def test_training_examples_that_are_validated_on_are_not_held_out() -> None:
    train, held = (accumulate([features(*part)], CLASSES, BASE) for part in ((0, 80), (50, 40)))
    expected = [reusability(train, task, "ridge", held) for task in TASKS]
    assert ridges(40) == pytest.approx(expected)
    assert "or there are none" in str(ridges(0))
    assert "MODKERNEL_FEATURE_CACHE_BYTES" in str(ridges(40, cached=False))
