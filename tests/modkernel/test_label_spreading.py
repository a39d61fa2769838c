"""Labels spread along nearest neighbours, against dense algebra in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from modkernel.control import Control
from modkernel.data import label_budget
from modkernel.data.label_budget import draw_labels
from modkernel.errors import NonFiniteError, SpecError, StoppedError
from modkernel.kernels import unit_rows
from modkernel.modules.stored import StoredModule
from modkernel.spec import OutputSpec, Recipe
from modkernel.training import label_spreading, output
from modkernel.training.heads import fit_heads, predict_heads
from modkernel.training.label_spreading import (
    ALPHA,
    Spread,
    candidates,
    neighbour_graph,
    solve,
    spread_labels,
)
from modkernel.training.labels_seen import labels_told
from modkernel.training.output import GivenLabels, LabelledData, train_output
from tests.modkernel.helpers.devices import DEVICE
from tests.modkernel.helpers.training_examples import FLOAT32, labelled, output_spec_on, trained

pytestmark = pytest.mark.gpu

CLASSES = 3


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory) -> StoredModule:
    (stored,) = trained(tmp_path_factory.mktemp("chain"), Recipe(epochs=3, batch_size=32))
    return stored


def clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping clouds of unequal sizes, float32 [N, 6], and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator).clamp_max(CLASSES - 1)
    labels[:CLASSES] = torch.arange(CLASSES)
    middles = 2 * torch.eye(CLASSES, 6)
    phi = middles[labels] + torch.randn(count, 6, generator=generator)
    return phi.to(DEVICE), labels.to(DEVICE)


def spirals(count: int) -> tuple[Tensor, Tensor]:
    """Two arms that wind around each other, float32 [N, 3], and which of them each is of."""
    generator = torch.Generator().manual_seed(1)
    along = torch.rand(count, generator=generator).sqrt()
    labels = torch.arange(count) % 2
    angle = torch.pi * (2 * along + labels)
    arms = (along + 0.05)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    plane = arms + 0.01 * torch.randn(count, 2, generator=generator)
    return torch.cat([0.3 * plane, torch.ones(count, 1)], 1).to(DEVICE), labels.to(DEVICE)


def spread(phi: Tensor, labels: Tensor, chosen: Tensor, classes: int, seed: int) -> Spread:
    """Labels spread over all that may be."""
    order = candidates(len(phi), chosen.shape[1], seed).to(phi.device)
    return spread_labels(phi, labels, chosen, order, classes)


def dense_graph(phi: Tensor, neighbours: int) -> Tensor:
    """The normalised weights from their definition, float64 [N, N]."""
    unit = torch.nn.functional.normalize(phi.cpu().double())
    squares = ((unit[:, None] - unit) ** 2).sum(2).fill_diagonal_(torch.inf)
    nearest = squares.argsort(dim=1)[:, : min(neighbours, len(phi) - 1)]
    width = squares.gather(1, nearest)[:, : label_spreading.SCALING][:, -1].sqrt()
    near = torch.zeros_like(squares).scatter(1, nearest, 1)
    weights = torch.where(near > 0, torch.exp(-squares / (width[:, None] * width)), 0)
    weights = (weights + weights.T) / 2
    scale = weights.sum(1).rsqrt()
    return scale[:, None] * weights * scale


def dense_scores(phi: Tensor, neighbours: int, rows: Tensor, labels: Tensor) -> Tensor:
    """How much of each class reaches each example, float64 [N, C]."""
    graph = dense_graph(phi, neighbours)
    seeds = torch.zeros(len(phi), CLASSES, dtype=torch.float64)
    seeds[rows, labels] = 1
    whole = torch.eye(len(phi), dtype=torch.float64)
    return torch.linalg.solve(whole - ALPHA * graph, seeds)


@settings(max_examples=40)
@given(count=st.integers(4, 60), neighbours=st.integers(1, 12), seed=st.integers(0, 9))
def test_the_graph_is_that_of_its_definition(count: int, neighbours: int, seed: int) -> None:
    phi, _ = clouds(count, seed)
    found = neighbour_graph(phi, neighbours).to_dense().double().cpu()
    # In float32, 2 - 2 cos of near neighbours has few digits left.
    torch.testing.assert_close(found, dense_graph(phi, neighbours), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_that_dense_algebra_gives(seed: int) -> None:
    phi, labels = clouds(300, seed)
    chosen = draw_labels(labels.cpu(), CLASSES, 2, 4, seed).to(DEVICE)
    found = spread(phi, labels, chosen, CLASSES, seed)
    assert found.rows.shape == (4, 300)
    for rows, every, given_rows in zip(
        found.labels.cpu(), found.rows.cpu(), chosen.cpu(), strict=True
    ):
        scores = dense_scores(phi, label_spreading.NEIGHBOURS, given_rows, labels.cpu()[given_rows])
        first, second = scores.topk(2).values.T
        clear = first - second > 1e-4 * first
        assert clear.double().mean() > 0.95
        expected = scores.argmax(1)
        expected[given_rows] = labels.cpu()[given_rows]
        assert torch.equal(rows[clear], expected[clear])
        assert sorted(every.tolist()) == list(range(300))
        assert torch.equal(every[: len(given_rows)], given_rows)


def test_far_from_a_label_values_are_tiny_and_right() -> None:
    phi, labels = spirals(800)
    graph, seeds = neighbour_graph(phi), torch.zeros(len(phi), 2, device=phi.device)
    seeds[:2] = torch.eye(2)  # Each arm has one label, at a random place of it.
    whole = torch.eye(len(phi), dtype=torch.float64) - ALPHA * graph.to_dense().double().cpu()
    expected = torch.linalg.solve(whole, seeds.double().cpu())
    assert expected.amax(1).min() < 1e-7
    torch.testing.assert_close(solve(graph, seeds).cpu(), expected, rtol=1e-4, atol=0)
    found = spread(phi, labels, labels.new_tensor([[0, 1]]), 2, 0)
    assert found.reached == (798,)
    assert (found.labels[0] == labels).double().mean() > 0.99


def test_what_no_neighbour_joins_with_a_label_gets_none() -> None:
    """Two groups at right angles, of which one has labels."""
    generator = torch.Generator().manual_seed(0)
    phi = torch.zeros(40, 8)
    phi[:20, :4] = torch.rand(20, 4, generator=generator) + 0.1
    phi[20:, 4:] = torch.rand(20, 4, generator=generator) + 0.1
    labels = torch.arange(40) % 2
    chosen = torch.tensor([[0, 1]])
    found = spread(phi.to(DEVICE), labels.to(DEVICE), chosen.to(DEVICE), 2, 0)
    rows = found.rows[0].tolist()
    assert len(rows) == 40
    assert {*rows} == {*range(20)}
    assert rows.count(0) + rows.count(1) == 22
    assert found.reached == (18,)


def test_copies_pass_labels_on_as_one() -> None:
    """Each of sixty points stands there thirty times: more than an example has neighbours."""
    points, labels = clouds(60, 3)
    phi, known = points.repeat_interleave(30, 0), labels.repeat_interleave(30)
    chosen = 30 * draw_labels(labels.cpu(), CLASSES, 2, 1, 0).to(DEVICE)
    found = spread(phi, known, chosen, CLASSES, 0)
    alone = spread(points, labels, chosen // 30, CLASSES, 0)
    assert found.reached == (1794,)
    assert torch.equal(found.labels[0].view(60, 30)[:, 1], alone.labels[0])


def test_features_that_are_not_finite_are_refused() -> None:
    phi, labels = clouds(50, 0)
    phi[7, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="no neighbours can be told"):
        spread(phi, labels, labels.new_tensor([[0, 1, 2]]), CLASSES, 0)


def test_of_many_examples_a_sample_is_taken_with_all_that_have_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(label_spreading, "SAMPLE", 50)
    phi, labels = clouds(300, 1)
    chosen = draw_labels(labels.cpu(), CLASSES, 5, 3, 1).to(DEVICE)
    found, again = (spread(phi, labels, chosen, CLASSES, 7) for _ in range(2))
    alone = spread(phi, labels, chosen[:1], CLASSES, 7)
    assert torch.equal(found.rows, again.rows)
    assert torch.equal(found.labels, again.labels)
    assert found.rows.shape == (3, 15 + 50)
    for rows, given_rows in zip(found.rows, chosen, strict=True):
        assert torch.equal(rows[:15], given_rows)
        assert len({*rows.tolist()}) == 65
    # What a draw gets does not depend on the others.
    assert torch.equal(found.rows[:1], alone.rows)
    assert torch.equal(found.labels[0, alone.rows[0]], alone.labels[0, alone.rows[0]])


def test_few_labels_of_real_digits_are_worth_more_when_they_are_spread() -> None:
    pixels, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    phi, spec = unit_rows(pixels.float()), OutputSpec(method="ridge")
    train, known = phi[:1200].to(DEVICE), labels[:1200].to(DEVICE)
    chosen = draw_labels(labels[:1200], 10, 1, 10, 0).to(DEVICE)
    found = spread(train, known, chosen, 10, 0)
    right = (found.labels == known).double().mean(1).cpu()
    test, truth = phi[1200:].to(DEVICE), labels[1200:].to(DEVICE)
    plain, after = (
        float((predict_heads(fit, test) == truth).double().mean())
        for fit in (
            fit_heads(train, known, chosen, 10, spec, 0),
            fit_heads(train, found.labels, found.rows, 10, spec, 0),
        )
    )
    assert right.mean() > 0.85
    assert after > plain + 0.1


def test_a_module_of_spread_labels_is_what_its_report_says(below: StoredModule) -> None:
    train, test = labelled(400), labelled(200, 2)
    spec = output_spec_on(below, OutputSpec(labels_per_class=1, draws=3, spread_labels=True))
    plain = output_spec_on(below, OutputSpec())
    weights, report = train_output(spec, train, test, [below], arithmetic=FLOAT32)
    again, _ = train_output(spec, train, None, [below], arithmetic=FLOAT32)
    _, whole = train_output(plain, train, test, [below], arithmetic=FLOAT32)
    torch.testing.assert_close(weights, again)
    found = report.evaluation
    assert found is not None
    assert whole.evaluation is not None
    assert found.accuracy_all_labels == whole.evaluation.accuracy
    assert (found.labels, found.draws, found.spread_over) == (3, 3, 397)
    assert "3 labels for the output module, spread over 397 examples;" in found.labels_told


def test_labels_of_a_file_are_spread_over_data_that_have_none(below: StoredModule) -> None:
    """The module is that of data with labels of which the same few are used."""
    train, test = labelled(96), labelled(60, 2)
    assert train.labels is not None
    (rows,) = draw_labels(train.labels, 3, 2, 1, seed=0)
    hands = GivenLabels(rows, train.labels[rows])
    spec = output_spec_on(below, OutputSpec(spread_labels=True))
    drawn = output_spec_on(below, OutputSpec(spread_labels=True, labels_per_class=2))
    bare = LabelledData(train.examples, None)
    weights, report = train_output(spec, bare, test, [below], given=hands, arithmetic=FLOAT32)
    expected, reference = train_output(drawn, train, test, [below], arithmetic=FLOAT32)
    torch.testing.assert_close(weights, expected)
    assert report.evaluation is not None
    assert reference.evaluation is not None
    assert report.evaluation.accuracy == reference.evaluation.accuracy
    assert report.evaluation.spread_over == 90
    # The only labels that are known are these: the reference has them, and does not spread them.
    plain = output_spec_on(below, OutputSpec())
    _, unspread = train_output(plain, bare, test, [below], given=hands, arithmetic=FLOAT32)
    assert unspread.evaluation is not None
    assert report.evaluation.accuracy_all_labels == unspread.evaluation.accuracy


def test_examples_without_a_label_get_those_of_the_others(below: StoredModule) -> None:
    """All of a few labelled examples, spread over the set's unlabelled ones."""
    few, more, test = labelled(6), labelled(300, 5), labelled(200, 2)
    spec = output_spec_on(below, OutputSpec(spread_labels=True))
    _, report = train_output(spec, few, test, [below], unlabelled=more.examples, arithmetic=FLOAT32)
    found = report.evaluation
    assert found is not None
    assert (found.labels, found.spread_over) == (6, 300)
    _, plain = train_output(
        output_spec_on(below, OutputSpec()), few, test, [below], arithmetic=FLOAT32
    )
    assert plain.evaluation is not None
    assert found.accuracy_all_labels == plain.evaluation.accuracy


