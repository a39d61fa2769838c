"""Suggested labels cover clusters, coarse ones first, and depend on the seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modkernel.errors import DataError, LabelBudgetError
from modkernel.reuse import label_choice
from modkernel.reuse.label_choice import suggest_labels


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clusters around orthogonal directions, none twice as large as another, and who is where."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(25, 49, (count,), generator=generator)
    member = torch.repeat_interleave(torch.arange(count), sizes)
    member = member[torch.randperm(len(member), generator=generator)]
    noise = torch.randn(len(member), 24, generator=generator)
    lengths = torch.rand(len(member), 1, generator=generator) + 0.5
    return (torch.eye(count, 24)[member] + 0.02 * noise) * lengths, member


@settings(max_examples=10)
@given(st.integers(1, 20), st.integers(0, 2**31))
def test_each_cluster_gets_exactly_one_label(count: int, seed: int) -> None:
    features, member = clusters(count, seed % 1000)
    chosen = suggest_labels(features, count, seed)
    assert sorted(member[chosen].tolist()) == list(range(count))
    assert chosen.dtype == torch.int64


def test_the_label_of_a_cluster_is_that_of_its_middle() -> None:
    """Two clusters; in each, one member lies on the axis and the others around it."""
    around = torch.tensor([[0.2, 0.0], [-0.2, 0.0], [0.0, 0.2], [0.0, -0.2], [0.0, 0.0]])
    first = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(5, 1), around], 1)
    second = torch.cat([torch.tensor([[0.0, 1.0]]).repeat(5, 1), around], 1)
    chosen = suggest_labels(torch.cat([first, second]), 2)
    assert sorted(chosen.tolist()) == [4, 9]


@pytest.mark.parametrize("seed", range(5))
def test_the_first_labels_cover_the_coarse_groups(seed: int) -> None:
    """Four groups of three clusters each: the first four of twelve labels are one of each group."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(600) % 4
    part = torch.arange(600) // 4 % 3
    features = torch.zeros(600, 20)
    features[torch.arange(600), group] = 1
    features[torch.arange(600), 4 + group * 3 + part] = 0.3
    chosen = suggest_labels(features + 0.01 * torch.randn(600, 20, generator=generator), 12, seed)
    assert sorted(group[chosen[:4]].tolist()) == [0, 1, 2, 3]
    assert sorted((group[chosen] * 3 + part[chosen]).tolist()) == list(range(12))


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.booleans())
def test_any_budget_gives_different_examples_and_the_seed_decides(
    count: int, budget: int, seed: int, repeated: bool
) -> None:
    generator = torch.Generator().manual_seed(seed % 1000)
    features = torch.randn(count, 5, generator=generator)
    if repeated:
        features = features[:1].repeat(count, 1)
    budget = min(budget, count)
    chosen = suggest_labels(features, budget, seed)
    assert len(set(chosen.tolist())) == len(chosen) == budget
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < count
    assert torch.equal(chosen, suggest_labels(features.clone(), budget, seed))


def test_another_seed_may_choose_otherwise() -> None:
    features = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    chosen = {tuple(suggest_labels(features, 5, seed).tolist()) for seed in range(4)}
    assert len(chosen) > 1


def test_each_label_stands_for_about_as_many_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_choice, "CLUSTERS", 3)
    member = torch.repeat_interleave(torch.arange(3), torch.tensor([60, 30, 10]))
    features = torch.eye(3, 6)[member] + 0.01 * torch.randn(
        100, 6, generator=torch.Generator().manual_seed(1)
    )
    chosen = suggest_labels(features, 10)
    assert torch.bincount(member[chosen], minlength=3).tolist() == [6, 3, 1]
    assert sorted(member[chosen[:3]].tolist()) == [0, 1, 2]


def test_a_small_cluster_waits_for_its_label() -> None:
    """Two examples between two classes of forty: three labels are for the classes."""
    member = torch.repeat_interleave(torch.arange(3), torch.tensor([40, 40, 2]))
    features = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])[member]
    noise = torch.randn(82, 3, generator=torch.Generator().manual_seed(2))
    chosen = suggest_labels(features + 0.01 * noise, 3)
    assert sorted(set(member[chosen].tolist())) == [0, 1]
    assert sorted(member[chosen[:2]].tolist()) == [0, 1]


def test_examples_outside_the_sample_are_candidates_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few examples are clustered, but every medoid is the nearest of all."""
    features, member = clusters(4, seed=3)
    monkeypatch.setattr(label_choice, "SAMPLE", 60)
    chosen = suggest_labels(features, 4)
    assert sorted(member[chosen].tolist()) == [0, 1, 2, 3]
    spread = (torch.nn.functional.normalize(features) - torch.eye(4, 24)[member]).norm(dim=1)
    for row in chosen.tolist():
        assert spread[row] < spread[member == member[row]].median()


@pytest.mark.parametrize("budget", [0, -1, 11])
def test_a_budget_that_cannot_be_is_refused(budget: int) -> None:
    with pytest.raises(LabelBudgetError, match="use 1 to 10"):
        suggest_labels(torch.randn(10, 3), budget)


def test_where_every_example_has_a_label_there_is_none_to_choose() -> None:
    with pytest.raises(LabelBudgetError, match="Every example has a label"):
        suggest_labels(torch.empty(0, 3), 1, labelled=torch.randn(4, 3))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(wrong: float) -> None:
    features = torch.ones(10, 3)
    features[4, 1] = wrong
    with pytest.raises(DataError, match="finite"):
        suggest_labels(features, 2)
    with pytest.raises(DataError, match="one row per example"):
        suggest_labels(torch.ones(10), 2)


@settings(max_examples=10)
@given(st.integers(2, 12), st.data())
def test_clusters_that_have_a_label_need_none(count: int, data: st.DataObject) -> None:
    features, member = clusters(count, data.draw(st.integers(0, 999)))
    covered = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    has = torch.zeros(len(member), dtype=torch.bool)
    for number in covered:
        has[data.draw(st.sampled_from((member == number).nonzero().flatten().tolist()))] = True
    chosen = suggest_labels(features[~has], count - len(covered), 0, features[has])
    found = member[~has][chosen].tolist()
    assert sorted(found) == sorted(set(range(count)) - covered)


def test_labels_that_there_are_count_for_their_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60, 30 and 10 examples, ten labels are for 6, 3 and 1, whichever came first."""
    monkeypatch.setattr(label_choice, "CLUSTERS", 3)
    member = torch.repeat_interleave(torch.arange(3), torch.tensor([60, 30, 10]))
    features = torch.eye(3, 6)[member] + 0.01 * torch.randn(
        100, 6, generator=torch.Generator().manual_seed(1)
    )
    has = torch.zeros(100, dtype=torch.bool)
    has[[0, 1, 2, 99]] = True
    chosen = suggest_labels(features[~has], 6, 0, features[has])
    assert torch.bincount(member[~has][chosen], minlength=3).tolist() == [3, 3, 0]
    assert sorted(member[~has][chosen[:2]].tolist()) == [1, 1], "30 a label stand behind none"
    first = suggest_labels(features[~has], 6, 0, features[has])
    assert torch.equal(first, chosen)


def test_a_cluster_whose_examples_all_have_a_label_is_given_none() -> None:
    features = torch.eye(3, 6)[torch.arange(9) % 3] + 0.01 * torch.randn(
        9, 6, generator=torch.Generator().manual_seed(1)
    )
    chosen = suggest_labels(features[torch.arange(9) % 3 > 0], 6, 0, features[::3])
    assert sorted(chosen.tolist()) == list(range(6))
