"""Output modules of labels that are spread: asked for by a command, stored, found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from modkernel.flows.runtime.shared import open_registry
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, NetworkSpec, Recipe
from tests.flows.helpers.commands import Done, run_here
from tests.flows.helpers.specs import RELU
from tests.flows.helpers.trained import store_modules
from tests.modkernel.helpers.data_made import npz

pytestmark = pytest.mark.usefixtures("with_net")

SMALL = NetworkSpec(
    name="half",
    backbone=BackboneSpec(name="mlp", width=64, depth=1),
    hidden=(HiddenSpec(kernel=RELU, recipe=Recipe(epochs=4)),),
    output=None,
)


def half(path: Path, change: int = 0) -> DatasetSpec:
    """Digits of which every tenth has a label; `change` is added to one pixel without."""
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    images[1, 0, 0] += change
    labels = np.where(np.arange(len(images)) % 10 == 0, digits.target, -1)
    return DatasetSpec(name="arrays", path=str(npz(path, x=images, y=labels)), unlabelled=-1)


def compose(name: str, below: str, *options: str) -> Done:
    return run_here("compose", below, "--name", name, "--method", "ridge", "--json", *options)


def output_of(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    modules: list[dict[str, Any]] = done.json["modules"]
    return modules[-1]


def test_labels_are_spread_over_a_sets_examples_without_one(tmp_path: Path) -> None:
    path = tmp_path / "half.npz"
    store_modules(open_registry(), SMALL.changed(dataset=half(path)))
    plain, spread, again = (
        compose(name, "half.hidden-1", *more)
        for name, more in (("plain", ()), ("spread", SPREAD), ("spread", SPREAD))
    )
    assert output_of(again)["id"] == output_of(spread)["id"]
    assert again.json["trained_modules"] == 0
    found, before = spread.json["evaluation"], plain.json["evaluation"]
    assert found["labels"] == before["labels"] < 180
    assert found["spread_over"] > 1000
    assert "spread_over" not in before
    assert found["accuracy_all_labels"] == before["accuracy"]
    assert (
        f"spread over {found['spread_over']:,} examples"
        in run_here("networks", "show", "spread").out
    )
    page = open_registry().backends.client.get_model_version("spread.output", "1")
    assert page.tags["labels"] == "all, spread"
    assert "all labels, spread over examples without one" in page.description
    # One of the examples without a label is another one now: the module is trained again.
    half(path, change=9)
    changed = compose("changed", "half.hidden-1", *SPREAD)
    assert output_of(changed)["id"] != output_of(spread)["id"]
    unchanged = compose("unchanged", "half.hidden-1")
    assert output_of(unchanged)["id"] == output_of(plain)["id"]


def test_drawn_labels_are_spread_over_the_others_and_all_of_them_over_none() -> None:
    before = run_here("modules", "list", "--json").json
    refused = compose("none", "net.hidden-1", *SPREAD)
    assert (refused.code, refused.out) == (1, "")
    assert "spread_labels: every training example has a label" in refused.err
    assert run_here("modules", "list", "--json").json == before
    done = compose("drawn", "net.hidden-1", "--labels-per-class", "1", *SPREAD)
    assert output_of(done)["reused"] is False
    found = done.json["evaluation"]
    assert found["labels"] == 10
    assert found["spread_over"] > 1000


SPREAD = ("--spread-labels",)
