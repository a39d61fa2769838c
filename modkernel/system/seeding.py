"""Randomness that depends on a seed and a name, and on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Inside, torch's CPU generator starts from (seed, name); after it, it goes on as before."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would set the accelerators' global state too.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        yield


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator that is a function of the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
