"""Figures of a study, as PNG bytes: heat maps of all matrices, and trees of the tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import dendrogram, fcluster

from modkernel.flows.display.figures import png
from modkernel.flows.study.result import Agreement
from modkernel.flows.study.statistics import (
    Matrix,
    order_by_structure,
    standardised,
    task_tree,
)

COLOURS = "viridis"
"""Matplotlib's colour map."""
LIMIT = 2.0
"""Standard deviations at which the colours end."""
NUMBERED_TASKS = 24
"""A ground truth of more tasks than this has no numbers in its cells."""
NAMED_TASKS = 40
"""A matrix of more tasks than this has no names at its sides."""
PANEL, GAP = 2.4, 0.34
"""Inches: a side of a score's heat map, and between two of them. The ground truth is as large as
two by two."""
LETTER, LONGEST_NAME = 0.072, 28
"""Inches of a letter of a task's name, and how many letters are shown."""
MARGIN, BAR, FOOT = 0.5, 1.1, 0.75
"""Inches: at a side, for the bar of colours, and for the sentences at the foot."""
LEGEND = (
    "target task\n"
    "red: the target's best source, its own left out    "
    "ρ: Spearman's correlation with the ground truth, mean over targets whose sources differ\n"
    "lost: accuracy points lost by following the score, mean over targets"
)
GROUPS = 4
"""Task names are coloured by this many branches of the ground truth's tree."""


def heat_maps(
    tasks: Sequence[str],
    truth: Matrix,
    scores: Sequence[tuple[str, Matrix, Agreement]],
) -> bytes:
    """Ground truth and every score, source rows × target columns, all in the same order.

    Columns are standardised, so that colours say which source is best for a target and compare
    between panels; the numbers in the ground truth are accuracies. A frame is around the best
    source of each target, the target's own left out.

    Args:
        tasks: names of rows and columns.
        truth: accuracies [T, T].
        scores: name, matrix [T, T] and agreement of each.
    """
    return png(heat_figure(tasks, truth, scores))


def heat_figure(
    tasks: Sequence[str],
    truth: Matrix,
    scores: Sequence[tuple[str, Matrix, Agreement]],
) -> Figure:
    """The figure of `heat_maps`.

    Every panel has a fixed place: Matplotlib's own layouts leave squares of two sizes with names
    either cut or far apart.
    """
    tasks = [_shortened(task) for task in tasks]
    rows, columns = _grid(len(scores))
    names = 0.1 + LETTER * max(map(len, tasks)) if len(tasks) <= NAMED_TASKS else 0.0
    step = PANEL + GAP
    left = MARGIN + names
    width = left + step * columns + BAR
    # Names stand below the ground truth and below the last row.
    height = MARGIN + step * rows + names * (1 if rows == 2 else 2) + FOOT
    figure = Figure(figsize=(width, height))

    def panel(row: int, column: int, count: int = 1) -> Axes:
        """An axes as large as some panels, at inches from the left and the top."""
        side = count * step - GAP
        x = left + column * step
        y = MARGIN + row * step + (names if row > 1 else 0) + side
        return figure.add_axes((x / width, 1 - y / height, side / width, side / height))

    main = panel(0, 0, count=2)
    image = _heat(main, truth)
    main.set_title("ground truth: accuracy in %", fontsize=11)
    _name(main, tasks, size=8)
    if len(tasks) <= NUMBERED_TASKS:
        _write_numbers(main, 100 * truth)
    places = [(row, column) for row in (0, 1) for column in range(2, columns)]
    places += [(row, column) for row in range(2, rows) for column in range(columns)]
    taken = set(places[: len(scores)])
    for (row, column), (name, matrix, agrees) in zip(places, scores, strict=False):
        ax = panel(row, column)
        _heat(ax, matrix)
        ax.set_title(_title(name, agrees), fontsize=8)
        _name(ax, tasks, size=6.5, columns=(row + 1, column) not in taken, rows=column == 0)
    bar = figure.add_axes((1 - BAR / width, 0.3, 0.15 / width, 0.4))
    figure.colorbar(image, cax=bar).set_label(
        "standard deviations from the target's mean over sources"
    )
    middle = (left + step * columns / 2) / width
    figure.text(middle, 0.1 / height, LEGEND, ha="center", va="bottom")
    figure.text(
        0.1 / width, 0.5, "source task: what the module was trained on",
        ha="left", va="center", rotation=90, fontsize=11,
    )  # fmt: skip
    return figure


