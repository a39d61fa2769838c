"""Figures: readable PNG files that show what they are given."""

from __future__ import annotations

import io
import warnings
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from modkernel.flows.display.figures import (
    _draw_history,
    evaluation_figure,
    module_figures,
    network_figure,
    png,
)
from modkernel.flows.study.figures import heat_figure
from modkernel.flows.study.statistics import agreement
from modkernel.training.report import ClassRecall, EpochLine, OutputEvaluation, TrainReport

EVALUATION = OutputEvaluation(
    accuracy=0.75,
    accuracy_all_labels=0.9,
    labels=2,
    draws=3,
    accuracy_mean=0.7,
    accuracy_min=0.6,
    accuracy_max=0.8,
    balanced_accuracy=0.75,
    balanced_accuracy_all_labels=0.9,
    balanced_accuracy_mean=0.7,
    balanced_accuracy_min=0.6,
    balanced_accuracy_max=0.8,
    worst_class=ClassRecall(name="b", accuracy=0.75, right=3, examples=4),
    worst_class_all_labels=ClassRecall(name="b", accuracy=0.75, right=3, examples=4),
    worst_class_mean=ClassRecall(name="b", accuracy=0.75, right=3, examples=4),
    untested=(),
    confusion=((3, 1), (1, 3)),
    per_class=(0.75, 0.75),
)


def report(epochs: int, evaluation: OutputEvaluation | None = None) -> TrainReport:
    return TrainReport(
        recipe_digest="0" * 64,
        history=tuple(
            EpochLine(epoch=k, objective=k / 10, validation=k / 12, learning_rate=0.1, seconds=1)
            for k in range(1, epochs + 1)
        ),
        best_epoch=epochs,
        seconds=1,
        device="cpu",
        precision="float32",
        examples=8,
        parameters=4,
        evaluation=evaluation,
    )


def pixels(figure: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure)).convert("L"))


def test_a_module_has_the_figures_that_it_has_data_for() -> None:
    assert set(module_figures(report(3), "net.hidden-1", None)) == {"objective.png"}
    assert set(module_figures(report(0, EVALUATION), "net.output", ("a", "b"))) == {
        "evaluation.png"
    }
    assert set(module_figures(report(1, EVALUATION), "net.output", ("a", "b"))) == {
        "objective.png",
        "evaluation.png",
    }


def test_a_figure_is_drawn_once_for_both_pages() -> None:
    """For the run in MLflow by what the child told, for Prefect by what the registry has."""
    told = report(2, EVALUATION)
    stored = TrainReport.model_validate_json(told.model_dump_json())
    first = module_figures(told, "net.output", ["a", "b"])
    second = module_figures(stored, "net.output", ("a", "b"))
    assert set(first) == {"objective.png", "evaluation.png"}
    assert all(second[name] is figure for name, figure in first.items())


def test_the_scale_of_validation_is_its_own() -> None:
    """A validation of other heights moves nothing of the curve of training."""
    found = report(3)
    far = [line.changed(validation=1000 * line.objective) for line in found.history]
    drawn = [Figure().subplots(), Figure().subplots()]
    for ax, one in zip(drawn, (found, found.changed(history=far)), strict=True):
        _draw_history(ax, one)
    assert drawn[0].get_ylim() == drawn[1].get_ylim()
    own = drawn[1].figure.axes[1]
    assert max(own.lines[0].get_ydata()) == pytest.approx(300)
    labels = [text.get_text() for text in drawn[1].get_legend().get_texts()]
    assert labels == ["training", "validation", "kept"]


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_an_evaluation_is_drawn_with_and_without_names(classes: tuple[str, ...]) -> None:
    drawn = pixels(evaluation_figure(EVALUATION, classes))
    other = EVALUATION.changed(confusion=((1, 3), (3, 1)))
    assert (drawn < 128).any()
    assert (pixels(evaluation_figure(other, classes)) != drawn).any()


def test_a_dollar_in_a_name_begins_no_formula() -> None:
    names = (r"$\frac{$", "a$b$c", r"\$", "5 $ to 7 $")
    plain = pixels(evaluation_figure(EVALUATION, ("cat", "dog")))
    for name in names:
        assert (pixels(evaluation_figure(EVALUATION, (name, "dog"))) != plain).any()
    truth = np.eye(4)
    heat = heat_figure(names, truth, [("leep", truth, agreement(truth, truth))])
    assert pixels(png(heat)).any()


def test_of_signs_that_the_font_lacks_nothing_is_printed() -> None:
    ours = [one for one in warnings.filters if "Glyph" in str(one[1])]
    for _ in range(2):
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        axes.set_xticks([0, 1], ["日本", "b"])
        axes.set_title("漢字")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert pixels(png(figure)).any()
            once = [*warnings.filters]
            png(Figure())
            assert [*warnings.filters] == once, "set once"
        assert told == []
    assert [one for one in warnings.filters if "Glyph" in str(one[1])] == ours


def test_a_network_shows_its_modules_own_figures_two_a_row() -> None:
    hidden = [(f"net.hidden-{number}", report(number + 1)) for number in (1, 2, 3)]
    output = ("net.output", report(0, EVALUATION))
    curves = [pixels(module_figures(told, name, None)["objective.png"]) for name, told in hidden]
    judged = pixels(evaluation_figure(EVALUATION, ("a", "b")))
    (row, wide), top = curves[0].shape, judged.shape[0]
    whole = pixels(network_figure([*hidden, output], EVALUATION, ("a", "b")))
    assert whole.shape == (top + 2 * row, 2 * wide) == (top + 2 * row, judged.shape[1])
    assert (whole[:top] == judged).all()
    places = ((top, 0), (top, wide), (top + row, 0))
    for (down, right), curve in zip(places, curves, strict=True):
        assert (whole[down : down + row, right : right + wide] == curve).all()
    assert (whole[top + row :, wide:] == 255).all()
    assert (curves[0] != curves[1]).any(), "its name is in it"
    alone = pixels(network_figure(hidden[:1], None, ()))
    assert (alone[:, :wide] == curves[0]).all()
    assert pixels(network_figure([output], None, ())).any(), "nothing to draw is no error"


@pytest.mark.parametrize(
    ("tasks", "panels"),
    [
        (each, panels)
        if (each, panels) in ((4, 1), (15, 1), (40, 8))
        else pytest.param(each, panels, marks=pytest.mark.long)
        for each in (4, 15, 40)
        for panels in (1, 8, 13, 15)
    ],
)
def test_no_name_in_the_heat_maps_runs_into_another_or_out_of_the_figure(
    tasks: int, panels: int
) -> None:
    rng = np.random.default_rng(0)
    names = [f"automobile-{number}" * (1 + number % 4) for number in range(tasks)]
    truth, score = rng.random((2, tasks, tasks))
    scores = [("anchor_contrastive", score, agreement(score, truth))] * panels
    figure = heat_figure(names, truth, scores)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [ax.get_tightbbox(canvas.get_renderer()) for ax in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]
    whole = figure.bbox
    for box in boxes:
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
