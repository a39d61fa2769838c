"""Weights of modules side by side are chosen by examples that none of them was trained on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from modkernel.errors import ScoreError
from modkernel.features.measure import MeasuredFeatures
from modkernel.flows.plans import composition, datasets
from modkernel.flows.plans.composition import plan_composition
from modkernel.flows.tasks import weigh
from modkernel.registry.advice.shelf import Shelf
from modkernel.reuse.weights import aligned_weights
from modkernel.spec import DatasetFacts, DatasetSpec, OutputSpec
from tests.modkernel.helpers.stored_examples import FACTS
from tests.registry.test_advice import BASE, features, info

OTHER = FACTS.changed(fingerprint="e" * 64)
"""Data that had some of the held-out examples."""


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> tuple[MeasuredFeatures, MeasuredFeatures]:
    """An honest module and one that knows the first 30 of 60 validation examples by heart."""
    train, (honest, labels) = features(0, 80), features(50, 60)
    learnt = features(90, 60)[0]
    learnt[:30] = torch.eye(6)[labels[:30]]
    digests = torch.arange(80), torch.arange(200, 260)
    made = tuple(MeasuredFeatures(*train, phi, labels, *digests) for phi in (honest, learnt))
    found = dict(zip(("honest", "learnt"), made, strict=True))
    monkeypatch.setattr(weigh, "side_by_side", lambda *_: [])
    monkeypatch.setattr(weigh, "tasks_in_hand", lambda _: 1)
    monkeypatch.setattr(weigh, "feature_cache", lambda _: None)
    monkeypatch.setattr(weigh, "measured_features", lambda _, module_id, __: found[module_id])
    return made[0], made[1]


def registry_of(facts: DatasetFacts, trained: np.ndarray | None = None) -> tuple[Any, list[Any]]:
    """A registry that knows what `OTHER` trains on, and the modules."""
    remembered = {} if trained is None else {OTHER: (trained, np.empty(0, np.int64))}
    shelf = Shelf(SimpleNamespace(), SimpleNamespace(of=remembered.get))  # type: ignore[arg-type]
    tops: list[Any] = []
    for name, learnt in (("honest", FACTS.changed(fingerprint=BASE)), ("learnt", facts)):
        spec = SimpleNamespace(learnt_from=(learnt,))
        tops.append(SimpleNamespace(id=name, short_id=name, name=name, version=1, spec=spec))
    registry = SimpleNamespace(
        settings=None,
        advice=SimpleNamespace(shelf=shelf),
        modules=SimpleNamespace(chain=lambda top: (top,)),
    )
    return registry, tops


def weights(trained: np.ndarray, **data: Any) -> list[float]:
    registry, tops = registry_of(OTHER, trained)
    _, found = weigh.weighed(registry, tops, DatasetSpec(), info(**data))
    return [1.0] if found is None else list(found)


def expected(two: tuple[MeasuredFeatures, MeasuredFeatures], rows: slice) -> list[float]:
    labels = two[0].validation_labels[rows]
    return [
        float(f"{weight:.3g}")
        for weight in aligned_weights([one.validation[rows] for one in two], labels)
    ]


def test_examples_that_a_module_was_trained_on_choose_no_weights(
    two: tuple[MeasuredFeatures, MeasuredFeatures],
) -> None:
    assert expected(two, slice(30, 60)) != expected(two, slice(60))
    assert weights(np.arange(0)) == expected(two, slice(60))
    assert weights(np.arange(200, 230)) == expected(two, slice(30, 60))
    assert weights(np.arange(200, 230), n_borrowed=10) == expected(two, slice(30, 50))
    with pytest.raises(ScoreError, match=r"on all 60 examples .* give the weights"):
        weights(np.arange(200, 260))


def test_a_module_that_saw_pairs_of_the_data_is_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, tops = registry_of(FACTS.changed(fingerprint=BASE, pairs_fingerprint="1" * 64))
    registry.promotions = SimpleNamespace(sync_named=lambda _: None)
    registry.modules.resolve = {top.name: top for top in tops}.get
    for name in ("check_is_hidden", "check_output", "Below"):
        monkeypatch.setattr(composition, name, MagicMock())
    monkeypatch.setattr(datasets, "for_join", lambda *_: (DatasetSpec(), info()))

    def planned(weights: Literal["aligned"] | None) -> tuple[Any, ...]:
        names = ("honest", "learnt")
        return plan_composition(registry, names, None, OutputSpec(), None, weights).tops

    assert planned(None) == tuple(tops)
    with pytest.raises(ScoreError, match=r"learnt .*list of pairs.* give the weights"):
        planned("aligned")
