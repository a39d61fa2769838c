"""What a module is compared on with the one that an alias means, before anybody is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from modkernel.data import DatasetInfo
from modkernel.flows.plans import datasets
from modkernel.flows.stored_modules import promote_module as promoting
from modkernel.flows.stored_modules.promote_module import _compared, _page
from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.spec import DatasetSpec
from tests.registry.test_advice import info

OWN = {"ten": "a" * 64, "two": "b" * 64}
"""Fingerprints of the data that each module was trained on."""
SEEN = {"ten": 0, "two": 7}


@pytest.mark.parametrize("given", [None, DatasetSpec(name="fashion_mnist")])
def test_both_modules_are_compared_on_the_same_data(
    monkeypatch: pytest.MonkeyPatch, given: DatasetSpec | None
) -> None:
    candidate, present = (_module(name) for name in ("ten", "two"))
    asked: list[tuple[GroundTruthSpec, DatasetSpec]] = []

    def data_of(
        _: object, top: Any, dataset: DatasetSpec | None
    ) -> tuple[DatasetSpec, DatasetInfo]:
        if dataset is not None:
            return dataset, info(fingerprint="c" * 64, n_test=100)
        return DatasetSpec(name=top.id), info(fingerprint=OWN[top.id], n_test=100)

    def measured(_: str, spec: GroundTruthSpec, dataset: DatasetSpec) -> tuple[bool, Any]:
        asked.append((spec, dataset))
        figures = dict.fromkeys(("accuracy", "balanced_accuracy", "worst_accuracy"), (0.5,))
        return True, SimpleNamespace(**figures, left_out=SEEN[spec.module_id])

    monkeypatch.setattr(datasets, "for_chain", data_of)
    monkeypatch.setattr(datasets, "check_chain_trusted", lambda *_: None)
    monkeypatch.setattr(datasets, "check_fits", lambda *_: None)
    monkeypatch.setattr(promoting, "measure_stored_ground_truth", measured)
    registry: Any = None
    figures, before = _compared(registry, candidate, present, given)
    assert [spec.module_id for spec, _ in asked] == ["ten", "two"]
    assert {dataset for _, dataset in asked} == {given or DatasetSpec(name="ten")}
    assert len({spec.fingerprint for spec, _ in asked}) == 1
    # Its own task is evidence of what training reaches: only on the data that it was trained on.
    (task,) = asked[0][0].targets
    assert [spec.own for spec, _ in asked] == [task if given is None else None, None]
    assert before is not None
    page = _page("production", figures, before)
    assert "93 of 100" in page
    assert "100 of 100" in page
    assert "may be compared on different ones" in page
    assert "different ones" not in _page("production", figures, None)


def _module(name: str) -> Any:
    trained_on = SimpleNamespace(fingerprint=OWN[name])
    return SimpleNamespace(id=name, name=name, version=1, spec=SimpleNamespace(dataset=trained_on))
