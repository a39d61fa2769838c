"""Equal short trainings on the CPU: how many different weights they end with.

    python -m benchmarks.equal_runs --threads 2 --precision bfloat16 --runs 200

A narrow ResNet-18 is trained again and again from the same spec and the same images, the second
half beside processes that keep the cores busy. Prints one JSON object: runs by the first digits of
their weights' SHA-256. More than one entry means that training does not repeat bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections import Counter
from functools import cache

import torch

from modkernel.data import Resident
from modkernel.pairs.source import PairSource
from modkernel.plan import plan_hidden
from modkernel.spec import (
    BackboneSpec,
    DatasetFacts,
    HiddenModuleSpec,
    HiddenSpec,
    Preprocessing,
    Recipe,
)
from modkernel.system.precision import choose_arithmetic
from modkernel.training import train_hidden
from modkernel.training.pair_data import PairData

BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
PRECISIONS = ("float32", "bfloat16")


@cache
def module_spec(side: int, width: int, batch: int) -> HiddenModuleSpec:
    """The narrow ResNet-18 as one hidden module; made once, as planning takes as long as a step."""
    preprocessing = Preprocessing(shape=(1, side, side), dtype="uint8", mean=(0.5,), std=(0.25,))
    hidden = HiddenSpec(recipe=Recipe(epochs=1, batch_size=batch))
    backbone = BackboneSpec(name="resnet18", width=width)
    (plan,) = plan_hidden(backbone, [hidden], preprocessing.shape)
    facts = DatasetFacts(name="random", fingerprint="0" * 64, classes=tuple("0123456789"))
    return plan.spec(preprocessing.id, preprocessing, facts, seed=0)


def train_once(given: argparse.Namespace) -> str:
    """Train one module as the command line says; returns the start of its weights' SHA-256."""
    spec = module_spec(given.side, given.width, given.batch)
    count = given.steps * given.batch
    images = torch.randint(
        0,
        256,
        (count, *spec.interface.takes),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )
    labels = torch.arange(count) % 10
    first = slice(0, given.batch)
    weights, _ = train_hidden(
        spec,
        PairData(Resident.whole(images), PairSource.from_classes(labels)),
        PairData(Resident.whole(images[first]), PairSource.from_classes(labels[first])),
        arithmetic=choose_arithmetic("cpu", given.precision),
    )
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def count_weights(given: argparse.Namespace) -> dict[str, int]:
    """Runs by what they end with; the second half of them beside busy processes."""
    seen: Counter[str] = Counter()
    busy: list[subprocess.Popen[bytes]] = []
    try:
        for run in range(given.runs):
            if run == given.runs // 2:
                busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(given.load)]
            seen[train_once(given)] += 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return dict(seen)


def main() -> None:
    """Count the different weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16")
    parser.add_argument("--load", type=int, default=2, help="busy processes in the second half")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps(count_weights(given)))


if __name__ == "__main__":
    main()
