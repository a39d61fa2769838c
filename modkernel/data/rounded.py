"""Columns of numbers whose differences are lost when they become 32-bit ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modkernel.data.columns import RELATIVE_NOISE
from modkernel.data.findings import Finding

STEP = 2.0**-23
"""Of the greatest value: what two neighbouring float32 numbers differ by there, at most."""
STEPS = 256
"""Over fewer of them than this, values that differ may become equal, and many do."""
NOISE = 1e-12
"""Of the greatest value: what differs by less is what float64 makes of a constant."""
SHOWN = 5
"""Columns that a message names."""


def rounded_findings(rows: np.ndarray, names: Sequence[str] = ()) -> tuple[Finding, ...]:
    """What a person should know of columns such as times in milliseconds and numbers of accounts.

    Args:
        rows: [N, d] as they were given; others than 64-bit numbers and 32-bit integers keep all.
        names: of the columns; unnamed ones are numbered from 0.
    """
    wide = (rows.dtype.kind in "iu" and rows.itemsize >= 4) or rows.dtype == np.float64
    if rows.ndim != 2 or not rows.size or not wide:
        return ()
    low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.maximum(abs(low.astype(float)), abs(high.astype(float)))
        span = high.astype(float) - low.astype(float)
        close = (low != high) & (span < STEPS * STEP * size)
        if rows.dtype.kind == "f":
            close &= span > NOISE * size
    told = []
    for i in np.flatnonzero(close & np.isfinite(size)).tolist():
        column = rows[:, i][rows[:, i] == rows[:, i]]
        kept = np.unique(column.astype(np.float32)).astype(float)
        before, after = len(np.unique(column)), len(kept)
        constant = kept[-1] - kept[0] <= RELATIVE_NOISE * size[i]
        if after < before or constant:
            name = f"'{names[i]}'" if names else f"column {i}"
            left = "taken for one" if constant else f"{after} after it"
            told.append(f"{name} ({low[i]} to {high[i]}: {before} different values are {left})")
    if not told:
        return ()
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    text = (
        f"{len(told)} column(s) whose values lie so close together for their size that their "
        f"differences are lost in 32 bits: {', '.join(told[:SHOWN])}{more}. Subtract a start "
        "from each, such as its least value; numbers that only name something are no input."
    )
    return (Finding(kind="range", text=text, count=len(told)),)
