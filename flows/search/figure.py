"""The figure of a search: a column a stage, the score upwards, and what stands on what."""

from __future__ import annotations

from collections import Counter

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modkernel.flows.display.figures import png
from modkernel.flows.search.result import CandidateResult, SearchResult
from modkernel.flows.search.spec import ACCURACY

Places = dict[str, tuple[float, float]]
"""Of each module's point, by the module's id."""
WON, KEPT, LOST = "C0", "#7fb0d6", "#b5b5b5"
"""Colours of modules of the network, of others of the beam, and of the rest."""
LABELLED = 14
"""A stage of more modules than this names only those that were kept."""
GAP = 0.045
"""Least distance of two labels, as a share of the height."""
STEP = 0.035
"""Of a stage's column: how far apart points of one score stand."""


def search_figure(result: SearchResult) -> bytes:
    """Every scored candidate as a point, joined to the one it stands on; the winners are strong."""
    scored = [row for row in result.candidates if row.score is not None]
    stages = max(row.stage for row in result.candidates)
    figure = Figure(figsize=(max(7.0, 3.6 * stages), 5), layout="constrained")
    ax = figure.add_subplot()
    places = _places(scored, result)
    for row in sorted(scored, key=lambda row: _rank(row, result)):
        _draw(ax, row, result, places)
    modules = sum(row.module is not None for row in result.candidates)
    percents = result.score == ACCURACY
    kind = "held-out" if all(row.held_out for row in scored) else "training"
    ax.set(
        title=f"{result.name}: {modules} modules in place of {result.networks} networks",
        ylabel=f"{kind} accuracy of a ridge output module" if percents else result.score,
        xlim=(0.8, stages + 0.95),
    )
    ax.set_xticks(range(1, stages + 1), [f"stage {k}" for k in range(1, stages + 1)])
    if percents:
        ax.yaxis.set_major_formatter(
            lambda value, _: f"{value:.0%}" if _wide(ax) else f"{value:.1%}"
        )
    ax.grid(axis="y", color="#e5e5e5")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    _label(ax, scored, places, result)
    return png(figure)


def _places(scored: list[CandidateResult], result: SearchResult) -> Places:
    """Where each module's point stands; those of one score side by side, the best-known first."""
    taken: Counter[tuple[int, float]] = Counter()
    places: Places = {}
    for row in sorted(scored, key=lambda row: -_rank(row, result)):
        assert row.module is not None
        assert row.score is not None
        places[row.module.id] = (row.stage + STEP * taken[row.stage, row.score], row.score)
        taken[row.stage, row.score] += 1
    return places


def _rank(row: CandidateResult, result: SearchResult) -> int:
    """0 lost, 1 kept in the beam, 2 a module of the network: drawn in that order."""
    assert row.module is not None
    return 2 if row.module.id in result.winners else int(row.kept)


def _draw(ax: Axes, row: CandidateResult, result: SearchResult, places: Places) -> None:
    rank = _rank(row, result)
    assert row.module is not None
    to = places[row.module.id]
    color, width = ((LOST, 0.8), (KEPT, 1.4), (WON, 2.6))[rank]
    if row.stands_on is not None:
        lines = zip(places[row.stands_on], to, strict=True)
        ax.plot(*lines, color=color, linewidth=width, zorder=1 + rank)
    size = (28, 45, 80)[rank]
    ax.scatter(*to, s=size, color=color, zorder=4 + rank)


def _label(ax: Axes, scored: list[CandidateResult], places: Places, result: SearchResult) -> None:
    """What each module is, beside its point; labels that would overlap are moved apart."""
    low, high = ax.get_ylim()
    gap = GAP * (high - low)
    for stage in sorted({row.stage for row in scored}):
        rows = [row for row in scored if row.stage == stage]
        if len(rows) > LABELLED:
            rows = [row for row in rows if _rank(row, result)]
        rows.sort(key=lambda row: (row.score or 0.0, _rank(row, result)))
        right = max(places[row.module.id][0] for row in rows if row.module is not None)
        heights: list[float] = []
        for row in rows:
            assert row.score is not None
            heights.append(max(row.score, heights[-1] + gap) if heights else row.score)
        # The stack grew upwards alone: bring it back to where its points are in the mean.
        rise = sum(h - (row.score or 0.0) for h, row in zip(heights, rows, strict=True)) / len(rows)
        for height, row in zip(heights, rows, strict=True):
            rank = _rank(row, result)
            low, high = min(low, height - rise - gap), max(high, height - rise + gap)
            ax.annotate(
                row.description,
                (right + 0.05, height - rise),
                va="center",
                fontsize=8,
                color="black" if rank == 2 else "#606060",
                fontweight="bold" if rank == 2 else "normal",
                zorder=8,
                bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.8},
                annotation_clip=False,
            )
    ax.set_ylim(low, high)


def _wide(ax: Axes) -> bool:
    low, high = ax.get_ylim()
    return bool(high - low > 0.06)
