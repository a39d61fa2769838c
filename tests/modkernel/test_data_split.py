"""Which part an example falls into: its own content and the seed decide, nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modkernel.data import load_dataset
from modkernel.data.contents import read_contents
from modkernel.data.pool import Pool
from modkernel.data.split import Membership, share_out, split_findings
from modkernel.errors import ClassError, DataError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import folder_spec, image_folder, npz, picture, places

NAMES = ("ant", "bee", "cat", "dog")


def pool(values: list[int], classes: int = 4, own: tuple[int, int] = (0, 0)) -> Pool:
    """An example a value, whose class is the value mod `classes`.

    Of the last ones, `own` are in a validation and in a test part of the set's own.
    """
    numbers = torch.tensor(values, dtype=torch.float32)
    ends = np.cumsum([len(values) - sum(own), *own])
    rows = [torch.arange(a, b) for a, b in zip([0, *ends], ends, strict=False)]
    return Pool(
        classes=NAMES[:classes],
        ids=[str(i) for i in range(len(values))],
        labels=torch.tensor(values) % classes,
        examples=numbers[:, None],
        train=rows[0],
        validation=rows[1] if own[0] else None,
        test=rows[2] if own[1] else None,
    )


def shared(source: Pool, spec: DatasetSpec) -> Membership:
    contents = read_contents(source.examples, source.rows, None)
    return share_out(source, spec, contents.hashes)


def values_of(source: Pool, found: Membership) -> list[set[int]]:
    """The values in each part, and those that are borrowed."""
    parts = (found.train, found.validation, found.test, found.borrowed)
    return [set(source.examples[part, 0].int().tolist()) for part in parts]


def loaded(tmp_path, values, **options):
    """Values by part, as a whole load gives them; classes are the values mod 4."""
    array = np.array(values, dtype=np.float32)[:, None]
    labels = np.array(NAMES)[np.array(values) % 4]
    spec = DatasetSpec(name="arrays", path=str(npz(tmp_path / "a.npz", x=array, y=labels)))
    data = load_dataset(spec.changed(**options), places(tmp_path))
    return [set(part.examples.tensor[:, 0].int().tolist()) for part in parts_of(data)]


def parts_of(data):
    return data.train, data.validation, data.test


base = st.just(list(range(400)))
more = st.lists(st.integers(400, 5000), unique=True, max_size=60)
gone = st.sets(st.integers(0, 399), max_size=60)
fractions = st.floats(0.05, 0.5)


@given(
    more=more,
    gone=gone,
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 9),
    test=fractions,
    validation=fractions,
    classes=st.integers(2, 4),
)
@settings(max_examples=40, deadline=None)
def test_no_example_moves_another(more, gone, order, seed, test, validation, classes):
    spec = DatasetSpec(test_fraction=test, validation_fraction=validation, split_seed=seed)
    before = pool(list(range(400)))
    kept = [value for value in range(400) if value not in gone] + more
    order.shuffle(kept)
    after = pool(kept, classes)
    old, new = (values_of(each, shared(each, spec))[:3] for each in (before, after))
    staying = set(range(400)) - gone
    for part_before, part_after in zip(old, new, strict=True):
        assert part_before & staying == part_after & staying
    assert sorted(set().union(*new)) == sorted(kept)
    assert sum(map(len, new)) == len(kept)


@given(seed=st.integers(0, 10**6), test=st.floats(0.02, 0.9), validation=st.floats(0.02, 0.9))
@settings(max_examples=25, deadline=None)
def test_the_shares_are_right_within_chance(seed, test, validation):
    source = pool(list(range(2000)))
    spec = DatasetSpec(test_fraction=test, validation_fraction=validation, split_seed=seed)
    contents = read_contents(source.examples, source.rows, None)
    try:
        found = share_out(source, spec, contents.hashes)
    except ClassError:
        assert 2000 * (1 - test) * (1 - validation) / 4 < 40
        return
    left = 2000 - len(found.test)
    for count, of, share in (
        (len(found.test), 2000, test),
        (len(found.validation), left, validation),
    ):
        assert abs(count - of * share) <= 5.5 * math.sqrt(of * share * (1 - share)) + 1


def test_the_seed_decides():
    source = pool(list(range(300)))
    first, second, again = (
        values_of(source, shared(source, DatasetSpec(split_seed=seed))) for seed in (0, 1, 0)
    )
    assert first == again
    # Of what one seed tests on, another tests on its share.
    assert 0 < len(first[2] & second[2]) < 30 < len(first[2])


def test_equal_examples_are_in_one_part():
    source = pool([value // 5 * 4 for value in range(1000)] + [1, 2, 3] * 30)
    parts = values_of(source, shared(source, DatasetSpec()))[:3]
    assert all(not a & b for a in parts for b in parts if a is not b)


@given(
    chosen=st.permutations(NAMES).flatmap(
        lambda names: st.integers(2, 4).map(lambda n: tuple(names[:n]))
    )
)
@settings(max_examples=10, deadline=None)
def test_choosing_and_grouping_classes_moves_nobody(tmp_path_factory, chosen):
    folder = tmp_path_factory.mktemp("set")
    values = list(range(200))
    whole = loaded(folder, values)
    wanted = {value for value in values if NAMES[value % 4] in chosen}
    groups = {"x": chosen[:1], "y": chosen[1:]}
    for options in ({"classes": chosen}, {"groups": groups}):
        assert loaded(folder, values, **options) == [part & wanted for part in whole]


@pytest.mark.parametrize("added", [1, 10, 100])
def test_pictures_added_to_a_folder_move_no_old_one(tmp_path, added):
    root = image_folder(tmp_path / "set", {"a": 20, "b": 20, "c": 20})
    before = [set(part.ids) for part in parts_of(load_dataset(folder_spec(root), places(tmp_path)))]
    for number in range(added):  # Names that come before, between and after those there are.
        picture(10_000 + number).save(root / "abc"[number % 3] / f"{number * 7 % 40:03d}x.png")
    after = [set(part.ids) for part in parts_of(load_dataset(folder_spec(root), places(tmp_path)))]
    old = set().union(*before)
    assert len(old) == 60
    assert [part & old for part in after] == before
    assert sum(map(len, after)) == 60 + added
    assert not any(set(a) & set(b) for a in after for b in after if a is not b)


def test_a_renamed_picture_stays_in_its_part(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 20, "b": 20})
    before = load_dataset(folder_spec(root), places(tmp_path))
    (root / "b").rename(root / "0b")
    after = load_dataset(folder_spec(root), places(tmp_path))
    for old, new in zip(parts_of(before), parts_of(after), strict=True):
        assert {name.replace("b/", "0b/") for name in old.ids} == set(new.ids)


@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    seed=st.integers(0, 200),
    own=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_two_of_each_class_are_validated_on_where_there_are_two(counts, seed, own):
    values = [number + len(counts) * i for number, count in enumerate(counts) for i in range(count)]
    source = pool(values + list(range(12)) * own, len(counts), (0, 12 * own))
    spec = DatasetSpec(split_seed=seed)
    try:
        found = shared(source, spec)
    except (ClassError, DataError):
        return
    trained, validated = source.labels[found.train], source.labels[found.validation]
    borrowed = source.labels[found.borrowed]
    assert set(found.borrowed.tolist()) <= set(found.train.tolist())
    assert not set(found.train.tolist()) & set(found.validation.tolist())
    for number in range(len(counts)):
        own_count = int((validated == number).sum())
        lent = int((borrowed == number).sum())
        assert lent == min(max(0, 2 - own_count), int((trained == number).sum()))
    findings = [
        each for each in split_findings(source, spec, found) if "validation part" in each.text
    ]
    assert [each.count for each in findings] == [len(borrowed)] * bool(len(borrowed))
    for each in findings:
        assert each.kind == "small"
        assert f"{len(borrowed)} of the {len(trained)} training examples" in each.text
        assert f"split_seed (it is {seed})" in each.text


def test_borrowed_are_those_next_in_line():
    """A larger validation_fraction moves them, first of their class, to the validation part."""
    source = pool(list(range(24)), 2)
    spec = DatasetSpec(validation_fraction=1e-6)
    found = shared(source, spec)
    assert len(found.validation) == 0
    for step in range(1, 1000):
        moved = shared(source, spec.changed(validation_fraction=step / 1000))
        for number in range(2):
            own = moved.validation[source.labels[moved.validation] == number]
            if 0 < len(own) <= 2:
                lent = found.borrowed[source.labels[found.borrowed] == number]
                assert set(own.tolist()) <= set(lent.tolist())
        if len(moved.train) < 14:
            break


def test_a_class_that_is_not_tested_on_is_told():
    source = pool([0, 4, 8, 12, 16, 1, 5, 9] + [4 * i + 2 for i in range(40)], 4)
    source = Pool(NAMES, source.ids, source.labels, source.examples, source.train[:48])
    for seed in range(50):
        spec = DatasetSpec(split_seed=seed, classes=("ant", "bee", "cat"))
        chosen = Pool(NAMES[:3], source.ids, source.labels, source.examples, source.train)
        try:
            found = shared(chosen, spec)
        except ClassError:
            continue
        absent = set(range(3)) - set(source.labels[found.test].tolist())
        told = [each for each in split_findings(chosen, spec, found) if "test part" in each.text]
        assert [each.count for each in told] == [len(absent)] * bool(absent)
        assert all(NAMES[number] in told[0].text for number in absent)


def test_parts_of_their_own_are_kept_whole():
    source = pool(list(range(60)), 2, (8, 6))
    found = shared(source, DatasetSpec())
    assert found.train.tolist() == list(range(46))
    assert found.validation.tolist() == list(range(46, 54))
    assert found.test.tolist() == list(range(54, 60))


@pytest.mark.parametrize(
    ("values", "own", "error", "message"),
    [
        ([*range(0, 40, 2), 1, 3], (0, 2), ClassError, r"'bee' has none of the \d+ .* training"),
        (
            [*range(20), 0, 2, 1, 3],
            (2, 2),
            DataError,
            "own validation part has 2 .* only class",
        ),
    ],
)
def test_parts_that_nothing_can_be_done_with(values, own, error, message):
    spec = DatasetSpec(test_fraction=1e-6, validation_fraction=1e-6)
    with pytest.raises(error, match=message):
        shared(pool(values, 2, own), spec)


def unlabelled(n: int) -> Pool:
    return Pool((), [str(i) for i in range(n)], None, torch.rand(n, 2), torch.arange(n))


def test_without_labels_nothing_is_kept_for_testing():
    source = unlabelled(200)
    found = shared(source, DatasetSpec())
    assert len(found.test) == len(found.borrowed) == 0
    assert 5 < len(found.validation) < 40
    assert sorted(found.rows.tolist()) == list(range(200))
    assert split_findings(source, DatasetSpec(), found) == ()
    with pytest.raises(DataError, match="None of the 1 examples is in the training part"):
        shared(unlabelled(1), DatasetSpec(validation_fraction=0.999999))
