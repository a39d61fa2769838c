"""Choosing classes, and joining them to groups."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modkernel.data.choose import choose
from modkernel.data.pool import Pool
from modkernel.errors import ClassError
from modkernel.spec import DatasetSpec

NAMES = ("ant", "bee", "cat", "dog")


def pool(classes: int = 4, count: int = 6) -> Pool:
    labels = torch.arange(classes).repeat(count)
    return Pool(
        classes=NAMES[:classes],
        ids=[str(i) for i in range(len(labels))],
        labels=labels,
        examples=torch.rand(len(labels), 1),
        train=torch.arange(0, len(labels) - classes),
        test=torch.arange(len(labels) - classes, len(labels)),
    )


@given(
    names=st.permutations(NAMES),
    cuts=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    joined=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_classes_and_groups_are_numbered_in_the_order_given(names, cuts, joined):
    source = pool()
    groups = {"zebra": names[: cuts[0]], "aardvark": names[cuts[0] : sum(cuts)]}
    if not joined:
        groups = {name: (name,) for name in chain(*groups.values())}
    spec = DatasetSpec(groups=groups) if joined else DatasetSpec(classes=tuple(groups))
    chosen = choose(source, spec)
    assert chosen.classes == tuple(groups)
    for before, after in ((source.train, chosen.train), (source.test, chosen.test)):
        wanted = [i for i in before.tolist() if NAMES[source.labels[i]] in chain(*groups.values())]
        assert after.tolist() == wanted
    for row, label in enumerate(chosen.labels.tolist()):
        name = NAMES[source.labels[row]]
        sides = [number for number, members in enumerate(groups.values()) if name in members]
        assert sides == [label] * (label >= 0)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"x": ("ant",), "y": ("emu",)}, "no class 'emu': choose from ant, bee, cat, dog"),
        ({"x": ("ant", "bee"), "y": ("cat", "bee")}, "'bee' is named more than once"),
        ({"x": ("ant", "bee")}, "At least two groups .* got 1"),
        ({}, "At least two groups"),
        ({"x": ("ant",), "y": ()}, "Group 'y' has no classes"),
    ],
)
def test_wrong_groups(groups, message):
    with pytest.raises(ClassError, match=message):
        choose(pool(), DatasetSpec(groups=groups))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("ant", "emu"), "no class 'emu': choose from ant, bee, cat, dog"),
        (("ant",), "At least two classes"),
        ((), "At least two classes"),
        (("ant", "bee", "ant"), "'ant' is named more than once"),
    ],
)
def test_wrong_classes(classes, message):
    with pytest.raises(ClassError, match=message):
        choose(pool(), DatasetSpec(classes=classes))


def test_an_error_lists_twenty_classes_at_most():
    names = tuple(f"class-{i:02d}" for i in range(30))
    source = Pool(names, [], torch.empty(0).long(), torch.empty(0, 1), torch.empty(0).long())
    with pytest.raises(ClassError, match="class-19, …") as caught:
        choose(source, DatasetSpec(classes=("no", "yes")))
    assert "class-20" not in str(caught.value)


def test_a_set_of_one_class():
    with pytest.raises(ClassError, match="At least two classes"):
        choose(pool(classes=1), DatasetSpec())


@pytest.mark.parametrize(
    "spec", [{"classes": ("ant", "bee")}, {"groups": {"x": ["a"], "y": ["b"]}}]
)
def test_without_labels_no_classes_can_be_chosen(spec):
    source = Pool((), ["0", "1"], None, torch.rand(2, 1), torch.arange(2))
    assert choose(source, DatasetSpec()) is source
    with pytest.raises(ClassError, match="no labels"):
        choose(source, DatasetSpec(**spec))
