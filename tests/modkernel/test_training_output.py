"""Output modules against independent solutions, label draws and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from modkernel.control import Control
from modkernel.data.label_budget import draw_labels
from modkernel.errors import (
    DataError,
    InterfaceError,
    LabelBudgetError,
    NonFiniteError,
    SpecError,
    StoppedError,
)
from modkernel.modules.network import assemble
from modkernel.modules.stored import StoredModule, write_module
from modkernel.spec import (
    KernelSpec,
    OutputSpec,
    Recipe,
)
from modkernel.training.evaluation import (
    confusion_matrix,
    evaluate,
    evaluation_from,
    output_evaluation,
)
from modkernel.training.heads import (
    Fit,
    Heads,
    clip_each_draw,
    fit_by_gradient,
    fit_heads,
    fit_ridge,
    hinge,
    predict_heads,
)
from modkernel.training.output import GivenLabels, LabelledData, train_output
from tests.modkernel.helpers.devices import DEVICE
from tests.modkernel.helpers.training_examples import (
    FLOAT32,
    labelled,
    made_images,
    output_spec_on,
    trained,
)

pytestmark = pytest.mark.gpu

METHODS = ("cross_entropy", "hinge", "ridge")


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory) -> StoredModule:
    (stored,) = trained(tmp_path_factory.mktemp("chain"), Recipe(epochs=3, batch_size=32))
    return stored


def features(count: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % 3
    phi = torch.randn(count, width, generator=generator)
    phi[:, 0] += labels
    return torch.nn.functional.normalize(phi, dim=1), labels


@pytest.mark.parametrize(("count", "width"), [(40, 6), (6, 40)], ids=["n>d", "n<d"])
def test_ridge_is_scikit_learn_s(count: int, width: int) -> None:
    phi, labels = features(count, width)
    spec = OutputSpec(method="ridge", ridge=0.01)
    fit = fit_ridge(phi, labels, torch.arange(count)[None], 3, spec)
    reference = Ridge(alpha=0.01 * count, solver="cholesky").fit(
        phi.double().numpy(), torch.eye(3)[labels].double().numpy()
    )
    np.testing.assert_allclose(fit.weight[0], reference.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fit.bias[0], reference.intercept_, rtol=1e-5, atol=1e-6)


def test_cross_entropy_reaches_the_regularised_optimum() -> None:
    """Weight decay 1/n in torch's SGD is scikit-learn's C = 1, the bias penalised in both."""
    phi, labels = features(60, 4)
    recipe = Recipe(epochs=20, batch_size=60, learning_rate=2.0, weight_decay=1 / 60, momentum=0.9)
    fit = fit_by_gradient(
        phi, labels, torch.arange(60)[None], 3, OutputSpec(recipe=recipe, minimum_steps=1000), 0
    )
    with_one = torch.cat([phi, torch.ones(60, 1)], 1).double().numpy()
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(
        with_one, labels.numpy()
    )
    found = torch.cat([fit.weight[0], fit.bias[0][:, None]], 1)
    np.testing.assert_allclose(found, reference.coef_, atol=2e-4)


def test_hinge_is_the_textbook_s() -> None:
    logits = torch.randn(20, 4, dtype=torch.float64)
    labels = torch.arange(20) % 4
    for row, label, value in zip(logits, labels, hinge(logits, labels), strict=True):
        worst = max(float(1 + row[c] - row[label]) for c in range(4) if c != label)
        assert float(value) == pytest.approx(max(0.0, worst))


@pytest.mark.parametrize("method", METHODS)
def test_draws_fitted_together_are_those_fitted_alone(method: str) -> None:
    phi, labels = features(90, 5)
    spec = OutputSpec.model_validate({"method": method, "labels_per_class": 2, "draws": 4})
    chosen = draw_labels(labels, 3, 2, 4, seed=1)
    together = fit_heads(phi, labels, chosen, 3, spec, seed=1)
    for draw in range(4):
        alone = fit_heads(phi, labels, chosen[draw : draw + 1], 3, spec, seed=1)
        # Rounding grows over the optimiser's steps, and differs between processors.
        torch.testing.assert_close(together.weight[draw], alone.weight[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(predict_heads(together, phi)[draw], predict_heads(alone, phi)[0])


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_draws_have_the_budget_of_every_class_and_do_not_depend_on_each_other(
    per_class: int, draws: int, seed: int
) -> None:
    labels = torch.tensor([0, 1, 2, 1, 0, 2] * 5)
    rows = draw_labels(labels, 3, per_class, draws, seed)
    assert rows.shape == (draws, 3 * per_class)
    for row in rows:
        assert torch.bincount(labels[row], minlength=3).tolist() == [per_class] * 3
        assert len(set(row.tolist())) == 3 * per_class
    assert torch.equal(rows, draw_labels(labels, 3, per_class, draws + 3, seed)[:draws])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_class", [1, None], ids=["one-label", "all-labels"])
def test_an_output_module_classifies_and_is_what_its_report_says(
    below: StoredModule, method: str, per_class: int | None, tmp_path: Path
) -> None:
    spec = output_spec_on(
        below,
        OutputSpec.model_validate(
            {"method": method, "labels_per_class": per_class, "draws": 3 if per_class else 1}
        ),
    )
    test = labelled(60, 2)
    weights, report = train_output(spec, labelled(96), test, [below], arithmetic=FLOAT32)
    found = report.evaluation
    assert found is not None
    assert found.labels == (3 if per_class else 96)
    assert found.accuracy_min <= found.accuracy_mean <= found.accuracy_max
    assert found.accuracy_all_labels > 0.6  # Guessing gives a third.
    stored = write_module(tmp_path / "output", spec, weights)
    network = FLOAT32.place(assemble([below, stored]))
    again = evaluate(network, test.examples, test.labels, FLOAT32)
    assert again.accuracy == pytest.approx(found.accuracy, abs=1e-9)
    assert again.confusion == found.confusion
    assert again.per_class == found.per_class


def test_labels_beyond_the_budget_change_nothing() -> None:
    phi, labels = features(90, 5)
    chosen = draw_labels(labels, 3, 2, 1, seed=0)
    wrong = (labels + 1) % 3
    wrong[chosen[0]] = labels[chosen[0]]
    spec = OutputSpec(labels_per_class=2)
    right, other = (fit_heads(phi, each, chosen, 3, spec, 0) for each in (labels, wrong))
    assert torch.equal(right.weight, other.weight)


def test_a_gaussian_output_module_keeps_its_centres(below: StoredModule, tmp_path: Path) -> None:
    kernel = KernelSpec(name="gaussian", sigma=4.0, centres=20)
    spec = output_spec_on(below, OutputSpec(method="ridge"), kernel)
    test = labelled(60, 2)
    weights, report = train_output(spec, labelled(96), test, [below], arithmetic=FLOAT32)
    assert weights["centres"].shape == (20, *below.spec.interface.gives)
    assert weights["weight"].shape == (3, 20)
    stored = write_module(tmp_path / "output", spec, weights)
    network = FLOAT32.place(assemble([below, stored]))
    again = evaluate(network, test.examples, test.labels, FLOAT32)
    assert report.evaluation is not None
    assert again.accuracy == pytest.approx(report.evaluation.accuracy)


def test_weights_that_are_not_finite_are_never_returned() -> None:
    """One step: its loss is finite, and only the weights after it are not."""
    phi, labels = features(30, 4)
    recipe = Recipe(epochs=1, batch_size=30, learning_rate=1e38, schedule="constant")
    spec = OutputSpec(recipe=recipe, minimum_steps=1)
    with pytest.raises(NonFiniteError, match="learning_rate"):
        fit_by_gradient(phi * 1e3, labels, torch.arange(30)[None], 3, spec, 0)


def test_progress_of_draws_is_that_of_one() -> None:
    seen: list[float] = []
    phi, labels = features(30, 4)
    chosen = draw_labels(labels, 3, 2, 5, seed=0)
    spec = OutputSpec(labels_per_class=2, draws=5)
    control = Control(progress=lambda event: seen.append(event["objective"]))
    fit = fit_by_gradient(phi, labels, chosen, 3, spec, 0, control)
    assert seen == [line.objective for line in fit.history]


def test_what_is_stopped_has_no_checkpoint_and_says_so() -> None:
    phi, labels = features(30, 4)
    chosen, stop = torch.arange(30)[None], Control(stop=lambda: True)
    with pytest.raises(StoppedError, match=r"epoch 1 of .*: the same command begins this module"):
        fit_by_gradient(phi, labels, chosen, 3, OutputSpec(), 0, stop)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_draw_is_clipped_as_if_it_were_alone(optimizer: Literal["sgd", "adam"]) -> None:
    phi, labels = features(90, 5)
    recipe = Recipe(epochs=10, optimizer=optimizer, learning_rate=0.1, clip_norm=0.05)
    spec = OutputSpec(labels_per_class=2, draws=4, minimum_steps=10, recipe=recipe)
    chosen = draw_labels(labels, 3, 2, 4, seed=1)
    together = fit_heads(phi, labels, chosen, 3, spec, seed=1)
    for draw in range(4):
        alone = fit_heads(phi, labels, chosen[draw : draw + 1], 3, spec, seed=1)
        torch.testing.assert_close(together.weight[draw], alone.weight[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.bias[draw], alone.bias[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_one_draw_is_clipped_as_torch_clips(largest: float) -> None:
    heads, again = Heads(1, 6, 3), Heads(1, 6, 3)
    generator = torch.Generator().manual_seed(0)
    for one, other in zip(heads.parameters(), again.parameters(), strict=True):
        one.grad = torch.randn(one.shape, generator=generator)
        other.grad = one.grad.clone()
    clip_each_draw([*heads.parameters()], largest)
    torch.nn.utils.clip_grad_norm_(again.parameters(), largest)
    for one, other in zip(heads.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_labels_given_by_hand_train_as_drawn_ones_do(below: StoredModule) -> None:
    """The same examples with the same classes give the same module, whoever chose them."""
    train, test = labelled(96), labelled(60, 2)
    assert train.labels is not None
    (rows,) = draw_labels(train.labels, 3, 2, 1, seed=0)
    spec = output_spec_on(below, OutputSpec())
    drawn = output_spec_on(below, OutputSpec(labels_per_class=2))
    hands = GivenLabels(rows, train.labels[rows])
    weights, report = train_output(spec, train, test, [below], given=hands, arithmetic=FLOAT32)
    expected, reference = train_output(drawn, train, test, [below], arithmetic=FLOAT32)
    torch.testing.assert_close(weights, expected)
    assert report.evaluation == reference.evaluation
    assert report.examples == 6


def test_labels_given_by_hand_hold_against_those_of_the_data(below: StoredModule) -> None:
    """Every label is off by one, and so is every prediction; the reference is not."""
    train, test = labelled(96), labelled(60, 2)
    assert train.labels is not None
    spec = output_spec_on(below, OutputSpec(method="ridge"))
    wrong = GivenLabels(torch.arange(96), (train.labels + 1) % 3)
    _, report = train_output(spec, train, test, [below], given=wrong, arithmetic=FLOAT32)
    _, right = train_output(spec, train, test, [below], arithmetic=FLOAT32)
    assert report.evaluation is not None
    assert right.evaluation is not None
    assert report.evaluation.accuracy_all_labels == right.evaluation.accuracy > 0.6
    assert report.evaluation.accuracy < 0.4
    shifted = [row[2:] + row[:2] for row in map(list, right.evaluation.confusion)]
    assert [list(row) for row in report.evaluation.confusion] == shifted


@pytest.mark.parametrize("kernel", [None, KernelSpec(name="gaussian", sigma=4.0, centres=20)])
def test_without_other_labels_the_module_is_the_same_and_not_evaluated(
    below: StoredModule, kernel: KernelSpec | None
) -> None:
    train = labelled(96)
    assert train.labels is not None
    rows = torch.tensor([3, 1, 2, 60, 64, 95])
    hands = GivenLabels(rows, train.labels[rows])
    spec = output_spec_on(below, OutputSpec(), kernel)
    unknown = LabelledData(train.examples, None)
    weights, report = train_output(spec, unknown, None, [below], given=hands, arithmetic=FLOAT32)
    expected, _ = train_output(
        spec, train, labelled(60, 2), [below], given=hands, arithmetic=FLOAT32
    )
    # A GPU's features differ in their last digits with the batch that they are computed in, and
    # hundreds of steps on six labels amplify that.
    loose = {} if DEVICE.type == "cpu" else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(weights, expected, **loose)
    assert (report.evaluation, report.examples) == (None, 6)


def test_labels_that_are_not_there_are_refused(below: StoredModule) -> None:
    spec = output_spec_on(below, OutputSpec())
    train = labelled(96)
    with pytest.raises(DataError, match="no class labels"):
        train_output(spec, LabelledData(train.examples, None), None, [below], arithmetic=FLOAT32)
    two = GivenLabels(torch.tensor([0, 1]), torch.tensor([0, 1]))
    with pytest.raises(LabelBudgetError, match="class 'c' has only 0"):
        train_output(spec, train, None, [below], given=two, arithmetic=FLOAT32)


def test_too_many_labels_are_refused_by_name(below: StoredModule) -> None:
    spec = output_spec_on(below, OutputSpec(labels_per_class=33))
    with pytest.raises(LabelBudgetError, match="class 'a' has only 32"):
        train_output(spec, labelled(96), labelled(60, 2), [below], arithmetic=FLOAT32)


def test_another_upstream_and_another_kind_are_refused(below: StoredModule) -> None:
    spec = output_spec_on(below, OutputSpec())
    with pytest.raises(InterfaceError, match="whole chain"):
        train_output(spec, labelled(96), labelled(60, 2), [], arithmetic=FLOAT32)
    with pytest.raises(SpecError, match="train_hidden"):
        train_output(below.spec, labelled(96), labelled(60, 2), [], arithmetic=FLOAT32)


def test_evaluation_counts_as_a_loop_does() -> None:
    truth = torch.tensor([0, 0, 1, 3, 3, 3])
    predicted = torch.tensor([0, 1, 1, 3, 0, 3])
    found = evaluation_from(confusion_matrix(truth, predicted, 4))
    for i in range(4):
        for j in range(4):
            pairs = zip(truth.tolist(), predicted.tolist(), strict=True)
            assert found.confusion[i][j] == sum(pair == (i, j) for pair in pairs)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.per_class == (0.5, 1.0, None, pytest.approx(2 / 3))
    assert found.balanced_accuracy == pytest.approx((0.5 + 1 + 2 / 3) / 3)
    assert found.worst_class == 0


@given(st.integers(0, 10**4), st.integers(1, 30))
def test_the_mean_of_equal_draws_is_what_each_of_them_reached(right: int, draws: int) -> None:
    """A mean below the least draw, by rounding, could not be drawn."""
    matrix = torch.tensor([[right, 10**4 - right], [0, 1]])
    found = output_evaluation([matrix] * draws, matrix, 2, ["a", "b"])
    assert found.accuracy_min == found.accuracy_mean == found.accuracy_max
    assert found.balanced_accuracy_mean == found.balanced_accuracy_max


def test_a_class_that_is_never_found_shows_beside_a_high_accuracy() -> None:
    """2,000 examples against 4: one draw finds none of the four, the other finds one."""
    first, second = torch.tensor([[1600, 0, 0], [4, 0, 0], [0, 0, 0]]), torch.zeros(3, 3).long()
    second[0, 0], second[1, 0], second[1, 1] = 1600, 3, 1
    found = output_evaluation([first, second], second, 2004, ["many", "few", "none"])
    assert found.accuracy == pytest.approx(0.9975, abs=1e-4)
    assert found.balanced_accuracy == found.balanced_accuracy_min == 0.5
    assert found.balanced_accuracy_all_labels == found.balanced_accuracy_max == 0.625
    assert found.balanced_accuracy_mean == pytest.approx((0.5 + 0.625) / 2)
    assert found.worst_class.text == "'few': 0 of 4"
    assert found.worst_class_all_labels.text == "'few': 1 of 4"
    assert found.worst_class_mean.text == "'few': 1 of 8"
    assert found.untested == ("none",)
    assert found.remarks == "No test example of class 'none'."
    assert found.changed(left_out=3).remarks.endswith(
        "3 test examples that modules below have seen are left out."
    )
    assert "seen all 4 test examples" in found.changed(seen=4).remarks
    assert found.metrics()["worst_class_accuracy_mean"] == 0.125
    assert found.metrics()["balanced_accuracy"] == 0.5
    assert all(isinstance(value, int | float) for value in found.metrics().values())


def test_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="test part"):
        evaluation_from(torch.zeros(3, 3))
    data = labelled(6)
    with pytest.raises(DataError, match="as many labels"):
        evaluate(torch.nn.Flatten(), data.examples, data.labels[:2], FLOAT32)


def test_labelled_data_holds_what_it_is_given() -> None:
    images, labels = made_images(6)
    data = labelled(6)
    assert isinstance(data, LabelledData)
    (batch,) = data.examples.batches([torch.arange(6)], torch.device("cpu"))
    assert torch.equal(batch, images)
    assert torch.equal(data.labels, labels)


def test_features_are_brought_to_the_heads() -> None:
    """Training features may lie on a GPU, and those of a test part that it has no room for not."""
    meta = torch.device("meta")
    fit = Fit(torch.zeros(2, 3, 4, device=meta), torch.zeros(2, 3, device=meta), (), 0.0)
    predicted = predict_heads(fit, torch.zeros(7, 4))
    assert (predicted.device, predicted.shape) == (meta, (2, 7))
