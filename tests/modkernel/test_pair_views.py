"""Pairs of views against brute force, in every mixture of sources; NT-Xent as SimCLR has it."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from modkernel.errors import PairError
from modkernel.kernels import make_kernel
from modkernel.objectives.table import make_objective
from modkernel.pairs.labels import PairLabels
from modkernel.pairs.source import PairSource
from modkernel.pairs.table import draw_some
from modkernel.spec import KernelSpec, ObjectiveSpec


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(
    batch: list[int], labels: list[int] | None, listed: set[tuple[int, int]]
) -> list[list[bool]]:
    """Whether each two views of a batch's examples are a same pair, looked at one by one."""
    views = [*batch, *batch]
    same = [[False] * len(views) for _ in views]
    for (p, a), (q, b) in itertools.permutations(enumerate(views), 2):
        of_one = a == b
        alike = labels is not None and labels[a] == labels[b] >= 0
        given = (min(a, b), max(a, b)) in listed
        same[p][q] = of_one or alike or given
    return same


def check(found: PairLabels, expected: list[list[bool]]) -> None:
    size = len(expected)
    assert found.same.tolist() == expected
    assert torch.equal(found.known, ~torch.eye(size, dtype=torch.bool))
    assert found.n_same == sum(map(sum, expected)) // 2
    assert found.n_different == size * (size - 1) // 2 - found.n_same


@settings(deadline=None, max_examples=50)
@given(data=st.data(), n=st.integers(2, 9))
def test_same_where_any_source_says_so(data: st.DataObject, n: int) -> None:
    source = data.draw(st.sampled_from(("views", "labels", "list")))
    labels, listed, same = None, set(), []
    if source == "labels":
        labels = data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
        pairs = PairSource.from_views(n, torch.tensor(labels))
    elif source == "list":
        every = list(itertools.combinations(range(n), 2))
        chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
        same = [data.draw(st.booleans()) for _ in chosen]
        listed = {pair for pair, alike in zip(chosen, same, strict=True) if alike}
        i, j = torch.tensor(chosen).unbind(1)
        pairs = PairSource.from_views(n, None, (i, j, torch.tensor(same)))
    else:
        pairs = PairSource.from_views(n)
    assert pairs.views
    whole = by_hand(list(range(n)), labels, listed)
    assert pairs.n_same == sum(map(sum, whole)) // 2
    assert pairs.n_same + pairs.n_different == n * (2 * n - 1)
    batch = data.draw(st.lists(st.integers(0, n - 1), min_size=2, unique=True))
    check(pairs.for_batch(torch.tensor(batch)), by_hand(batch, labels, listed))


def test_a_label_is_the_same_whatever_its_class_is_called() -> None:
    labels = torch.tensor([3, -1, 5, 3, 5, -1])
    renamed = torch.where(labels < 0, labels, 9 - labels)
    a, b = (PairSource.from_views(6, one) for one in (labels, renamed))
    everyone = torch.arange(6)
    assert torch.equal(a.for_batch(everyone).same, b.for_batch(everyone).same)


