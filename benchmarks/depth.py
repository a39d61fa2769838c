"""What cutting a network costs: one, four and eight hidden modules, with tails and without.

    python -m benchmarks.depth --dataset image_folder --path cifar10-jpeg --json depth.jsonl
    python -m benchmarks.depth --dataset digits --width 8 --epochs 1 --crop 1 --json tiny.jsonl

ResNet-18, each module for as many epochs as the end-to-end baseline, crop and flip, ridge output
modules; `together-4` and `together-8` train all modules in one pass of as many. Every row of every
seed is a process of its own, whose result is appended to the file as soon as it is known: a run
that is interrupted keeps what it has, and the same command goes on. Then it prints a Markdown table
of means over the seeds that are there; `--table` prints that alone.
Seconds are comparable with `--jobs 1` only. Peak memory is what torch had allocated on a GPU, and
the process's resident size on a CPU. Images are decoded once, into the cache, before the first row.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.arguments import objective_of, training_parser
from modkernel.control import Control
from modkernel.data import DataPlaces, load_dataset, place_dataset
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
    Tail,
)
from modkernel.system.memory import peak_memory
from modkernel.system.precision import choose_arithmetic
from modkernel.training import OutputEvaluation, train_end_to_end
from modkernel.training.end_to_end import Whole
from modkernel.training.network import train_network

SETTING = (
    "dataset",
    "path",
    "width",
    "epochs",
    "batch",
    "learning_rate",
    "crop",
    "draws",
    "objective",
)
"""Arguments that results depend on: others of the file are not counted."""
MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One way to train the network."""

    title: str
    modules: int = 1
    tail: Tail = "none"
    together: bool = False
    """All modules in one pass."""
    whole: bool = False
    """End to end."""
    checkpointed: bool = False
    """With the activations of each block computed again in the backward pass."""


