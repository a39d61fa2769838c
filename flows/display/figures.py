"""Figures of training and of results, as PNG bytes.

Matplotlib takes a second to import: whoever draws imports this where it draws.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from modkernel.training.report import OutputEvaluation, TrainReport

WIDTH = 8
"""Inches: MLflow's page cuts off what is wider beside its assistant."""
NAMED_CLASSES = 20
"""A confusion matrix of more classes than this has no names at its sides."""
MAPPED_CLASSES = 12
"""A confusion matrix of more classes than this has no numbers in its cells."""
TITLE = 36
"""Letters that fit above a curve: of a longer name its end, which says which module it is."""
ROW = 3.4
"""Height in inches of a row of curves."""
PIXELS = 100
"""An inch has so many."""
DRAWN = 32
"""Figures that are kept: a module's go to its run in MLflow, to Prefect and into its network's."""
NO_GLYPH = r"Glyph \d+ "
"""How matplotlib's warning begins of a sign that its font lacks: a box stands in its place."""


def module_figures(
    report: TrainReport, name: str, classes: Sequence[str] | None
) -> dict[str, bytes]:
    """The figures of one module's card, by file name."""
    figures = {}
    if report.history:
        figures["objective.png"] = objective_curve(report, name)
    if report.evaluation is not None:
        figures["evaluation.png"] = evaluation_figure(report.evaluation, tuple(classes or ()))
    return figures


@lru_cache(DRAWN)
def objective_curve(report: TrainReport, name: str) -> bytes:
    """What a module maximised, by epoch, with the epoch whose weights were stored."""
    figure = Figure(figsize=(WIDTH / 2, ROW), dpi=PIXELS, layout="constrained")
    ax = figure.add_subplot()
    _draw_history(ax, report)
    ax.set_title(name if len(name) <= TITLE else f"…{name[1 - TITLE :]}")
    return png(figure)


