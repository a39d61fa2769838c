"""How many small modules a second 1, 4 and 8 processes store in one registry.

    python -m benchmarks.registrations [--database postgresql://…] [--mlflow postgresql://…]

A registration is all of `registry.modules.store`: row, MLflow run, files, hashes, model version,
card. Every writer stores modules of its own under a name that all share, from a common start on.
Without options, both databases are SQLite files of a temporary home.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from modkernel.registry import Registry, Settings
from tests.registry.helpers.examples import Examples, store_one

WRITERS = (1, 4, 8)
CONTEXT = multiprocessing.get_context("spawn")


def write(settings: Settings, folder: Path, seeds: range, ready: Barrier) -> None:
    """Store modules of these seeds, once every writer is ready."""
    examples = Examples(folder)
    made = [examples.first(seed) for seed in seeds]
    with Registry.open(settings) as registry:
        store_one(registry, examples.first(seeds.stop), "benchmark.warm")  # Imports, first of all.
        ready.wait()
        for one in made:
            store_one(registry, one, "benchmark.hidden-1")
    ready.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--database")
    arguments.add_argument("--mlflow")
    arguments.add_argument("--each", type=int, default=20, help="modules a writer")
    given = arguments.parse_args()
    urls = {"database_url": given.database, "mlflow_uri": given.mlflow}
    values = {name: url for name, url in urls.items() if url is not None}
    with tempfile.TemporaryDirectory(prefix="registrations-") as folder:
        settings = Settings(home=Path(folder, "home"), **values)
        Registry.open(settings).close()
        first = int(time.time()) * 1000  # Of seeds: a database may have modules of a run before.
        for writers in WRITERS:
            ready = CONTEXT.Barrier(writers + 1)
            processes = []
            for writer in range(writers):
                seeds = range(first, first + given.each)
                first = seeds.stop + 1
                place = Path(folder, f"{writers}-{writer}")
                processes.append(
                    CONTEXT.Process(target=write, args=(settings, place, seeds, ready))
                )
                processes[-1].start()
            ready.wait()
            began = time.perf_counter()
            ready.wait()
            seconds = time.perf_counter() - began
            for one in processes:
                one.join()
            rate = writers * given.each / seconds
            print(f"{writers} writers: {rate:.1f} registrations a second", flush=True)


if __name__ == "__main__":
    main()
