"""What the real flow costs beyond the direct call of the core, in one run.

    python -m benchmarks.flow_overhead

First as a share: a network is trained by `train_network` (Prefect, MLflow, registry, a child
process a module, a checkpoint an epoch) and by calling the core in a plain process
(`benchmarks.direct`), in turns, with equal threads. The number of epochs is chosen so that the
direct call takes the seconds asked for, and both must give the same weights. Then a module: small
ones, one epoch each; what passes from one module being stored to the next, less its training.
The start of Prefect's own server is in neither: it is printed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.setting import temporary_home
from modkernel.registry import Settings
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, NetworkSpec, OutputSpec, Recipe
from modkernel.system.collector import collect_seldom

if TYPE_CHECKING:
    from modkernel.flows.runtime.results import NetworkResult

Flow = Callable[[NetworkSpec], "NetworkResult"]

CALIBRATION_EPOCHS = 3
IMAGES, COUNT = "images.npz", 12_000


def make_images(settings: Settings) -> None:
    """Random images of ten classes: an epoch is as many steps as of a real set of this size."""
    random = np.random.default_rng(0)
    np.savez(
        settings.home / IMAGES,
        x=random.integers(0, 256, (COUNT, 16, 16), dtype=np.uint8),
        y=np.arange(COUNT) % 10,
    )


def long(seed: int, epochs: int, settings: Settings) -> NetworkSpec:
    """A narrow ResNet-18 as one hidden module, and an output module."""
    return NetworkSpec(
        name="long",
        dataset=DatasetSpec(name="arrays", path=str(settings.home / IMAGES)),
        backbone=BackboneSpec(name="resnet18", width=16),
        hidden=(HiddenSpec(recipe=Recipe(epochs=epochs, batch_size=128)),),
        output=OutputSpec(labels_per_class=1),
        seed=seed,
    )


def many(modules: int) -> NetworkSpec:
    """Hidden modules of one layer each, trained for one epoch, and no output module."""
    return NetworkSpec(
        name="many",
        backbone=BackboneSpec(name="mlp", width=64, depth=modules),
        hidden=(HiddenSpec(kernel={"name": "relu"}, recipe=Recipe(epochs=1)),) * modules,
        output=None,
    )


def direct(spec: NetworkSpec, settings: Settings) -> dict[str, Any]:
    """What `benchmarks.direct` prints, with as many threads as the flow gives a child."""
    threads = max(1, len(os.sched_getaffinity(0)) // settings.cpu_slots)
    given = [str(threads), str(settings.data_root), str(settings.cache_dir)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.direct", *given],
        input=spec.model_dump_json(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def start(settings: Settings) -> Flow:
    """The flow, once Prefect's server, the fork server and the libraries have been loaded."""
    from modkernel.flows.servers.prefect_env import prepare_prefect

    began = time.perf_counter()
    prepare_prefect(settings, quiet=True)
    from modkernel.flows.train_network import train_network

    train_network(many(1))
    print(f"first flow, with start    {time.perf_counter() - began:.1f} s")
    return train_network


def as_share(seconds: float, rounds: int, settings: Settings) -> Flow:
    """Print the flow's seconds over the direct call's; returns the flow, started."""
    flow: Flow | None = None
    make_images(settings)
    calibration = direct(long(rounds, CALIBRATION_EPOCHS, settings), settings)
    epoch = statistics.median(calibration["epochs"][1:])
    epochs = max(1, round(seconds / epoch))
    times: dict[str, list[float]] = {"direct": [], "flow": [], "beyond": [], "share": []}
    for seed in range(rounds):
        spec = long(seed, epochs, settings)
        plain = direct(spec, settings)  # The first before Prefect's server is there.
        flow = flow or start(settings)
        began = time.perf_counter()
        result = flow(spec)
        times["flow"].append(time.perf_counter() - began)
        times["direct"].append(plain["seconds"])
        trained = sum(module.seconds for module in result.modules)
        times["beyond"].append(times["flow"][-1] - trained)
        times["share"].append(times["beyond"][-1] / trained)
        same = "equal" if result.modules[-1].id == plain["id"] else "DIFFERENT"
        print(
            f"round {seed + 1}: direct {plain['seconds']:.2f} s, flow {times['flow'][-1]:.2f} s, "
            f"of which training {trained:.2f} s; weights {same}",
            flush=True,
        )
    assert flow is not None
    first, second = (statistics.median(times[name]) for name in ("direct", "flow"))
    print(f"direct, {epochs:4d} epochs       {first:.2f} s")
    print(f"flow                      {second:.2f} s")
    print(f"ratio                     {second / first:.3f}")
    beyond, share = (statistics.median(times[name]) for name in ("beyond", "share"))
    print(f"beyond training           {beyond:.2f} s of the flow, {share:.1%} of its training")
    return flow


def a_module(flow: Flow, modules: int) -> None:
    """Print what each module costs beyond its training."""
    from modkernel.flows.runtime.events import Event, StateChanged, watch

    stored: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StateChanged) and event.state == "stored":
            stored.append(time.perf_counter())

    with watch(note):
        began = time.perf_counter()
        result = flow(many(modules))
        ended = time.perf_counter()
    since = [began, *stored[:-1]]
    costs = [
        until - start - module.seconds
        for start, until, module in zip(since, stored, result.modules, strict=True)
    ]
    later = costs[1:]
    whole = ended - began - sum(module.seconds for module in result.modules)
    print(f"first module of {modules}         {costs[0]:.2f} s beyond its training")
    print(
        f"each module after it      {statistics.mean(later):.2f} s (mean; "
        f"{min(later):.2f} to {max(later):.2f})"
    )
    print(f"end of the flow           {ended - stored[-1]:.2f} s")
    print(f"all of the flow           {whole:.2f} s, {whole / modules:.2f} s a module")


def main() -> None:
    """Measure the share, then the cost of a module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of direct training a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--modules", type=int, default=6)
    parser.add_argument(
        "--cpu-slots", type=int, default=1, help="threads are the cores divided by this"
    )
    given = parser.parse_args()
    collect_seldom()  # As every command of ours does.
    with temporary_home(MODKERNEL_CPU_SLOTS=str(given.cpu_slots)) as settings:
        flow = as_share(given.seconds, given.rounds, settings)
        a_module(flow, given.modules)


if __name__ == "__main__":
    main()
