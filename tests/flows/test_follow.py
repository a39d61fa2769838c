"""What a network that follows an alias is made of, again and again."""

from __future__ import annotations

import json

import pytest

from modkernel.flows.compose_network import as_filled_in
from modkernel.flows.deployments.forms.modules import CompositionForm
from modkernel.spec import DatasetSpec, OutputSpec, Recipe


@pytest.mark.parametrize(
    ("dataset", "output"),
    [
        (None, OutputSpec()),
        (DatasetSpec(), OutputSpec(method="ridge", labels_per_class=1, draws=3)),
        (
            DatasetSpec(name="image_folder", path="/data/p", classes=("a", "b"), image_size=(8, 6)),
            OutputSpec(recipe=Recipe(epochs=3, optimizer="adam"), minimum_steps=7),
        ),
    ],
)
def test_what_a_follower_is_made_of_again_is_what_it_was_made_of(
    dataset: DatasetSpec | None, output: OutputSpec
) -> None:
    values = as_filled_in("net", "a@b", dataset, output, 0, None)
    again = CompositionForm.model_validate(json.loads(json.dumps(values))).parameters()
    assert again == {
        "name": "net",
        "hidden": ("a@b",),
        "weights": None,
        "dataset": dataset,
        "output": output,
        "seed": 0,
        "labels": None,
        "follow": False,
    }
