"""Memory that a training step takes, by how a network is cut: counted, so on any machine.

    python -m benchmarks.step_memory --width 64
    python -m benchmarks.step_memory --width 4 --batch 8 --rows one end-to-end

The rows of `benchmarks.depth`, each trained for one epoch of two batches of random images in a
process of its own. Every allocation of torch is counted, so the figure is the most that parameters,
gradients, momentum, activations and what is computed with them took at once: what a GPU of that
batch would need beside the data and the outputs of lower modules. In turn it is that of the module
that took most. What the CPU's convolutions need inside oneDNN is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks.depth import MIB, ROWS, trained
from modkernel.spec import ObjectiveSpec

CLASSES = 10
BATCHES = {"train": 2, "val": 1, "test": 1}
"""Of each part."""


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--one", nargs=2, metavar=("ROW", "DATA"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_images(path: Path, batch: int) -> None:
    """Random images of CIFAR-10's size, all classes in each part."""
    draw = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, batches in BATCHES.items():
        count, end = batches * batch, "" if part == "train" else f"_{part}"
        parts[f"x{end}"] = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        parts[f"y{end}"] = np.arange(count) % CLASSES
    np.savez(path, **parts)


def counted(given: argparse.Namespace) -> dict[str, float]:
    """The most bytes that training one row holds at once."""
    row, data = given.one
    setting = argparse.Namespace(
        dataset="arrays",
        path=data,
        data_root=Path(data).parent,
        cache=Path(data).parent / "cache",
        width=given.width,
        epochs=1,
        learning_rate=0.1,
        batch=given.batch,
        crop=4,
        draws=10,
        objective=ObjectiveSpec().name,
        device="cpu",
        jobs=1,
    )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        trained(setting, row, 0)
    assert watched.profiler is not None
    assert watched.profiler.kineto_results is not None
    events = [one for one in watched.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return {"bytes": most}


def main() -> None:
    """Count each row, and print a table."""
    given = arguments()
    if given.one:
        print(json.dumps(counted(given)))
        return
    print(f"ResNet-18 of width {given.width}, batch {given.batch}\n")
    print("| | peak, MiB |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="step-memory-") as folder:
        data = Path(folder, "random.npz")
        write_images(data, given.batch)
        for row in given.rows:
            command = [sys.executable, "-m", "benchmarks.step_memory", *sys.argv[1:]]
            told = subprocess.run(
                [*command, "--one", row, str(data)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=True,
                env=os.environ,
            ).stdout
            found = json.loads(told.splitlines()[-1])
            print(f"| {ROWS[row].title} | {found['bytes'] / MIB:.0f} |", flush=True)


if __name__ == "__main__":
    main()