ROWS = {
    "one": Row("one hidden module"),
    "four-none": Row("four hidden modules, no tail", 4),
    "four-auto": Row("four hidden modules, tail: auto", 4, "auto"),
    "eight-auto": Row("eight hidden modules, tail: auto", 8, "auto"),
    "together-4": Row("four hidden modules together, tail: auto", 4, "auto", together=True),
    "together-8": Row("eight hidden modules together, tail: auto", 8, "auto", together=True),
    "end-to-end": Row("end to end, cross-entropy", whole=True),
    "checkpointed": Row("the same with gradient checkpointing", whole=True, checkpointed=True),
}
"""By name, in the table's order."""


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = training_parser(__doc__.splitlines()[0])
    parser.set_defaults(dataset="image_folder", epochs=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--crop", type=int, default=4)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument(
        "--objective", default=ObjectiveSpec().name, help="NAME or NAME@TEMPERATURE"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seconds", type=float, help="for all: what runs then is ended")
    parser.add_argument("--json", type=Path, required=True, help="results, a line each")
    parser.add_argument("--table", action="store_true", help="of what is there, and no training")
    parser.add_argument("--one", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args()


def network(given: argparse.Namespace, row: Row, seed: int) -> NetworkSpec:
    """What a row trains."""
    recipe = Recipe(
        epochs=given.epochs,
        batch_size=given.batch,
        learning_rate=given.learning_rate,
        crop_padding=given.crop,
        flip=True,
    )
    objective = objective_of(given.objective)
    return NetworkSpec(
        name="depth",
        dataset=DatasetSpec(name=given.dataset, path=given.path),
        backbone=BackboneSpec(name="resnet18", width=given.width),
        hidden=(HiddenSpec(recipe=recipe, tail=row.tail, objective=objective),) * row.modules,
        output=OutputSpec(method="ridge", labels_per_class=1, draws=given.draws),
        train="together" if row.together else "in turn",
        seed=seed,
    )


class Peak:
    """The most memory that training has taken, looked at after every epoch."""

    def __init__(self, cuda: bool) -> None:
        self.cuda, self.most = cuda, 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Look."""
        if self.cuda:
            self.most = max(self.most, torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        else:
            self.most = peak_memory()["peak_memory_bytes"]


def forget_activations(self: Whole, x: Tensor) -> Tensor:
    """`Whole.forward`, which keeps the inputs of blocks alone for the backward pass."""
    assert self.kernel.activate is not None
    for block in self.hidden:
        x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
    logits: Tensor = self.linear(self.kernel.activate(x).flatten(1))
    return logits


def trained(given: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """One row of one seed, in this process."""
    row, began = ROWS[name], time.perf_counter()
    spec = network(given, row, seed)
    arithmetic = choose_arithmetic(given.device)
    peak = Peak(arithmetic.device.type == "cuda")
    places = DataPlaces(root=given.data_root, cache=given.cache, download=False)
    if row.whole:
        if row.checkpointed:
            Whole.forward = forget_activations  # type: ignore[method-assign]
        data = place_dataset(load_dataset(spec.dataset, places), arithmetic.device)
        report = train_end_to_end(spec, data, arithmetic=arithmetic, control=Control(progress=peak))
        evaluation, seconds = report.evaluation, report.seconds
    else:
        with tempfile.TemporaryDirectory() as folder:
            made = train_network(
                spec, folder, places, device=given.device, control=Control(progress=peak)
            )
        *hidden, output = made.reports
        evaluation, seconds = output.evaluation, sum(report.seconds for report in hidden)
        report = output
    assert evaluation is not None
    return {
        "row": name,
        "seed": seed,
        **labels(evaluation, row.whole),
        "seconds": seconds,
        "peak_bytes": peak.most,
        "wall_seconds": time.perf_counter() - began,
        "device": torch.cuda.get_device_name() if peak.cuda else f"{report.threads} CPU threads",
        "precision": arithmetic.name,
        "jobs": given.jobs,
    }


def labels(found: OutputEvaluation, whole: bool) -> dict[str, float | None]:
    """Accuracies in [0, 1] by the number of labels; end to end there is one alone."""
    few = not whole
    return {
        "all_labels": found.accuracy_all_labels,
        "few_mean": found.accuracy_mean if few else None,
        "few_least": found.accuracy_min if few else None,
    }


def setting_of(given: argparse.Namespace) -> dict[str, Any]:
    """What results are told apart by, beside row and seed."""
    return {name: getattr(given, name) for name in SETTING}


def known(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Results of this setting in the file; a line that was cut off is none."""
    found = []
    for line in given.json.read_text().splitlines() if given.json.exists() else ():
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if result.get("setting") == setting_of(given):
            found.append(result)
    return found


class Children:
    """The processes of the rows: started, kept track of, and ended together."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.ended, self.lock = given, Event(), Lock()
        self.running: set[subprocess.Popen[str]] = set()

    def run(self, name: str, seed: int) -> bool:
        """Train one row of one seed, and append its result; whether that went well."""
        with self.lock:
            if self.ended.is_set():
                return False
            command = [sys.executable, "-m", "benchmarks.depth", *sys.argv[1:]]
            child = subprocess.Popen(
                [*command, "--one", name, str(seed)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | self._threads(),
            )
            self.running.add(child)
            if self.ended.is_set():  # Since then: whoever ended all did not see this one.
                child.terminate()
        print(f"{name}, seed {seed}: begun", flush=True)
        told, _ = child.communicate()
        with self.lock:
            self.running.discard(child)
            if child.returncode or not told.strip():
                print(f"{name}, seed {seed}: FAILED ({child.returncode})", flush=True)
                return False
            result = {**json.loads(told.splitlines()[-1]), "setting": setting_of(self.given)}
            with self.given.json.open("a") as file:
                # A line that an interruption cut off must not take this one with it.
                file.write(f"\n{json.dumps(result)}\n")
                file.flush()
                os.fsync(file.fileno())
        print(f"{name}, seed {seed}: {result['all_labels']:.2%}", flush=True)
        return True

    def end(self, *_: Any) -> None:
        """Begin no more, and end those that run."""
        self.ended.set()
        for child in list(self.running):
            child.terminate()

    def _threads(self) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0))
        if self.given.jobs == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        return {"OMP_NUM_THREADS": str(max(1, cores // self.given.jobs))}


def table(results: list[dict[str, Any]]) -> str:
    """Means over seeds, as Markdown."""
    lines = [
        "| | seeds | all labels | 10 labels, mean | least | training, s | peak memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        mine = {one["seed"]: one for one in results if one["row"] == name}
        if mine:
            cells = [
                _mean(mine, "all_labels", "{:.2%}"),
                _mean(mine, "few_mean", "{:.2%}"),
                _mean(mine, "few_least", "{:.2%}"),
                _mean(mine, "seconds", "{:.0f}"),
                _mean(mine, "peak_bytes", "{:.0f}", MIB),
            ]
            lines.append(f"| {row.title} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(results: Mapping[int, dict[str, Any]], name: str, form: str, unit: float = 1) -> str:
    values = [one[name] for one in results.values() if one[name] is not None]
    return form.format(statistics.fmean(values) / unit) if values else "–"


def main() -> NoReturn:
    """Train what is missing, and print the table; 1 where something failed or was cut off."""
    given = arguments()
    if given.one:
        name, seed = given.one
        print(json.dumps(trained(given, name, int(seed))), flush=True)
        sys.exit()
    failed = 0
    if not given.table:
        load_dataset(
            network(given, ROWS["one"], 0).dataset,
            DataPlaces(root=given.data_root, cache=given.cache),
        )
        there = {(one["row"], one["seed"]) for one in known(given)}
        # Every row of the first seed before the second: what is there when time is up says most.
        wanted = [(row, seed) for seed in given.seeds for row in given.rows]
        children = Children(given)
        signal.signal(signal.SIGTERM, children.end)
        signal.signal(signal.SIGINT, children.end)
        signal.signal(signal.SIGALRM, children.end)
        if given.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, given.seconds)
        with ThreadPoolExecutor(given.jobs) as pool:
            runs = [pool.submit(children.run, *one) for one in wanted if one not in there]
            failed = sum(not run.result() for run in as_completed(runs))
    results = known(given)
    print(json.dumps({"setting": setting_of(given), "device": _devices(results)}))
    print(table(results))
    sys.exit(1 if failed else 0)


def _devices(results: list[dict[str, Any]]) -> list[str]:
    return sorted({f"{one['device']}, {one['precision']}, jobs {one['jobs']}" for one in results})


if __name__ == "__main__":
    main()
