"""A process that asks a feature cache.

    python -m tests.modkernel.helpers.cache_process FOLDER LIMIT NAME ROWS SECONDS

It computes a row each SECONDS, and writes a line of JSON for each and one at the end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from modkernel.features.cache import VALUES, FeatureCache, FeatureKey, NoRoomError

WIDTH = 1000


def key(name: str) -> FeatureKey:
    return FeatureKey(name, "data", "train", "plain", "float32")


def rows(name: str, count: int) -> Tensor:
    """What belongs under the key of a name."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.randn(count, WIDTH, generator=generator)


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def blocks(name: str, count: int, seconds: float) -> Iterator[Tensor]:
    for number, row in enumerate(rows(name, count).split(1)):
        say(event="block", number=number, time=time.time())
        time.sleep(seconds)
        yield row


if __name__ == "__main__":
    folder, limit, name, count, seconds = sys.argv[1:]
    cache = FeatureCache(Path(folder), int(limit))
    say(event="asked")
    try:
        found = cache.find_or_make(
            key(name), int(count), lambda: blocks(name, int(count), float(seconds))
        )[VALUES]
        say(event="done", right=torch.equal(found, rows(name, int(count))))
    except NoRoomError:
        say(event="no room")
