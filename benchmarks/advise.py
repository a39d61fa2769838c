"""Seconds that ranking 1,000 stored modules for a task takes, in a process and as a command.

    python -m benchmarks.advise

The modules are MLPs of 32 units with random weights, measured on the digits (10 classes) and
stored by `registry.modules.store` with their moments, which takes minutes; `--home FOLDER` keeps
them for the next call. Every call of `registry.advice.rank` reads and hashes every file of moments
again. The command is `modkernel advise --stored-only`; imports are timed in a Python process of
their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.setting import report_of, temporary_home
from modkernel.backbones import build_hidden
from modkernel.data import DataPlaces, Dataset, Split, load_dataset
from modkernel.kernels import make_kernel
from modkernel.modules.preprocess import Normalise
from modkernel.modules.stored import write_module
from modkernel.plan import facts, plan_network
from modkernel.registry import Registry, Settings
from modkernel.reuse.moments import ClassMoments, ModuleMoments, accumulate
from modkernel.reuse.moments_file import MOMENTS_FILE, write_moments
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import BackboneSpec, HiddenModuleSpec, HiddenSpec, KernelSpec, NetworkSpec

WIDTH = 32
IMPORTS = "import modkernel.flows.cli.advise, registry, modkernel.data"
TASKS = {"all ten digits": None, "3, 8": "3, 8", "low=0+1+2, high=7+8+9": "low=0+1+2, high=7+8+9"}


def specs(data: Dataset, count: int) -> Iterator[HiddenModuleSpec]:
    """Specs of hidden modules that differ by their seed."""
    info = data.info()
    network = NetworkSpec(
        name="benchmark",
        backbone=BackboneSpec(name="mlp", width=WIDTH, depth=1),
        hidden=(HiddenSpec(kernel=KernelSpec(name="relu")),),
    )
    (plan,) = plan_network(network, info)
    for seed in range(count):
        yield plan.spec(info.preprocessing.id, info.preprocessing, facts(info), seed)


def store(registry: Registry, data: Dataset, spec: HiddenModuleSpec) -> None:
    """Make a module with random weights, measure it and store it with its moments."""
    module = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, spec.seed).eval()
    kernel, prepare = make_kernel(spec.interface.kernel), Normalise(spec.preprocessing)

    def moments(part: Split) -> ClassMoments:
        assert part.labels is not None
        with torch.inference_mode():
            h = module(prepare(part.examples.batch(torch.arange(len(part)))))
            return accumulate([(kernel.features(h), part.labels)], data.classes, data.fingerprint)

    with TemporaryDirectory(dir=registry.settings.home) as folder:
        stored = write_module(Path(folder, "result"), spec, module.state_dict())
        both = ModuleMoments(stored.id, moments(data.train), moments(data.validation), 0.01)
        write_moments(stored.folder / MOMENTS_FILE, both)
        report = report_of(spec)
        registry.modules.store(stored.folder, name=f"module-{spec.seed:04}.hidden-1", report=report)


def seconds(call: Callable[[], object], rounds: int) -> str:
    """Median and range of some rounds."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return f"{statistics.median(took):6.2f} s ({min(took):.2f} to {max(took):.2f})"


def run(*command: str) -> None:
    """Run a Python process; what it prints is of no interest unless it fails."""
    subprocess.run([sys.executable, *command], check=True, capture_output=True)


@contextmanager
def place(home: Path | None) -> Iterator[Settings]:
    """A temporary home, or the given one."""
    with temporary_home() as settings:
        if home is not None:
            os.environ["MODKERNEL_HOME"] = str(home.absolute())
            settings = Settings()
        yield settings


def main() -> None:
    """Store what is missing of the modules, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, help="keep the modules here")
    given = parser.parse_args()
    with place(given.home) as settings, Registry.open(settings) as registry:
        data = load_dataset(
            NetworkSpec(name="any").dataset,
            DataPlaces(settings.data_root, settings.cache_dir, download=False),
        )
        there = {record.spec.seed for record in registry.modules.find(kind="hidden")}
        missing = [spec for spec in specs(data, given.modules) if spec.seed not in there]
        began = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda spec: store(registry, data, spec), missing))
        if missing:
            print(f"storing {len(missing)} modules: {time.perf_counter() - began:.0f} s")
        print(f"{given.modules} modules, {WIDTH} features, {len(data.classes)} classes")
        info = data.info()
        for title, text in TASKS.items():
            task = Task.of_classes(data.classes) if text is None else parse_task(text)
            call = partial(registry.advice.rank, task, info)
            advice = call()
            assert len(advice.ranked) == given.modules, advice.left_out[:1]
            print(f"advice.rank, {title:24} {seconds(call, given.rounds)}")
        command = ("-m", "modkernel.flows.cli", "advise", "--dataset", "digits", "--stored-only")
        print(f"modkernel advise --stored-only         {seconds(lambda: run(*command), 3)}")
        print(f"of which Python's imports              {seconds(lambda: run('-c', IMPORTS), 3)}")


if __name__ == "__main__":
    main()
