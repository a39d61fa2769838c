"""Mean and spread of the training examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from modkernel.data.columns import ColumnScale, column_scale, scale_findings
from modkernel.data.findings import Finding
from modkernel.data.sources import RawExamples
from modkernel.spec import Preprocessing

CHUNK = 1024
"""Examples that are looked at together."""

BLOCK = 64
"""Columns that are looked at together."""

SMALLEST_STD = 1e-6
"""Constant channels are left as they are: a division would blow up whatever differs later."""


def preprocessing_of(
    train: RawExamples, columns: Sequence[str] = ()
) -> tuple[Preprocessing, tuple[Finding, ...]]:
    """Mean and standard deviation of the training examples, and what is odd about their columns.

    One of each per channel of images (of x/255) and per column of vectors; `ColumnScale` says what
    is done about missing values and outliers. Rounded to about seven digits of the standard
    deviation, so that the order of summation does not show. The same whether the examples are in
    memory or streamed.

    Args:
        train: the training examples.
        columns: names of the columns of vectors; else messages number them from 0.
    """
    if train.dtype == torch.uint8:
        mean, std = _channel_moments(train)
        std = [value if value >= SMALLEST_STD else 1.0 for value in std]
        rounded = [_rounded(*pair) for pair in zip(mean, std, strict=True)]
        return _preprocessing(train, "uint8", rounded), ()
    scales = list(_column_scales(torch.cat(list(_chunks(train)))))
    rounded = [
        (scale.mean, scale.std) if scale.constant else _rounded(scale.mean, scale.std)
        for scale in scales
    ]
    bounds = [scale.bounds for scale in scales]
    told = scale_findings(scales, columns)
    kept = tuple(bounds) if any(bounds) else None
    return _preprocessing(train, "float32", rounded, kept, tuple(columns) or None), told


def _column_scales(values: Tensor) -> Iterator[ColumnScale]:
    for start in range(0, values.shape[1], BLOCK):
        # Sorted, each column is added up in the same order however the examples stand.
        block = np.sort(values[:, start : start + BLOCK].T.numpy(), axis=1).astype(np.float64)
        yield from map(column_scale, block)


def _channel_moments(images: RawExamples) -> tuple[list[float], list[float]]:
    # Sums of whole numbers in float64 are exact, so neither order nor grouping matters.
    channels = images.shape[0]
    total, squares = [0] * channels, [0] * channels
    for chunk in _chunks(images):
        values = chunk.movedim(1, 0).flatten(1).double()
        for i, (first, second) in enumerate(
            zip(values.sum(1).tolist(), values.square_().sum(1).tolist(), strict=True)
        ):
            total[i] += int(first)
            squares[i] += int(second)
    n = len(images) * math.prod(images.shape[1:])
    mean = [first / n / 255 for first in total]
    # n·Σx² − (Σx)² in whole numbers: nothing cancels.
    std = [
        math.sqrt(n * second - first * first) / n / 255
        for first, second in zip(total, squares, strict=True)
    ]
    return mean, std


def _rounded(mean: float, std: float) -> tuple[float, float]:
    digits = 7 - math.ceil(math.log10(std))
    return round(mean, digits), round(std, digits)


def _preprocessing(
    train: RawExamples,
    dtype: str,
    scale: Sequence[tuple[float, float]],
    bounds: tuple[tuple[float, float] | None, ...] | None = None,
    columns: tuple[str, ...] | None = None,
) -> Preprocessing:
    return Preprocessing.model_validate(
        {
            "shape": train.shape,
            "dtype": dtype,
            "mean": [mean for mean, _ in scale],
            "std": [std for _, std in scale],
            "bounds": bounds,
            "columns": columns,
        }
    )


def _chunks(source: RawExamples) -> Iterator[Tensor]:
    for start in range(0, len(source), CHUNK):
        yield source.batch(torch.arange(start, min(start + CHUNK, len(source))))
