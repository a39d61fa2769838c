"""Mean and spread of the training examples."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modkernel.data.sources import RawExamples
from modkernel.spec import Preprocessing

CHUNK = 1024
"""Examples that are looked at together."""

SMALLEST_STD = 1e-6
"""Constant channels are left as they are: a division would blow up whatever differs later."""


def preprocessing_of(train: RawExamples) -> Preprocessing:
    """Mean and standard deviation of the training examples.

    One of each per channel for images (of x/255), a single one for vectors. Rounded to about
    seven digits of the standard deviation, so that the order of summation does not show. The same
    whether the examples are in memory or streamed.
    """
    if train.dtype == torch.uint8:
        mean, std = _channel_moments(train)
        return _preprocessing(train, "uint8", mean, std)
    values = torch.cat(list(_chunks(train))).double()
    return _preprocessing(
        train, "float32", [values.mean().item()], [values.std(correction=0).item()]
    )


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


def _preprocessing(
    train: RawExamples, dtype: str, mean: list[float], std: list[float]
) -> Preprocessing:
    std = [value if value >= SMALLEST_STD else 1.0 for value in std]
    digits = [7 - math.ceil(math.log10(value)) for value in std]
    return Preprocessing.model_validate(
        {
            "shape": train.shape,
            "dtype": dtype,
            "mean": [round(value, places) for value, places in zip(mean, digits, strict=True)],
            "std": [round(value, places) for value, places in zip(std, digits, strict=True)],
        }
    )


def _chunks(source: RawExamples) -> Iterator[Tensor]:
    for start in range(0, len(source), CHUNK):
        yield source.batch(torch.arange(start, min(start + CHUNK, len(source))))