def objectives_figure(reports: Sequence[tuple[str, TrainReport]]) -> bytes:
    """What several modules maximised by epoch, each by its name, on one pair of axes."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, report in reports:
        epochs = [line.epoch for line in report.history]
        axes.plot(epochs, [line.objective for line in report.history], label=name)
    _mark_epochs(axes)
    axes.legend()
    return png(figure)


@lru_cache(DRAWN)
def evaluation_figure(evaluation: OutputEvaluation, classes: tuple[str, ...]) -> bytes:
    """The confusion matrix beside the accuracies by number of labels."""
    figure = Figure(figsize=(WIDTH, 3.8), dpi=PIXELS, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_confusion(left, evaluation, classes)
    _draw_accuracies(right, evaluation)
    return png(figure)


def network_figure(
    reports: Sequence[tuple[str, TrainReport]],
    evaluation: OutputEvaluation | None,
    classes: Sequence[str],
) -> bytes:
    """The network's evaluation, and its modules' own curves below: two a row, as pages are narrow.

    They are put together of what the modules' cards show: to draw takes longer than to store them.
    """
    curves = [objective_curve(report, name) for name, report in reports if report.history]
    across, row = WIDTH * PIXELS, round(ROW * PIXELS)
    tops = [] if evaluation is None else [_opened(evaluation_figure(evaluation, tuple(classes)))]
    first = sum(top.height for top in tops)
    whole = Image.new("RGB", (across, max(row, first + row * math.ceil(len(curves) / 2))), "white")
    for top in tops:
        whole.paste(top)
    for number, curve in enumerate(curves):
        whole.paste(_opened(curve), (across // 2 * (number % 2), first + row * (number // 2)))
    buffer = io.BytesIO()
    whole.save(buffer, format="PNG")
    return buffer.getvalue()


def _opened(figure: bytes) -> Image.Image:
    return Image.open(io.BytesIO(figure)).convert("RGB")


def _draw_history(ax: Axes, report: TrainReport) -> None:
    """Training and validation by epoch, each on an axis of its own.

    Their heights say nothing of one another: a training batch has random views and its own batch
    statistics, a small validation part has smaller batches, which an objective depends on, and a
    baseline's validation is its accuracy.
    """
    epochs = [line.epoch for line in report.history]
    objective = [line.objective for line in report.history]
    lines = ax.plot(epochs, objective, marker=".", label="training")
    checked = [
        (line.epoch, line.validation) for line in report.history if line.validation is not None
    ]
    if checked:
        own = ax.twinx()
        own.set_ylabel("validation (its own scale)")
        lines += own.plot(*zip(*checked, strict=True), color="C1", marker=".", label="validation")
        lines.append(ax.axvline(report.best_epoch, color="grey", linestyle=":", label="kept"))
    _mark_epochs(ax)
    # What is maximised rises; the best place is slow to find.
    ax.legend(handles=lines, loc="lower right")


def _mark_epochs(ax: Axes) -> None:
    ax.set(xlabel="epoch", ylabel="objective")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_confusion(ax: Axes, evaluation: OutputEvaluation, classes: Sequence[str]) -> None:
    matrix = evaluation.confusion
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.set(title=_title(evaluation), xlabel="predicted", ylabel="true")
    if len(classes) == len(matrix) and len(classes) <= NAMED_CLASSES:
        ax.set_xticks(range(len(classes)), classes, rotation=90)
        ax.set_yticks(range(len(classes)), classes)
    if len(matrix) <= MAPPED_CLASSES:
        for i, row in enumerate(matrix):
            for j, count in enumerate(row):
                color = "white" if shares[i][j] > 0.5 else "black"
                text = ax.text(j, i, str(count), ha="center", va="center", color=color, fontsize=7)
                text.set_in_layout(False)  # Inside its axes: nothing has to make room for it.


def _title(evaluation: OutputEvaluation) -> str:
    worst = evaluation.worst_class
    name = worst.name if len(worst.name) <= 20 else f"{worst.name[:19]}…"
    return (
        f"accuracy {evaluation.accuracy:.2%}, balanced {evaluation.balanced_accuracy:.2%}\n"
        f"worst class {name}: {worst.right} of {worst.examples}"
    )


def _draw_accuracies(ax: Axes, evaluation: OutputEvaluation) -> None:
    mean = evaluation.accuracy_mean
    spread = [[mean - evaluation.accuracy_min], [evaluation.accuracy_max - mean]]
    names = [evaluation.labels_name, "all labels"]
    bars = ax.bar(names, [mean, evaluation.accuracy_all_labels], color=["C0", "C7"])
    ax.errorbar([0], [mean], yerr=spread, color="black", capsize=6)
    ax.bar_label(bars, fmt="{:.2%}", label_type="center", color="white", fontsize=12)
    draws = f"mean, least and most of {evaluation.draws} draws" if evaluation.draws > 1 else ""
    ax.set(title=draws, ylabel="test accuracy", ylim=(0, 1))


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    _leave_boxes()
    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # A '$' in the name of a class begins no formula.
    canvas = FigureCanvasAgg(figure)  # Draws without a display, and in any thread.
    engine = figure.get_layout_engine()
    if engine is not None:  # To lay it out, `savefig` would draw all of it once more.
        engine.execute(figure)
        figure.set_layout_engine("none")
    canvas.print_png(buffer)
    return buffer.getvalue()


def _leave_boxes() -> None:
    """Have nothing said of signs that the font lacks, where this module draws.

    The filter stays: what restores the filters of a process is not safe in threads. It is of this
    module's name alone, and is set at each figure, since others may have restored theirs since.
    """
    where = re.escape(__name__)
    ours = ("ignore", re.compile(NO_GLYPH, re.IGNORECASE), UserWarning, re.compile(where), 0)
    # To set it again would have all warnings printed anew that are printed once.
    if not any(one == ours for one in warnings.filters):
        warnings.filterwarnings("ignore", NO_GLYPH, UserWarning, where)
