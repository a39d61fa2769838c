"""Kill a process of ours at a random instant, run the command again, and count what is wrong.

    python -m benchmarks.random_kills --kills 40

Each round trains a small network by the command line, kills one of the processes that it has then
(the command itself, the fork server, a child, Prefect's server), or all of them, and runs the same
command until it succeeds. At the end nothing may be there twice, open, or left over.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.setting import temporary_home
from modkernel.registry import Registry, Settings
from modkernel.spec import BackboneSpec, HiddenSpec, NetworkSpec, OutputSpec, Recipe
from tests.flows.helpers.processes import processes_of

MODULES = 3
UNDISTURBED = 2
"""Rounds before the first kill."""
TRIES = 3
"""Times that the command may be run again after a kill."""
GRACE = 15.0
"""Seconds after the command's end within which all its processes must have ended."""
ALL = "all of them"
KINDS = {
    "modkernel.jobs": "fork server or child",
    "uvicorn": "Prefect's server",
    "prefect": "Prefect's server",
    "modkernel.flows.cli": "command",
}
"""What a process is, by what its command line has in it."""


@dataclass(frozen=True)
class Round:
    """What was killed, how often the command was run again, and what was wrong after it."""

    killed: str
    again: int
    wrong: Sequence[str]


def network(number: int) -> NetworkSpec:
    """Two hidden modules that train for about a second each, and an output module."""
    hidden = HiddenSpec(recipe=Recipe(epochs=15, batch_size=64, learning_rate=0.05))
    return NetworkSpec(
        name=f"killed-{number}",
        backbone=BackboneSpec(name="mlp", width=32, depth=MODULES - 1),
        hidden=(hidden,) * (MODULES - 1),
        output=OutputSpec(labels_per_class=1, draws=3),
        seed=number,
    )


def write_spec(folder: Path, number: int) -> Path:
    """The spec file of a round."""
    spec = folder / f"killed-{number}.json"
    spec.write_text(network(number).model_dump_json())
    return spec


def start(spec: Path, home: Path) -> subprocess.Popen[bytes]:
    """The command, with its output beside the spec file."""
    with spec.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "modkernel.flows.cli", "train", str(spec)],
            env={**os.environ, "MODKERNEL_HOME": str(home)},
            stdout=log,
            stderr=log,
        )


def kill_one(home: Path, draw: random.Random) -> str | None:
    """Kill one of the home's processes, or all of them; what it was, if there was any."""
    there = processes_of(home)
    if not there:
        return None
    chosen = draw.choice([*sorted(there), None])
    for pid in there if chosen is None else [chosen]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if chosen is None:
        return ALL
    return next((kind for part, kind in KINDS.items() if part in there[chosen]), there[chosen])


def left_over(home: Path) -> list[str]:
    """Processes that are still there a while after the command has ended."""
    until = time.monotonic() + GRACE
    while (there := processes_of(home)) and time.monotonic() < until:
        time.sleep(0.2)
    return list(there.values())


def one_round(number: int, seconds: float, home: Path, draw: random.Random) -> Round:
    """Train, kill within so many seconds, and train again until it succeeds."""
    spec = write_spec(home.parent, number)
    instant = draw.uniform(0.1, seconds)
    command = start(spec, home)
    with suppress(subprocess.TimeoutExpired):
        command.wait(instant)
    killed = kill_one(home, draw) or "nothing: it had ended"
    status, again = command.wait(), 0
    orphans = left_over(home)
    while status != 0 and again < TRIES:
        again += 1
        status = start(spec, home).wait()
        orphans += left_over(home)
    wrong = [f"round {number} left {line}" for line in orphans]
    if status != 0:
        wrong.append(f"round {number} never finished: {spec.with_suffix('.log').read_text()}")
    print(f"{number:3d}  {instant:5.1f} s  {killed:24s} run again {again} times", flush=True)
    return Round(killed, again, wrong)


def wrong_in(settings: Settings, names: Sequence[str]) -> list[str]:
    """What should not be in a registry in which every network was trained once."""
    told = []
    with Registry.open(settings) as registry:
        told += [str(problem) for problem in registry.verify()]
        for name in names:
            if len(registry.networks.find(name)) != 1:
                told.append(f"{name}: {len(registry.networks.find(name))} networks")
        modules = registry.modules.find()
        if len(modules) != MODULES * len(names):
            told.append(f"{len(modules)} modules in place of {MODULES * len(names)}")
        client = registry.backends.client
        for module in modules:
            versions = len(client.search_model_versions(f"name = '{module.name}'"))
            if versions != 1:
                told.append(f"{module.name}: {versions} versions")
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id]):
                if run.info.status != "FINISHED":
                    told.append(f"MLflow run {run.info.run_name} is {run.info.status}")
    told += [f"work folder {path.name}" for path in settings.work_dir.glob("*")]
    return told


def main() -> None:
    """Train, kill and count; the exit status is 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with temporary_home(MODKERNEL_CPU_SLOTS="2") as outer:
        home = outer.home / "home"
        for number in range(UNDISTURBED):  # The first makes the databases; the last is timed.
            began = time.monotonic()
            spec = write_spec(outer.home, number)
            assert start(spec, home).wait() == 0, spec.with_suffix(".log").read_text()
            seconds = time.monotonic() - began
        print(f"undisturbed: {seconds:.1f} s. Round, instant of the kill, what was killed:")
        numbers = range(UNDISTURBED, UNDISTURBED + given.kills)
        rounds = [one_round(number, seconds, home, draw) for number in numbers]
        names = [network(number).name for number in range(numbers.stop)]
        wrong = wrong_in(Settings(home=home), names)
    for killed, count in Counter(each.killed for each in rounds).most_common():
        print(f"{count:3d} × {killed}")
    wrong += [line for each in rounds for line in each.wrong]
    print("\n".join(wrong) if wrong else "Nothing is there twice, open or left over.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
