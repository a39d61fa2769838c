"""How many labels a network saw, in words, whatever it is made of."""

from __future__ import annotations

import pytest

from modkernel.spec import DatasetFacts, HiddenModuleSpec
from modkernel.spec.recipe import Recipe
from modkernel.training.labels_seen import NONE, hidden_saw, labels_told
from tests.modkernel.helpers.training_examples import FACTS, MLP, PREPROCESSING, plans


def module(facts: DatasetFacts, source: str | None = None) -> HiddenModuleSpec:
    (plan,) = plans(MLP, Recipe(), kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, facts, seed=0)
    if source is None:
        return spec
    return spec.changed(hidden=spec.hidden.changed(start_from="0" * 64), source=source)


VIEWS = FACTS.changed(pairs="views")
OTHER = FACTS.changed(name="other", fingerprint="e" * 64)


@pytest.mark.parametrize(
    ("chain", "told"),
    [
        ([VIEWS, VIEWS], NONE),
        ([VIEWS, FACTS], "the pairs of 1,200 labels"),
        ([FACTS, FACTS.changed(pairs="views+labels")], "the pairs of 1,200 labels"),
        ([VIEWS.changed(pairs_fingerprint="p")], "a list of pairs of made"),
        ([OTHER, VIEWS], "the pairs of labels of other data, or another choice of these (other)"),
        (
            [OTHER, FACTS],
            "the pairs of labels of other data, or another choice of these (other) and the pairs "
            "of 1,200 labels",
        ),
        ([OTHER.changed(pairs="views")], NONE),
    ],
)
def test_what_hidden_modules_saw(chain: list[DatasetFacts], told: str) -> None:
    assert hidden_saw([module(facts) for facts in chain], FACTS.fingerprint, 1200) == told


def test_weights_to_start_from_have_seen_what_they_have_seen() -> None:
    found = hidden_saw([module(VIEWS, "old.hidden-1")], FACTS.fingerprint, None)
    assert found == "what old.hidden-1 had seen"
    assert hidden_saw([module(FACTS)], FACTS.fingerprint, None) == "the pairs of all labels"


def test_the_figure_says_which_of_the_two_it_is() -> None:
    assert labels_told(10, NONE) == "10 labels in all (hidden modules saw none)"
    assert labels_told(1, "the pairs of 45,000 labels") == (
        "1 label for the output module; hidden modules saw the pairs of 45,000 labels"
    )
    assert labels_told(45000, None) == "45,000 labels for the output module"
