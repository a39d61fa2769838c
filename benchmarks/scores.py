"""Exact scores from class moments against a blockwise n × n computation, in one run.

    python -m benchmarks.scores

Both take the alignment of the same random features of 10 classes. Ours is one pass over them, and
then any task of any of the classes; the other goes over the kernel matrix block by block, which is
what one does who knows no moments and has no memory for n × n. Prints both values, seconds, how
much memory each number of examples adds, and the time of all 45 one-against-one tasks.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from modkernel.reuse.moments import ClassMoments, accumulate
from modkernel.reuse.scores import SCORES, reusability, score_tasks
from modkernel.reuse.task import Task
from modkernel.system.memory import peak_memory

CLASSES = tuple("0123456789")
BLOCK = 5000


def blocks(count: int, dimension: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Unit rows of ReLU features that tell their class a little, as a module gives them."""
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        generator = torch.Generator().manual_seed(start)
        labels = torch.randint(0, len(CLASSES), (rows,), generator=generator)
        x = torch.randn(rows, dimension, generator=generator)
        x += F.one_hot(labels, dimension)
        yield F.normalize(x.relu(), dim=1), labels


def from_moments(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Alignment, and seconds with the pass over the features."""
    began = time.perf_counter()
    moments = accumulate([(features, labels)], CLASSES, "")
    value = reusability(moments, score="upper_alignment")
    return value, time.perf_counter() - began


def blockwise(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """The same from the upper triangle of K: products in float32, sums in float64."""
    began = time.perf_counter()
    same_sum = squares = 0.0
    parts = list(zip(features.split(BLOCK), labels.split(BLOCK), strict=True))
    for first, (rows, of_rows) in enumerate(parts):
        for second, (columns, of_columns) in enumerate(parts[first:], first):
            times = 1 if second == first else 2
            k = rows @ columns.T
            for part, answers in zip(k.split(500), of_rows.split(500), strict=True):
                wide = part.double()
                squares += times * float(wide.square().sum())
                same_sum += times * float((wide * (answers[:, None] == of_columns)).sum())
    own = (features.double() * features.double()).sum(1)
    counts = labels.bincount().double()
    same = float((counts * (counts - 1)).sum()) / 2
    value = (same_sum - float(own.sum())) / 2
    value /= ((squares - float(own.square().sum())) / 2 * same) ** 0.5
    return value, time.perf_counter() - began


def peak(count: int, dimension: int) -> int:
    """Largest resident MiB of a process that streams so many examples."""
    call = [sys.executable, "-m", "benchmarks.scores", "--stream", str(count), str(dimension)]
    return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def stream(count: int, dimension: int) -> None:
    """Take the alignment of features that are made block by block; print the memory it took."""
    reusability(accumulate(blocks(count, dimension), CLASSES, ""), score="upper_alignment")
    print(peak_memory()["peak_memory_bytes"] >> 20)


def all_pairs(moments: ClassMoments, held_out: ClassMoments) -> Iterator[tuple[str, float]]:
    """Seconds of all one-against-one tasks by each score of moments."""
    tasks = [Task.of_classes(pair) for pair in combinations(CLASSES, 2)]
    for name, row in SCORES.items():
        if row.needs in ("moments", "held_out"):
            began = time.perf_counter()
            score_tasks(moments, tasks, [name], held_out)
            yield name, time.perf_counter() - began


def main() -> None:
    """Print the alignment both ways, the growth of memory, and the time of the 45 tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stream:
        stream(*given.stream)
        return
    # First, since a child starts with its parent's peak as its own.
    counts = [given.examples, 2 * given.examples, 4 * given.examples]
    peaks = [peak(count, given.dimension) for count in counts]
    parts = list(blocks(given.examples, given.dimension))
    features, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    del parts
    from_moments(features[:BLOCK], labels[:BLOCK])
    runs = [from_moments(features, labels) for _ in range(given.rounds)]
    value, seconds = runs[0][0], statistics.median(taken for _, taken in runs)
    other, longer = blockwise(features, labels)
    size = f"{given.examples} × {given.dimension}"
    print(f"alignment of {size}, {torch.get_num_threads()} threads")
    print(f"from moments              {value:.12f}   {seconds:.2f} s, the pass included")
    print(f"blockwise n × n           {other:.12f}   {longer:.2f} s")
    print(f"relative difference       {abs(value / other - 1):.1e}")
    print(f"ratio                     {longer / seconds:.1f}")
    for count, most in zip(counts, peaks, strict=True):
        print(f"peak of {count:7d} streamed   {most} MiB ({most - peaks[0]:+d})")
    moments = accumulate([(features, labels)], CLASSES, "")
    for name, taken in all_pairs(moments, moments):
        print(f"45 tasks, {name:16s} {taken:.3f} s")


if __name__ == "__main__":
    main()
