"""Pair labels and sources: what is known, what cannot be had back, and how batches are made."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modkernel.errors import PairError
from modkernel.pairs.source import PairLabels, PairSource


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def listed(pairs: dict[tuple[int, int], bool]) -> tuple[Tensor, Tensor, Tensor]:
    ends = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1], torch.tensor(list(pairs.values()), dtype=torch.bool)


def some_pairs(n: int, count: int, share_same: float = 0.5, seed: int = 0) -> PairSource:
    """A source of up to `count` random pairs, each direction at random."""
    generator = seeded(seed)
    i, j = torch.randint(n, (2, count), generator=generator)
    low, high = torch.minimum(i, j), torch.maximum(i, j)
    same = (low * 7919 + high * 104729) % 1000 < share_same * 1000
    return PairSource.from_pairs(n, i[i != j], j[i != j], same[i != j])


def known_pairs(source: PairSource) -> dict[tuple[int, int], bool]:
    labels = source.for_batch(torch.arange(source.n_examples))
    return {
        (a, b): bool(labels.same[a, b])
        for a, b in combinations(range(source.n_examples), 2)
        if labels.known[a, b]
    }


def check_invariants(labels: PairLabels) -> None:
    for matrix in (labels.same, labels.known, labels.different):
        assert matrix.dtype == torch.bool
        assert torch.equal(matrix, matrix.T)
        assert not matrix.diagonal().any()
    assert torch.equal(labels.same | labels.different, labels.known)
    assert not (labels.same & labels.different).any()
    assert labels.n_same == int(labels.same.sum()) // 2
    assert labels.n_different == int(labels.different.sum()) // 2


# --- Labels of one batch


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_labels_from_classes_equal_a_loop(classes: list[int]) -> None:
    labels = PairLabels.from_classes(torch.tensor(classes))
    check_invariants(labels)
    for a, b in combinations(range(len(classes)), 2):
        assert labels.known[a, b]
        assert labels.same[a, b] == (classes[a] == classes[b])


TABLES = st.integers(2, 9).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.dictionaries(
            st.sampled_from(list(combinations(range(n), 2))), st.booleans(), min_size=1
        ),
    )
)


@given(TABLES, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_labels_and_sources_of_a_pair_list_equal_the_list(table, random) -> None:
    n, pairs = table
    turned = {(b, a) if random.random() < 0.5 else (a, b): same for (a, b), same in pairs.items()}
    labels = PairLabels.from_pairs(n, *listed(turned))
    check_invariants(labels)
    source = PairSource.from_pairs(n, *listed(turned))
    assert known_pairs(source) == pairs
    assert (source.n_same, source.n_different) == (labels.n_same, labels.n_different)

    batch = torch.tensor(random.sample(range(n), random.randint(1, n)))
    of_batch = source.for_batch(batch)
    check_invariants(of_batch)
    assert torch.equal(of_batch.known, labels.known[batch][:, batch])
    assert torch.equal(of_batch.same, labels.same[batch][:, batch])


def test_source_of_classes_gives_the_labels_of_a_batch() -> None:
    classes = torch.tensor([4, 4, 0, 2, 0, 4])
    source = PairSource.from_classes(classes)
    assert (source.n_examples, source.n_same, source.n_different) == (6, 4, 11)
    batch = torch.tensor([5, 2, 0])
    of_batch, expected = source.for_batch(batch), PairLabels.from_classes(classes[batch])
    check_invariants(of_batch)
    assert torch.equal(of_batch.same, expected.same)
    assert torch.equal(of_batch.known, expected.known)


def test_pairs_listed_twice_count_once() -> None:
    twice = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 2]), torch.tensor([1, 1, 0])
    assert PairLabels.from_pairs(3, *twice).n_same == 1
    source = PairSource.from_pairs(3, *twice)
    assert (source.n_same, source.n_different) == (1, 1)


def test_no_matrix_over_all_examples_is_made() -> None:
    n = 1_000_000_000
    source = PairSource.from_pairs(
        n, torch.tensor([0, n - 1]), torch.tensor([n - 1, 5]), torch.tensor([1, 0])
    )
    labels = source.for_batch(torch.tensor([5, n - 1, 0]))
    assert labels.same.tolist() == [
        [False, False, False],
        [False, False, True],
        [False, True, False],
    ]
    assert labels.known[0].tolist() == [False, True, False]


def test_labels_stay_where_they_are_or_move() -> None:
    labels = PairLabels.from_classes(torch.tensor([0, 1, 1]))
    assert labels.to("cpu") is labels
    moved = labels.to("meta")
    assert moved.same.device.type == moved.known.device.type == "meta"
    assert (moved.n_same, moved.n_different) == (1, 2)
    assert PairSource.from_classes(torch.tensor([0, 1])).for_batch(
        torch.tensor([0, 1]), "meta"
    ).same.device == torch.device("meta")


# --- Class identities are gone


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.permutations(range(6)))
@settings(max_examples=60, deadline=None)
def test_a_source_holds_nothing_that_a_renaming_of_the_classes_changes(classes, names) -> None:
    a = PairSource.from_classes(torch.tensor(classes))
    b = PairSource.from_classes(torch.tensor([100 + names[c] for c in classes]))
    held_a, held_b = (dataclasses.asdict(source._known) for source in (a, b))
    assert list(vars(a)) == ["_known"]
    assert held_a.keys() == held_b.keys()
    for key, value in held_a.items():
        other = held_b[key]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other
    assert repr(a) == repr(b)


def test_nothing_public_of_a_source_is_a_tensor() -> None:
    source = PairSource.from_classes(torch.tensor([3, 1, 3]))
    public = [getattr(source, name) for name in dir(source) if not name.startswith("_")]
    assert not any(isinstance(value, Tensor) for value in public)
    assert repr(source) == "PairSource(n_examples=3, n_same=1, n_different=2)"


# --- Batches


@pytest.mark.parametrize(("n", "sizes"), [(5, [5]), (8, [8]), (15, [8]), (17, [8, 8])])
def test_class_batches_of_exactly_the_size(n: int, sizes: list[int]) -> None:
    source = PairSource.from_classes(torch.zeros(n, dtype=torch.int64))
    batches = list(source.batches(8, seeded()))
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == source.n_batches(8)
    assert len(torch.cat(batches).unique()) == sum(sizes)


CLASS_SIZES = st.one_of(
    st.lists(st.integers(1, 12), min_size=2, max_size=60),
    st.lists(st.integers(1, 3), min_size=2, max_size=120),
    st.builds(lambda few, many: [many, *few], st.lists(st.integers(1, 4), min_size=1, max_size=3),
              st.integers(50, 400)),
)  # fmt: skip


@given(CLASS_SIZES, st.integers(3, 40), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_every_batch_of_any_classes_has_pairs_of_both_kinds(
    sizes: list[int], batch_size: int, seed: int
) -> None:
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    classes = classes[torch.randperm(len(classes), generator=seeded(seed))]
    source = PairSource.from_classes(classes)
    batches = list(source.batches(batch_size, seeded(seed)))
    size = min(batch_size, len(classes))
    assert [len(batch) for batch in batches] == [size] * source.n_batches(batch_size)
    together, seen = set(), set()
    for batch in batches:
        assert len(batch.unique()) == size
        names, counts = classes[batch].unique(return_counts=True)
        assert len(names) > 1
        assert bool((counts > 1).any()) == bool(source.n_same)
        together |= set(names[counts > 1].tolist())
        seen |= set(batch.tolist())
    # Two slots a class are room for all, however unluckily they were filled before.
    if len(batches) * (size // 2 - 1) >= 2 * len(sizes):
        assert together == {name for name, count in enumerate(sizes) if count > 1}
    # At most two examples a batch, and two a class, give way to those that come twice.
    assert len(seen) >= len(batches) * max(1, size - 2) - 2 * len(sizes)


def test_batches_that_have_all_pairs_stay_a_permutation() -> None:
    source = PairSource.from_classes(torch.arange(1000) % 10)
    batches = list(source.batches(64, seeded(5)))
    assert torch.equal(torch.cat(batches), torch.randperm(1000, generator=seeded(5))[: 15 * 64])


def test_many_classes_in_small_batches_still_see_every_example() -> None:
    source = PairSource.from_classes(torch.arange(1200) % 120)
    batches = list(source.batches(8, seeded()))
    assert all(source.for_batch(batch).n_same for batch in batches)
    assert len(torch.cat(batches).unique()) > 0.99 * 1200


def test_a_rare_class_comes_together_and_each_batch_has_two_classes() -> None:
    classes = torch.zeros(2004, dtype=torch.int64)
    classes[:4] = 1
    source, shown = PairSource.from_classes(classes), set()
    for epoch in range(20):
        batches = list(source.batches(32, seeded(epoch)))
        shown |= {tuple(batch[batch < 4].sort().values.tolist()) for batch in batches}
        assert all(len(classes[batch].unique()) == 2 for batch in batches)
        assert len(torch.cat(batches).unique()) > 0.9 * 2004
    assert set(combinations(range(4), 2)) <= shown


def test_batches_too_small_for_pairs_of_both_kinds_are_refused() -> None:
    source = PairSource.from_classes(torch.arange(240) % 120)
    with pytest.raises(PairError, match=r"batch of 2 .* 120 classes .* batch_size of at least 3"):
        source.n_batches(2)
    with pytest.raises(PairError, match="batch_size of at least 3"):
        source.batches(2, seeded())


SOURCES = {
    "classes": PairSource.from_classes(torch.arange(200) % 10),
    "sparse": some_pairs(200, 60),
    "medium": some_pairs(200, 500),
    "dense": some_pairs(60, 4000),
    "few-same": some_pairs(200, 400, share_same=0.02),
    "few-different": some_pairs(200, 400, share_same=0.98),
    "all-same": some_pairs(50, 40, share_same=1.0),
    "few-pairs-all-same": some_pairs(50, 20, share_same=1.0),
    "all-different": some_pairs(50, 40, share_same=0.0),
    "one-pair": PairSource.from_pairs(9, *listed({(3, 7): True})),
    "one-of-each": PairSource.from_pairs(9, *listed({(3, 7): True, (3, 8): False})),
}
PAIR_LISTS = {name: source for name, source in SOURCES.items() if name != "classes"}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_batches_follow_the_generator_alone(source: PairSource) -> None:
    def epoch(seed: int) -> list[list[int]]:
        torch.manual_seed(torch.seed() % 1000)
        return [batch.tolist() for batch in source.batches(16, seeded(seed))]

    assert epoch(1) == epoch(1)
    if source.n_examples > 9:
        assert epoch(1) != epoch(2)


def test_batches_draw_all_their_randomness_at_once() -> None:
    for source in SOURCES.values():
        generator = seeded()
        batches = source.batches(16, generator)
        state = generator.get_state()
        list(batches)
        assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("batch_size", [4, 5, 16, 64])
@pytest.mark.parametrize("source", PAIR_LISTS.values(), ids=PAIR_LISTS)
def test_pair_batches(source: PairSource, batch_size: int) -> None:
    for seed in range(3):
        batches = list(source.batches(batch_size, seeded(seed)))
        assert len(batches) == source.n_batches(batch_size) > 0
        for batch in batches:
            assert len(batch) <= batch_size
            assert len(batch.unique()) == len(batch)
            labels = source.for_batch(batch)
            assert labels.known.any(1).all()
            assert bool(labels.n_same) == bool(source.n_same)
            assert bool(labels.n_different) == bool(source.n_different)


@pytest.mark.parametrize("name", ["sparse", "few-pairs-all-same", "one-pair", "one-of-each"])
def test_an_epoch_goes_through_every_pair_of_a_short_list(name: str) -> None:
    source = SOURCES[name]
    seen = set()
    for batch in source.batches(16, seeded()):
        labels = source.for_batch(batch)
        seen |= {
            (int(batch[a]), int(batch[b]))
            for a, b in combinations(range(len(batch)), 2)
            if labels.known[a, b]
        }
    assert {tuple(sorted(pair)) for pair in seen} == set(known_pairs(source))


def test_an_epoch_of_a_long_list_is_as_long_as_there_are_examples() -> None:
    source = SOURCES["dense"]
    assert source.n_same + source.n_different > 1000
    assert source.n_batches(16) == -(-60 // 8)
    shown = torch.cat([b for seed in range(4) for b in source.batches(16, seeded(seed))])
    assert len(shown.unique()) == 60


# --- Splitting a list


@pytest.mark.parametrize("name", ["sparse", "medium", "dense", "few-same"])
def test_split_parts_a_list_by_kind(name: str) -> None:
    source = SOURCES[name]
    training, validation = source.split(0.2, seed=3)
    parts = known_pairs(training), known_pairs(validation)
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == known_pairs(source)
    assert validation.n_same == max(1, round(0.2 * source.n_same))
    assert validation.n_different == max(1, round(0.2 * source.n_different))
    assert training.n_examples == validation.n_examples == source.n_examples
    assert known_pairs(source.split(0.2, seed=3)[1]) == parts[1]
    assert known_pairs(source.split(0.2, seed=4)[1]) != parts[1]


def test_split_never_takes_all_pairs_of_a_kind() -> None:
    source = PairSource.from_pairs(
        5, *listed({(0, 1): True, (0, 2): True, (3, 4): False, (1, 4): False, (2, 4): False})
    )
    for fraction in (0.01, 0.99):
        for part in source.split(fraction, seed=0):
            assert part.n_same >= 1
            assert part.n_different >= 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_split_refuses_shares_outside_0_to_1(fraction: float) -> None:
    with pytest.raises(PairError, match="between 0 and 1"):
        SOURCES["medium"].split(fraction, seed=0)


def test_split_refuses_classes_and_single_pairs() -> None:
    with pytest.raises(PairError, match="split the examples"):
        SOURCES["classes"].split(0.1, seed=0)
    with pytest.raises(PairError, match="cannot be split"):
        SOURCES["one-of-each"].split(0.5, seed=0)