def task_trees(tasks: Sequence[str], truth: Matrix, name: str, score: Matrix) -> bytes:
    """The tasks' trees by the ground truth and by a score, face to face.

    Names are coloured by the ground truth's branches in both, so that it is seen what the score
    puts elsewhere.

    Args:
        tasks: names.
        truth: [T, T].
        name: of the score.
        score: [T, T].
    """
    tasks = [_shortened(task) for task in tasks]
    figure = Figure(figsize=(11, 1.6 + 0.27 * len(tasks)), layout="constrained")
    left, right = figure.subplots(1, 2)
    branches = fcluster(task_tree(truth), min(GROUPS, len(tasks)), "maxclust")
    # Colours follow the order in which the branches stand in the figure.
    order = order_by_structure(truth)
    seen = list(dict.fromkeys(int(branches[leaf]) for leaf in order))
    colours = [f"C{seen.index(int(branch))}" for branch in branches]
    middle = (len(tasks) - 1) / 2
    for ax, title, matrix, side in (
        (left, "ground truth", truth, "left"),
        (right, name, score, "right"),
    ):
        tree = task_tree(matrix)
        drawn = dendrogram(
            tree,
            ax=ax,
            orientation=side,
            labels=list(tasks),
            color_threshold=0,
            above_threshold_color="0.35",
        )
        for label, leaf in zip(ax.get_yticklabels(), drawn["leaves"], strict=True):
            label.set_color(colours[leaf])
            label.set_fontsize(10)
        # The first task is at the top, as in the heat maps: a tree may be turned upside down.
        if np.dot(np.argsort(drawn["leaves"]) - middle, np.argsort(order) - middle) >= 0:
            ax.invert_yaxis()
        ax.set_title(f"tasks by {title}")
        ax.set_xlabel("loss by the other's module (standard deviations)")
        ax.spines[["top", "left", "right"]].set_visible(False)
    return png(figure)


def _shortened(task: str) -> str:
    return task if len(task) <= LONGEST_NAME else f"{task[: LONGEST_NAME - 1]}…"


def _grid(panels: int) -> tuple[int, int]:
    """Rows and columns, with few empty places and wider than high.

    The ground truth takes two panels by two, at the left above; the scores follow from there.
    """

    def rows(columns: int) -> int:
        return 2 + math.ceil(max(0, panels - 2 * (columns - 2)) / columns)

    columns = min(
        range(3, 9), key=lambda count: (count * rows(count), abs(count - 2 * rows(count)))
    )
    return rows(columns), columns


def _heat(ax: Axes, matrix: Matrix) -> AxesImage:
    image = ax.imshow(
        standardised(matrix), cmap=COLOURS, vmin=-LIMIT, vmax=LIMIT, interpolation="nearest"
    )
    own = np.eye(len(matrix), dtype=bool)
    best = np.where(own, -np.inf, matrix).argmax(0)
    for target, source in enumerate(best):
        ax.add_patch(
            Rectangle((target - 0.44, source - 0.44), 0.88, 0.88, fill=False, edgecolor="red")
        )
    ax.tick_params(length=0)
    return image


def _title(name: str, agrees: Agreement) -> str:
    figures = [
        f"{what} {value:.2f}"
        for what, value in (("ρ", agrees.spearman), ("lost", agrees.lost))
        if value is not None
    ]
    return f"{name}   {'  '.join(figures)}"


def _name(
    ax: Axes, tasks: Sequence[str], size: float, *, columns: bool = True, rows: bool = True
) -> None:
    few = len(tasks) <= NAMED_TASKS
    ax.set_xticks(range(len(tasks)) if columns and few else [])
    ax.set_yticks(range(len(tasks)) if rows and few else [])
    if columns and few:
        ax.set_xticklabels(tasks, rotation=90, fontsize=size)
    if rows and few:
        ax.set_yticklabels(tasks, fontsize=size)


def _write_numbers(ax: Axes, values: Matrix) -> None:
    colours = colormaps[COLOURS]
    size = max(5.0, min(9.0, 110 / len(values)))
    for (row, column), z in np.ndenumerate(standardised(values)):
        red, green, blue, _ = colours((z + LIMIT) / (2 * LIMIT))
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        ax.text(
            column, row, f"{values[row, column]:.0f}", ha="center", va="center", fontsize=size,
            color="black" if bright else "white",
        )  # fmt: skip
