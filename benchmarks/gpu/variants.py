"""Several settings of benchmarks.gpu.paper in a given time, side by side on one device.

    python -m benchmarks.gpu.variants --variants benchmarks/gpu/variants.jsonl --jobs 4 \\
        --seconds 400 --output OUT -- --images cifar10-jpeg --cache cache --width 32 --epochs 60

A line of the file is a JSON object of options, such as `{"temperature": 0.2, "batch": 512}`; what
follows `--` holds for all. Each that is ready, fails or is cut off is told as one line of JSON on
the standard output and in OUT/variants.jsonl, and OUT/variants.md is the table of all so far, best
first. Nothing is begun that the time is too short for, going by the ones that are ready.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = (
    "epochs", "images_per_second", "hidden_seconds", "accuracy_all_labels", "accuracy_mean",
    "accuracy_min", "peak_gpu_memory_bytes",
)  # fmt: skip
POLL_SECONDS = 0.2


@dataclass
class Running:
    """A process and what it was asked for."""

    asked: Mapping[str, Any]
    process: subprocess.Popen[bytes]
    folder: Path
    began: float

    def end(self, cut: bool) -> dict[str, Any]:
        """Its row, once it has ended or has to."""
        if cut:
            self.process.kill()
        code = self.process.wait()
        found = self.folder / "paper.json"
        known = json.loads(found.read_text()) if found.exists() else {}
        row = {"variant": dict(self.asked), "seconds": round(time.monotonic() - self.began, 1)}
        row |= {name: known[name] for name in COLUMNS if name in known}
        if history := known.get("history"):
            row |= {"epochs_done": len(history), "validation": history[-1]["validation"]}
        if cut or code:
            lines = (self.folder / "log").read_text().splitlines()
            row["failed"] = "cut off" if cut else (lines or ["no output"])[-1][-200:]
        return row


def options(asked: Mapping[str, Any]) -> list[str]:
    """Command-line options of a variant."""
    given: list[str] = []
    for name, value in asked.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            given.append(flag)
        elif value is not False and value is not None:
            given += [flag, str(value)]
    return given


def start(asked: Mapping[str, Any], shared: list[str], folder: Path) -> Running:
    """Begin one of them."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.gpu.paper", "--json", str(folder / "paper.json")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *shared, *options(asked)], stdout=log, stderr=subprocess.STDOUT
        )
    return Running(asked, process, folder, time.monotonic())


def table(rows: list[dict[str, Any]]) -> str:
    """All rows so far in Markdown, the best first."""
    best = sorted(rows, key=lambda row: -row.get("accuracy_all_labels", -1.0))
    head = ("variant", "epochs", "images/s", "s", "all labels", "10 labels: mean", "least", "")

    def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
        def share(name: str) -> str:
            return f"{row[name]:.2%}" if name in row else ""

        return (
            ", ".join(f"{name} {value}" for name, value in row["variant"].items()) or "as it is",
            str(row.get("epochs", "")),
            f"{row['images_per_second']:,.0f}" if "images_per_second" in row else "",
            f"{row['seconds']:.0f}",
            share("accuracy_all_labels"),
            share("accuracy_mean"),
            share("accuracy_min"),
            row.get("failed", ""),
        )

    lines = [head, ("---",) * len(head), *(cells(row) for row in best)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def run(given: argparse.Namespace, shared: list[str]) -> list[dict[str, Any]]:
    """All variants that fit into the time."""
    ends = time.monotonic() + given.seconds
    left = [json.loads(line) for line in given.variants.read_text().splitlines() if line.strip()]
    rows: list[dict[str, Any]] = []
    running: list[Running] = []
    count = 0
    given.output.mkdir(parents=True, exist_ok=True)
    while running or left:
        taken = [row["seconds"] for row in rows if "failed" not in row]
        fits = time.monotonic() + (max(taken) if taken else 0) < ends
        while left and fits and len(running) < given.jobs:
            running.append(start(left.pop(0), shared, given.output / f"variant-{count}"))
            count += 1
        if left and not fits and not running:
            break
        time.sleep(POLL_SECONDS)
        over = time.monotonic() >= ends
        for one in list(running):
            if over or one.process.poll() is not None:
                running.remove(one)
                rows.append(one.end(cut=one.process.poll() is None))
                print(json.dumps(rows[-1]), flush=True)
                (given.output / "variants.md").write_text(table(rows))
                with (given.output / "variants.jsonl").open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return rows


def main() -> None:
    """Run them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=400, help="for all of them")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("shared", nargs="*", help="options of all, after --")
    given = parser.parse_args()
    print(table(run(given, given.shared)))


if __name__ == "__main__":
    main()
