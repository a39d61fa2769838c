"""The scale of one column of vectors, which a few wild values must not decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modkernel.data.findings import Finding

FAR = 10
"""Robust spreads from the median beyond which a value is not an ordinary one."""
DOMINATED = 3
"""Times that the standard deviation exceeds that of the ordinary values if others decide it."""
FEW = 0.1
"""Share of values up to which those that are not ordinary are few."""
FEW_DISTINCT = 3
"""Different values up to which they are few too, however often they stand: −999 for 'missing'."""
RELATIVE_NOISE = 1e-6
"""Of the greatest value: what differs by less is what float32 makes of a constant."""
SHOWN = 5
"""Columns that a message names."""


@dataclass(frozen=True)
class ColumnScale:
    """How a column of vectors is standardised: clipped to `bounds`, then (x - mean) / std.

    A value is far from the others if it lies more than `FAR` robust spreads from the median; the
    robust spread is 1.4826 times the median distance from it of all values that differ from it
    (so that a column of mostly zeros has one). Where far values make the standard deviation at
    least `DOMINATED` times that of the others, and are few, the bounds are the least and the
    greatest of the others. Mean and standard deviation are those of the clipped values; missing
    values (NaN) take no part.

    Attributes:
        mean: of the clipped values.
        std: of the clipped values; of a constant column its magnitude, so that it stays 0.
        constant: whether the values do not differ.
        bounds: where values are clipped, or None.
        far: number of values that are far from the others and decide the scale if not clipped;
            they may be one value, other than 0, that is more than half of all.
        furthest: the most distant of these.
        missing: number of values that are NaN.
    """

    mean: float
    std: float
    constant: bool = False
    bounds: tuple[float, float] | None = None
    far: int = 0
    furthest: float = 0.0
    missing: int = 0


def column_scale(column: np.ndarray) -> ColumnScale:
    """The scale of a column: float64 [N], sorted, NaN last."""
    missing = int(np.isnan(column).sum())
    values = column[: len(column) - missing]
    if not len(values):
        return ColumnScale(0.0, 1.0, constant=True, missing=missing)
    median = float(values[(len(values) - 1) // 2])
    magnitude = float(np.abs(values[[0, -1]]).max())
    if values[-1] - values[0] <= RELATIVE_NOISE * magnitude:
        return ColumnScale(median, magnitude or 1.0, constant=True, missing=missing)
    distance = np.abs(values - median)
    spread = 1.4826 * float(np.median(distance[distance > 0]))
    far = distance > FAR * spread
    bounds, count, furthest = None, 0, 0.0
    if far.any() and values.std() > DOMINATED * values[~far].std():
        count, furthest = int(far.sum()), float(values[distance.argmax()])
        if count <= FEW * len(values) or len(np.unique(values[far])) <= FEW_DISTINCT:
            ordinary = values[~far]
            bounds = (float(ordinary[0]), float(ordinary[-1]))
            values = values.clip(*bounds)
    elif _is_filled(values, median):
        count, furthest = int((values == median).sum()), median
    return ColumnScale(
        float(values.mean()), float(values.std()), False, bounds, count, furthest, missing
    )


def _is_filled(values: np.ndarray, value: float) -> bool:
    """Whether one value other than 0 is more than half of all, beside which the others look alike.

    It is the median then, so that no value is far from it. Zeros are mostly amounts.
    """
    others = values[values != value]
    return (
        value != 0
        and 2 * len(others) < len(values)
        and len(np.unique(others)) > FEW_DISTINCT
        and bool(values.std() > DOMINATED * others.std())
    )


def scale_findings(scales: Sequence[ColumnScale], names: Sequence[str] = ()) -> tuple[Finding, ...]:
    """What a person should know about the columns; unnamed ones are numbered from 0."""
    found = []
    clipped = [i for i, scale in enumerate(scales) if scale.bounds is not None]
    if clipped:
        shown = [
            f"{_name(i, names)} ({scales[i].far}, such as {scales[i].furthest:g}, set to "
            f"{_nearer(scales[i]):g})"
            for i in clipped
        ]
        text = (
            f"{_columns(clipped)} with a few values far from all others, which would decide its "
            f"scale: they are clipped, here and in prediction. {_listed(shown)}. If they stand for "
            "missing values, write NaN in place of them."
        )
        found.append(Finding(kind="outliers", text=text, count=len(clipped)))
    heavy = [i for i, scale in enumerate(scales) if scale.far and scale.bounds is None]
    if heavy:
        shown = [
            f"{_name(i, names)} ({scales[i].far}, up to {scales[i].furthest:g})" for i in heavy
        ]
        text = (
            f"{_columns(heavy)} whose scale is decided by many values far from the others, beside "
            f"which the others hardly differ: {_listed(shown)}. If they stand for missing values, "
            "write NaN in place of them; else take logarithms or ranks if that is not meant."
        )
        found.append(Finding(kind="outliers", text=text, count=len(heavy)))
    holes = [i for i, scale in enumerate(scales) if scale.missing]
    if holes:
        shown = [f"{_name(i, names)} ({scales[i].missing})" for i in holes]
        text = (
            f"{_columns(holes)} with missing values (NaN) in the training part, each taken for its "
            f"column's mean: {_listed(shown)}."
        )
        found.append(Finding(kind="missing values", text=text, count=len(holes)))
    return tuple(found)


def _nearer(scale: ColumnScale) -> float:
    low, high = scale.bounds or (scale.furthest, scale.furthest)
    return low if scale.furthest < low else high


def _name(number: int, names: Sequence[str]) -> str:
    return f"'{names[number]}'" if names else f"column {number}"


def _columns(which: Sequence[int]) -> str:
    return "There is 1 column" if len(which) == 1 else f"There are {len(which)} columns"


def _listed(shown: Sequence[str]) -> str:
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
