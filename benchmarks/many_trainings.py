"""Whether the three-hundredth training in one home is like the first ones.

    python -m benchmarks.many_trainings

One process trains tiny networks (one hidden module, an epoch) one after the other. Every so many of
them a row is printed: seconds a training, and what the process and all its children hold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.setting import temporary_home
from modkernel.registry import Settings
from modkernel.spec import BackboneSpec, HiddenSpec, NetworkSpec, Recipe
from tests.flows.helpers.processes import descendants

SLOWER = 1.2
"""How much longer the last trainings may take than the first, at most."""
GROWN = 1.1
"""How much larger the resident size may be than after the first, at most."""


@dataclass(frozen=True)
class Row:
    """After some trainings: their median time, and what is held."""

    seconds: float
    resident: int
    """Bytes, of this process and all below it."""
    descriptors: int
    processes: int
    claims: int
    work_folders: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:6.2f} s  {self.resident / 2**20:6.0f} MiB  {self.descriptors:5d}  "
            f"{self.processes:4d}  {self.claims:4d}  {self.work_folders:4d}"
        )


def network(number: int) -> NetworkSpec:
    """A network that no other number gives."""
    hidden = HiddenSpec(recipe=Recipe(epochs=1, batch_size=512, learning_rate=0.05))
    return NetworkSpec(
        name="many",
        backbone=BackboneSpec(name="mlp", width=16, depth=1),
        hidden=(hidden,),
        output=None,
        seed=number,
    )


def measure(settings: Settings, seconds: list[float]) -> Row:
    """A row, now."""
    from modkernel.flows.runtime.shared import open_registry
    from modkernel.registry.sql.tables import ClaimRow

    registry = open_registry()
    with registry.backends.database.reading() as session:
        claims = session.query(ClaimRow).count()
    ours = [os.getpid(), *descendants(os.getpid())]
    return Row(
        seconds=statistics.median(seconds),
        resident=sum(resident(pid) for pid in ours),
        descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in ours),
        processes=len(ours),
        claims=claims,
        work_folders=len(list(settings.work_dir.glob("*"))),
    )


def resident(pid: int) -> int:
    """Bytes that a process alone holds: pages that several share are counted in none."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Train and print; the exit status is 1 where the last row is worse than the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainings", type=int, default=300)
    parser.add_argument("--row", type=int, default=30, help="trainings a row")
    given = parser.parse_args()
    with temporary_home(MODKERNEL_CPU_SLOTS="2") as settings:
        from modkernel.flows.servers.prefect_env import prepare_prefect
        from modkernel.flows.servers.temporary import require_server

        prepare_prefect(settings, quiet=True)
        require_server(settings)
        from modkernel.flows.train_network import train_network

        train_network(network(given.trainings))
        print("trained  a training    held  files  processes  claims  work folders")
        rows: list[Row] = []
        for first in range(0, given.trainings, given.row):
            seconds = []
            for number in range(first, first + given.row):
                began = time.perf_counter()
                train_network(network(number))
                seconds.append(time.perf_counter() - began)
            rows.append(measure(settings, seconds))
            print(f"{first + given.row:7d}  {rows[-1]}", flush=True)
    first_row, last = rows[0], rows[-1]
    print(f"last row / first row: seconds {last.seconds / first_row.seconds:.2f}, ", end="")
    print(f"bytes {last.resident / first_row.resident:.2f}")
    worse = (
        last.seconds > SLOWER * first_row.seconds
        or last.resident > GROWN * first_row.resident
        or last.descriptors > first_row.descriptors
        or last.claims > first_row.claims
        or last.work_folders > first_row.work_folders
    )
    sys.exit(worse)


if __name__ == "__main__":
    main()
