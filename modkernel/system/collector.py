"""Python's garbage collector, in processes that load much and keep it."""

from __future__ import annotations

import atexit
import gc

YOUNG, MIDDLE, OLD = 50_000, 20, 20


def collect_seldom() -> None:
    """Collect garbage seldom, and not at all when this process ends.

    torch, MLflow and Prefect make a million objects that stay until the end: to look through them
    again and again takes half of the processor time of loading them, and of ending. It changes the
    whole process, so that it is for the `main` of a program, before it imports them.
    """
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    atexit.register(gc.freeze)