def test_of_many_without_a_label_only_those_that_take_part_are_computed(
    below: StoredModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (label_spreading, output):
        monkeypatch.setattr(module, "SAMPLE", 40)
    few, more = labelled(6), labelled(300, 5)
    computed: list[int] = []
    real = output.compute_features

    def counted(extractor: Any, examples: Any, *args: Any, **more: Any) -> Any:
        computed.append(len(examples))
        return real(extractor, examples, *args, **more)

    monkeypatch.setattr(output, "compute_features", counted)
    spec = output_spec_on(below, OutputSpec(spread_labels=True))
    notes: list[Any] = []
    control = Control(progress=notes.append)
    train_output(
        spec, few, None, [below],
        unlabelled=more.examples, arithmetic=FLOAT32, control=control,
    )  # fmt: skip
    assert computed[0] == 6
    assert 40 <= computed[1] <= 46
    assert "Labels are spread over 40 examples." in [note.get("text") for note in notes]


@pytest.mark.parametrize("most", [96, 5], ids=["no other", "too many"])
def test_there_must_be_few_labels_and_something_to_spread_over(
    below: StoredModule, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_budget, "SPREAD_FROM", most)
    spec = output_spec_on(below, OutputSpec(spread_labels=True))
    with pytest.raises(SpecError, match=r"none to spread|at most 5 are spread"):
        train_output(
            spec, labelled(96), None, [below], arithmetic=FLOAT32,
            unlabelled=None if most == 96 else labelled(9).examples,
        )  # fmt: skip


def test_it_stops_when_it_is_told_to() -> None:
    phi, labels = clouds(100, 0)
    order, rows = candidates(100, 3, 0).to(DEVICE), labels.new_tensor([[0, 1, 2]])
    with pytest.raises(StoppedError):
        spread_labels(phi, labels, rows, order, CLASSES, lambda: True)


def test_a_recipe_that_does_not_spread_is_told_as_before() -> None:
    assert "spread_labels" not in OutputSpec().canonical_json()
    assert "spread_labels" in OutputSpec(spread_labels=True).canonical_json()
    assert labels_told(1, None, 5) == "1 label for the output module, spread over 5 examples"
