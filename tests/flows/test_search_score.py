"""The figures that candidates of a search are compared by, from cached features alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modkernel.features.measure import MeasuredFeatures
from modkernel.flows.search import score
from modkernel.reuse.moments import ModuleMoments, accumulate
from modkernel.reuse.scores import head_accuracy, reusability, ridge_head
from modkernel.reuse.task import Task
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.feature_examples import Cached
from tests.registry.test_advice import BASE, CLASSES, features, info


@pytest.mark.parametrize("name", [score.ACCURACY, "logme"])
@pytest.mark.parametrize(("own", "held_out"), [(40, True), (0, False)])
def test_training_examples_that_are_validated_on_count_only_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch, own: int, held_out: bool, name: str
) -> None:
    train, held = features(0, 80), features(50, 40)
    lent = tuple(part[:12] for part in train)
    phi, labels = (torch.cat([ours[:own], theirs]) for ours, theirs in zip(held, lent, strict=True))
    kept = MeasuredFeatures(*train, phi, labels)
    moments = [accumulate([part], CLASSES, BASE) for part in (train, (phi, labels))]
    told: list[float] = []
    registry: Any = SimpleNamespace(
        settings=None,
        moments=SimpleNamespace(
            has=lambda *_: True, load=lambda *_: ModuleMoments("m", moments[0], moments[1], 0.1)
        ),
        modules=SimpleNamespace(tell_accuracy=lambda _, accuracy: told.append(accuracy)),
    )
    record: Any = SimpleNamespace(id="m")
    monkeypatch.setattr(score, "feature_cache", lambda _: Cached(kept))
    found = score.score_candidate(registry, record, DatasetSpec(), info(n_borrowed=12), name)
    compared = held if own else lent
    by_hand = (
        head_accuracy(*ridge_head(moments[0]), *compared)
        if name == score.ACCURACY
        else reusability(accumulate([compared], CLASSES, BASE), score=name)
    )
    expected = pytest.approx(by_hand, abs=1e-6)
    assert (found.score, found.held_out) == (expected, held_out)
    # Its page has no accuracy of what it knows.
    assert told == ([expected] if held_out and name == score.ACCURACY else [])


def test_a_class_without_a_held_out_pair_has_no_part_in_a_score_of_moments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, held = features(0, 80), features(50, 40)
    first = int((held[1] == 0).nonzero()[0])
    rows = (held[1] != 0) | (torch.arange(40) == first)
    lent = tuple(part[:1] for part in train)
    phi, labels = (torch.cat([ours[rows], theirs]) for ours, theirs in zip(held, lent, strict=True))
    kept = MeasuredFeatures(*train, phi, labels)
    moments = ModuleMoments(
        "m", *(accumulate([part], CLASSES, BASE) for part in (train, (phi, labels))), 0.1
    )
    stored = SimpleNamespace(has=lambda *_: True, load=lambda *_: moments)
    registry: Any = SimpleNamespace(settings=None, moments=stored)
    record: Any = SimpleNamespace(id="m")
    monkeypatch.setattr(score, "feature_cache", lambda _: Cached(kept))
    found = score.score_candidate(registry, record, DatasetSpec(), info(n_borrowed=1), "logme")
    others = accumulate([held], CLASSES, BASE)
    expected = reusability(others, Task.of_classes(CLASSES[1:]), "logme")
    assert (found.score, found.held_out) == (pytest.approx(expected), True)