def simclr(z: Tensor, temperature: float) -> Tensor:
    """NT-Xent of rows [2 B, d], row i + B of the same example as row i: Chen et al. 2020, eq. 1."""
    size = len(z) // 2
    similarity = F.cosine_similarity(z[:, None], z[None], dim=2) / temperature
    losses = []
    for anchor in range(len(z)):
        others = [k for k in range(len(z)) if k != anchor]
        partner = (anchor + size) % len(z)
        losses.append(torch.logsumexp(similarity[anchor, others], 0) - similarity[anchor, partner])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_objective_on_views_is_simclrs_loss(temperature: float) -> None:
    generator = seeded(0)
    h = torch.randn(14, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    kernel = make_kernel(KernelSpec(name="tanh"))
    objective = make_objective(ObjectiveSpec(temperature=temperature), kernel)
    pairs = PairSource.from_views(20).for_batch(torch.arange(3, 10))
    ours = -objective(kernel.gram(h, h), pairs)
    theirs = simclr(torch.tanh(h), temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (a,), (b,) = torch.autograd.grad(ours, h), torch.autograd.grad(theirs, h)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_an_epoch_is_a_permutation_in_batches() -> None:
    pairs = PairSource.from_views(23)
    batches = list(pairs.batches(5, seeded(0)))
    assert [len(batch) for batch in batches] == [5] * 4 == [5] * pairs.n_batches(5)
    assert len(torch.cat(batches).unique()) == 20
    assert [len(b) for b in PairSource.from_views(3).batches(5, seeded(0))] == [3]
    again = list(pairs.batches(5, seeded(0)))
    assert all(map(torch.equal, batches, again))


def test_the_few_labelled_examples_meet_in_every_batch() -> None:
    labels = torch.full((200,), -1)
    labels[::20] = torch.arange(10) % 5  # Ten labelled examples of five classes.
    pairs = PairSource.from_views(200, labels)
    batches = list(pairs.batches(32, seeded(0)))
    for batch in batches:
        assert len(batch.unique()) == 32
        assert int((labels[batch] >= 0).sum()) == 8
    others = torch.cat([batch[labels[batch] < 0] for batch in batches])
    assert len(others) == len(others.unique())
    assert len(batches) == pairs.n_batches(32) == 190 // 24


def test_ends_of_listed_pairs_meet_in_every_batch() -> None:
    i, j = torch.arange(0, 12), torch.arange(100, 112)
    pairs = PairSource.from_views(400, None, (i, j, torch.ones(12)))
    for batch in pairs.batches(40, seeded(1)):
        assert len(batch) == len(batch.unique()) == 40
        # Five pairs are set aside, and each gives four same pairs of views.
        assert pairs.for_batch(batch).n_same == 40 + 4 * 5


@settings(deadline=None, max_examples=50)
@given(total=st.integers(0, 40) | st.just(10**12), count=st.integers(0, 30))
def test_some_of_many_are_drawn_without_a_look_at_all(total: int, count: int) -> None:
    drawn = draw_some(total, count, seeded(0))
    assert len(drawn) == len(drawn.unique()) == min(total, count)
    assert all(0 <= each < total for each in drawn.tolist())
    assert torch.equal(drawn, draw_some(total, count, seeded(0)))


def test_all_sets_of_some_are_equally_likely() -> None:
    generator = seeded(0)
    drawn = (tuple(draw_some(6, 2, generator).sort().values.tolist()) for _ in range(3000))
    counts = Counter(drawn)
    assert len(counts) == 15
    # Each is expected 200 times, with a standard deviation of 13.7.
    assert all(abs(count - 200) < 60 for count in counts.values())


def test_batches_never_permute_a_long_list(monkeypatch: pytest.MonkeyPatch) -> None:
    i, j = torch.triu_indices(40, 40, 1)
    pairs = PairSource.from_views(400, None, (i, j, (i + j) % 2 == 0))
    permuted = torch.randperm

    def short(total: int, generator: torch.Generator) -> Tensor:
        assert total <= 400
        return permuted(total, generator=generator)

    monkeypatch.setattr(torch, "randperm", short)
    assert len(i) > 400
    assert all(int((batch < 40).sum()) > 2 for batch in pairs.batches(40, seeded(0)))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PairError, match="two examples at least"):
        PairSource.from_views(1).check()
    with pytest.raises(PairError, match=r"Views of 9 examples .*: all are of one label"):
        PairSource.from_views(9, torch.full((9,), 3)).check()
    with pytest.raises(PairError, match="at least 2"):
        PairSource.from_views(5).n_batches(1)
    with pytest.raises(PairError, match="whole numbers"):
        PairSource.from_views(2, torch.tensor([0.5, 1.0]))
    PairSource.from_views(2).check()
