"""Run every step in a process of its own, and write what is known after each line it says."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.plan import NAMES, SPARE_SECONDS, Step, arguments, make_step, unpack_step
from benchmarks.gpu.processes import Outcome, Processes
from benchmarks.gpu.table import markdown

SAVE_SECONDS = 2.0
"""Between two writings of the files while a step runs, at least."""
LEAST_SECONDS = 20.0
"""A step that has less is not begun."""


class Report:
    """What is known so far, on the disk at any time."""

    def __init__(self, folder: Path, tiny: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.began, self.lock = folder, time.monotonic(), threading.RLock()
        self.log = (folder / "gpu.log").open("w", encoding="utf-8")
        self.running: dict[str, Step] = {}
        self.saved = 0.0
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        self.document: dict[str, Any] = {"date": date, "tiny": tiny, "steps": {}, "failed": []}

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def tell(self, line: str) -> None:
        """Print a line with the time, and keep it."""
        with self.lock:
            text = f"[{self.seconds:6.1f} s] {line}"
            print(text, flush=True)
            self.log.write(text + "\n")
            self.log.flush()
            if time.monotonic() - self.saved > SAVE_SECONDS:
                self.save()

    def start(self, step: Step) -> None:
        """A step begins."""
        self.running[step.name] = step
        self.tell(f"{step.name}: begins, at most {step.limit:.0f} s")

    def end(self, step: Step, outcome: Outcome) -> None:
        """A step has ended."""
        with self.lock:
            self.running.pop(step.name, None)
            self.document["steps"][step.name] = outcome.document() | {"result": read(step.result)}
            if outcome.status != "passed":
                self.document["failed"].append(step.name)
            self.tell(f"{step.name}: {outcome.status} after {outcome.seconds:.1f} s")
            self.save()

    def save(self) -> None:
        """Write everything, with what the running steps have left so far."""
        with self.lock:
            self.saved = time.monotonic()
            now: dict[str, dict[str, Any]] = {
                step.name: {
                    **{"status": "running", "exit_code": None, "seconds": 0.0},
                    **{"limit": step.limit, "tail": [], "result": read(step.result)},
                }
                for step in self.running.values()
            }
            document = {**self.document, "steps": {**self.document["steps"], **now}}
            document["seconds"] = round(self.seconds, 1)
            write(self.folder / "gpu.json", json.dumps(document, indent=1) + "\n")
            write(self.folder / "gpu.md", markdown(document))


def read(path: Path) -> dict[str, Any] | None:
    """What a step has left: JSON, or pytest's XML as numbers of tests; none if nothing yet."""
    try:
        if path.suffix == ".xml":
            return _counts(path)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def _counts(path: Path) -> dict[str, Any]:
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    )
    wrong = [
        f"{case.get('classname')}::{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    failed = failures + errors
    return {
        "passed": total - failed - skipped,
        "failed": failed,
        "skipped": skipped,
        "failures": wrong,
    }


def write(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def perform(given: argparse.Namespace, report: Report, processes: Processes) -> None:
    """Run the steps that were asked for, in order; images are decoded beside the first ones."""

    def run(step: Step) -> None:
        report.start(step)
        report.end(step, processes.run(step.name, step.command, step.limit))

    images = unpack_step(given)

    def decode() -> None:
        if images is not None:
            run(images)

    decoding = threading.Thread(target=decode, daemon=True)
    decoding.start()
    for name in NAMES:
        if name not in given.only:
            continue
        if name == "paper":
            decoding.join()
        left = given.seconds - SPARE_SECONDS - report.seconds
        step = make_step(name, given, left)
        if left < LEAST_SECONDS:
            report.end(step, Outcome("not begun", None, 0.0, left, ("no time was left",)))
        else:
            run(step)


def main() -> int:
    """Run everything; 1 if a step failed, was cut off or was not begun."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = arguments()
    report = Report(given.output, given.tiny)
    processes = Processes(report.tell)
    try:
        perform(given, report, processes)
    finally:
        processes.kill_all()
        report.save()
    failed = report.document["failed"]
    print("\n" + markdown(report.document), flush=True)
    report.tell(f"failed: {', '.join(failed)}" if failed else "every step passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
