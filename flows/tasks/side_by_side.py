"""Tasks that work at the same time, at most a given number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from prefect.futures import PrefectFuture, as_completed

T = TypeVar("T")


def side_by_side(
    starts: Sequence[Callable[[], PrefectFuture[T]]], at_once: int
) -> Iterator[tuple[int, PrefectFuture[T]]]:
    """Start tasks, and yield each when it is done, with its place among them.

    Leaving the loop, such as by the error of a task, starts no other; Prefect waits for those in
    hand.

    Args:
        starts: each submits one task.
        at_once: how many are in hand at most.
    """
    running: dict[PrefectFuture[T], int] = {}
    for place, start in enumerate(starts):
        if len(running) == at_once:
            done = next(iter(as_completed(list(running))))
            yield running.pop(done), done
        running[start()] = place
    for done in as_completed(list(running)):
        yield running[done], done
