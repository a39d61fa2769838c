"""Seconds to store and register a module of 45 MB, and a bare safetensors write, in one run.

    python -m benchmarks.store_module

Storing is all of `registry.modules.store`: row, MLflow run, picture, files, their hashes, model
version, card; MLflow and the registry are on SQLite. The bare write is `save_file` of the same
weights. Each module has other weights. Prints the medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from safetensors.torch import load, save_file

from benchmarks.setting import report_of, temporary_home, write_resnet
from modkernel.flows.display.figures import module_figures
from modkernel.modules.stored import WEIGHTS_FILE, StoredModule
from modkernel.registry import Registry


def store(registry: Registry, stored: StoredModule) -> float:
    """Seconds of storing and registering; its picture is there already, as after training."""
    report = report_of(stored.spec)
    figures = module_figures(report, "benchmark.hidden-1", None)
    began = time.perf_counter()
    record = registry.modules.store(
        stored.folder, name="benchmark.hidden-1", report=report, figures=figures
    )
    seconds = time.perf_counter() - began
    assert record.state == "READY"
    assert record.id == stored.id
    return seconds


def write_bare(stored: StoredModule, folder: Path) -> float:
    """Seconds of writing the same weights to a new file."""
    weights = load((stored.folder / WEIGHTS_FILE).read_bytes())
    began = time.perf_counter()
    save_file(weights, folder / f"{stored.id}.safetensors")
    return time.perf_counter() - began


def main() -> None:
    """Alternate the two; the first store, which loads and makes what later ones find, is apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with temporary_home() as settings, Registry.open(settings) as registry:
        ours, bare = [], []
        for seed in range(given.rounds + 1):
            with tempfile.TemporaryDirectory(dir=settings.home) as folder:
                stored = write_resnet(Path(folder, "result"), seed)
                size = (stored.folder / WEIGHTS_FILE).stat().st_size
                bare.append(write_bare(stored, Path(folder)))
                ours.append(store(registry, stored))
    first, *rest = ours
    median, plain = statistics.median(rest), statistics.median(bare[1:])
    print(f"module                    {size / 1e6:.1f} MB")
    print(f"first store               {first:.3f} s")
    print(f"store and register        {median:.3f} s (median; {min(rest):.3f} to {max(rest):.3f})")
    print(f"bare safetensors write    {plain:.3f} s")
    print(f"ratio                     {median / plain:.2f}")


if __name__ == "__main__":
    main()
