from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modkernel.data.pool import Pool
from modkernel.data.split import Arranged, arrange
from modkernel.errors import ClassError, DataError
from modkernel.spec import DatasetSpec

NAMES = ("ant", "bee", "cat", "dog")


def pool(
    counts: list[int], *, seed: int = 0, test: int | None = None, validation: int | None = None
) -> Pool:
    """Classes with that many training examples, shuffled; `test` more of each for other parts."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    parts = [torch.arange(len(labels))]
    for extra in (validation, test):
        parts.append(torch.arange((extra or 0) * len(counts)) + sum(map(len, parts)))
        labels = torch.cat((labels, torch.arange(len(counts)).repeat(extra or 0)))
    return Pool(
        classes=NAMES[: len(counts)],
        ids=[str(i) for i in range(len(labels))],
        labels=labels,
        examples=torch.arange(len(labels), dtype=torch.float32)[:, None],
        train=parts[0],
        validation=None if validation is None else parts[1],
        test=None if test is None else parts[2],
    )


def ids(chosen: Arranged) -> list[list[str]]:
    return [chosen.ids[part] for part in chosen.parts]


counts = st.lists(st.integers(3, 30), min_size=2, max_size=4)
fractions = st.floats(0.01, 0.99)


@given(
    counts=counts, validation=fractions, test=fractions, seed=st.integers(0, 99), own=st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_every_split_has_every_class_and_every_example_is_in_one(
    counts, validation, test, seed, own
):
    source = pool(counts, test=5 if own else None)
    spec = DatasetSpec(validation_fraction=validation, test_fraction=test, split_seed=seed)
    chosen = arrange(source, spec)
    assert chosen.labels is not None
    assert sorted(chosen.ids, key=int) == list(source.ids)
    rows = torch.tensor([int(name) for name in chosen.ids])
    assert torch.equal(chosen.labels, source.labels[rows])
    assert torch.equal(chosen.examples, source.examples[rows])
    for part in chosen.parts:
        assert set(chosen.labels[part].tolist()) == set(range(len(counts)))
        assert rows[part].tolist() == sorted(rows[part].tolist())
    for number, count in enumerate(counts):
        has = [int((chosen.labels[part] == number).sum()) for part in chosen.parts]
        left = count
        if not own:
            assert abs(has[2] - test * count) <= 2
            left -= has[2]
        assert abs(has[1] - validation * left) <= 1
    assert chosen.ids == arrange(source, spec).ids


def test_the_seed_decides():
    first, second = (arrange(pool([40, 40]), DatasetSpec(split_seed=seed)) for seed in (0, 1))
    assert first.counts == second.counts == (58, 6, 16)
    assert all(a != b for a, b in zip(ids(first), ids(second), strict=True))


@given(
    counts=st.lists(st.integers(3, 20), min_size=4, max_size=4),
    chosen=st.permutations(NAMES).flatmap(
        lambda names: st.integers(2, 4).map(lambda n: tuple(names[:n]))
    ),
    own=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_a_subset_keeps_the_split_of_the_whole_and_numbers_labels_in_its_order(counts, chosen, own):
    source = pool(counts, test=3 if own else None)
    whole = arrange(source, DatasetSpec())
    subset = arrange(source, DatasetSpec(classes=chosen))
    assert subset.classes == chosen
    for all_ids, kept in zip(ids(whole), ids(subset), strict=True):
        wanted = [i for i in all_ids if source.classes[source.labels[int(i)]] in chosen]
        assert kept == wanted
    names = [source.classes[source.labels[int(i)]] for i in subset.ids]
    assert [chosen[label] for label in subset.labels.tolist()] == names


@given(
    counts=st.lists(st.integers(3, 20), min_size=4, max_size=4),
    own=st.booleans(),
    names=st.permutations(NAMES),
    cuts=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
@settings(max_examples=50, deadline=None)
def test_groups_keep_the_split_of_the_whole_and_number_labels_in_their_order(
    counts, own, names, cuts
):
    source = pool(counts, test=3 if own else None)
    first, second = names[: cuts[0]], names[cuts[0] : sum(cuts)]
    groups = {"zebra": tuple(first), "aardvark": tuple(second)}
    whole = arrange(source, DatasetSpec())
    joined = arrange(source, DatasetSpec(groups=groups))
    assert joined.classes == ("zebra", "aardvark")
    for all_ids, kept in zip(ids(whole), ids(joined), strict=True):
        wanted = [i for i in all_ids if NAMES[source.labels[int(i)]] in first + second]
        assert kept == wanted
    sides = [int(NAMES[source.labels[int(i)]] in second) for i in joined.ids]
    assert joined.labels.tolist() == sides
    assert torch.equal(joined.examples[:, 0], torch.tensor([float(i) for i in joined.ids]))


def test_groups_of_one_class_are_those_classes():
    source = pool([9, 9, 9, 9])
    chosen = arrange(source, DatasetSpec(classes=("dog", "ant")))
    joined = arrange(source, DatasetSpec(groups={"dog": ("dog",), "ant": ("ant",)}))
    assert (joined.classes, joined.ids) == (chosen.classes, chosen.ids)
    assert torch.equal(joined.labels, chosen.labels)


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
        arrange(pool([4, 4, 4, 4]), DatasetSpec(groups=groups))


def test_a_class_of_a_group_needs_an_example_for_each_split():
    with pytest.raises(ClassError, match="'bee' has 2"):
        arrange(pool([9, 2, 9]), DatasetSpec(groups={"x": ("ant", "bee"), "y": ("cat",)}))


def test_parts_of_their_own_are_kept_whole():
    chosen = arrange(pool([4, 4], validation=2, test=3), DatasetSpec())
    assert chosen.counts == (8, 4, 6)
    assert ids(chosen)[0] == [str(i) for i in range(8)]


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
        arrange(pool([4, 4, 4, 4]), DatasetSpec(classes=classes))


def test_an_error_lists_twenty_classes_at_most():
    names = tuple(f"class-{i:02d}" for i in range(30))
    source = Pool(names, [], torch.empty(0).long(), torch.empty(0, 1), torch.empty(0).long())
    with pytest.raises(ClassError, match="class-19, …") as caught:
        arrange(source, DatasetSpec(classes=("no", "yes")))
    assert "class-20" not in str(caught.value)


def test_a_set_of_one_class():
    with pytest.raises(ClassError, match="At least two classes"):
        arrange(pool([9]), DatasetSpec())


@pytest.mark.parametrize(
    ("test", "validation", "enough"), [(None, None, 3), (1, None, 2), (1, 1, 1)]
)
def test_each_class_needs_an_example_for_each_split(test, validation, enough):
    assert arrange(pool([9, enough], test=test, validation=validation), DatasetSpec())
    if enough > 1:
        with pytest.raises(ClassError, match=f"'bee' has {enough - 1} .* at least {enough}"):
            arrange(pool([9, enough - 1], test=test, validation=validation), DatasetSpec())


def unlabelled(n: int) -> Pool:
    return Pool((), [str(i) for i in range(n)], None, torch.rand(n, 2), torch.arange(n))


def test_without_labels_nothing_is_kept_for_testing():
    chosen = arrange(unlabelled(20), DatasetSpec())
    assert chosen.counts == (18, 2, 0)
    assert chosen.classes == ()
    assert chosen.labels is None
    with pytest.raises(ClassError, match="no labels"):
        arrange(unlabelled(20), DatasetSpec(classes=("ant", "bee")))
    with pytest.raises(ClassError, match="no labels"):
        arrange(unlabelled(20), DatasetSpec(groups={"x": ("ant",), "y": ("bee",)}))
    with pytest.raises(DataError, match="1 examples: at least 2"):
        arrange(unlabelled(1), DatasetSpec())
