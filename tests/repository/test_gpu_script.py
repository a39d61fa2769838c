"""`benchmarks/gpu.sh`: tiny, on this machine; and what it does with steps that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import read
from benchmarks.gpu.plan import NAMES, arguments, make_step
from benchmarks.gpu.processes import Outcome, Processes
from benchmarks.gpu.table import markdown

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script from another folder, with this interpreter and a temporary folder of its own."""
    temporary = folder / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [SCRIPT, *arguments, "--output", "out"],
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable, "TMPDIR": str(temporary), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=290,
    )
    assert not list(temporary.glob("modkernel-gpu*")), "it clears its own scratch away"
    return done


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "gpu.json").read_text())
    return found


def check_figures(results: dict[str, Any]) -> None:
    """That each step of a tiny run but the tests has measured what it is there for."""
    assert results["facts"]["packages"]["torch"] != "missing"
    (speeds,) = results["speed"]["batches"]
    loops = {"weak", "strong", "train_hidden eager", "train_hidden graph"}
    assert set(speeds["images_per_second"]) == loops
    assert all(rate > 0 for rate in speeds["images_per_second"].values())
    paper = results["paper"]
    assert paper["epochs"] == len(paper["history"]) == 1
    assert paper["accuracy_min"] <= paper["accuracy_mean"] <= paper["accuracy_max"]
    assert (paper["labels"], paper["draws"]) == (10, 3)


def check_table(table: str) -> None:
    for text in (
        "| 16 | `train_hidden`, steps replayed |",
        "test accuracy, all labels",
        "least of 3 draws",
    ):
        assert text in table


@pytest.mark.long
def test_a_tiny_run_measures_everything(tmp_path: Path) -> None:
    done = run("--tiny", "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    found = document(tmp_path)
    assert {name: step["status"] for name, step in found["steps"].items()} == dict.fromkeys(
        NAMES, "passed"
    )
    assert found["failed"] == []
    results = {name: step["result"] for name, step in found["steps"].items()}
    check_figures(results)
    assert results["tests"]["passed"] > 3
    assert results["tests"]["failed"] == 0
    table = (tmp_path / "out" / "gpu.md").read_text()
    assert table in done.stdout
    check_table(table)


def test_the_script_runs_a_step_and_writes_what_it_found(tmp_path: Path) -> None:
    done = run("--tiny", "--device", "cpu", "--only", "facts", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    found = document(tmp_path)
    assert found["failed"] == []
    assert found["steps"]["facts"]["status"] == "passed"
    assert found["steps"]["facts"]["result"]["device"] == "cpu"
    assert (tmp_path / "out" / "gpu.md").read_text() in done.stdout


def test_each_step_of_a_tiny_run_measures_what_it_is_there_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the arguments that the script gives it, in this process, which has torch loaded."""
    own = ["gpu", "--tiny", "--device", "cpu", "--scratch", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", own)
    given = arguments()
    steps: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        step = make_step(name, given, 100.0)
        if name != "tests":  # Whose command is pytest.
            _, _, module, *options = step.command
            monkeypatch.setattr(sys, "argv", [module, *options])
            import_module(module).main()
        outcome = Outcome("passed", 0, 1.0, step.limit, ())
        steps[name] = outcome.document() | {"result": read(step.result)}
    check_figures({name: step["result"] for name, step in steps.items()})
    check_table(markdown({"date": "today", "tiny": True, "steps": steps}))


@pytest.mark.long
def test_a_step_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    done = run("--only", "facts", "speed", folder=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1, done.stdout
    assert done.stdout.rstrip().endswith("failed: facts, speed")
    found = document(tmp_path)
    assert found["failed"] == ["facts", "speed"]
    assert "torch sees no GPU here" in "\n".join(found["steps"]["speed"]["tail"])
    assert "torch sees no GPU here" in (tmp_path / "out" / "gpu.md").read_text()


@pytest.mark.long
def test_a_step_is_cut_off_at_its_limit_with_its_children(tmp_path: Path) -> None:
    lines: list[str] = []
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid)\n"
        "time.sleep(600)"
    )
    outcome = Processes(lines.append).run("slow", [sys.executable, "-c", code], 10)
    assert (outcome.status, outcome.exit_code) == ("cut off", None)
    (pid,) = outcome.tail
    assert lines == [f"slow: {pid}"]
    end = time.monotonic() + 30
    while time.monotonic() < end and _alive(int(pid)):
        time.sleep(0.05)
    assert not _alive(int(pid))


def test_a_table_of_a_run_that_was_cut_short() -> None:
    step = {"status": "cut off", "seconds": 3.0, "tail": ["last words"], "result": None}
    paper = {**step, "result": {"data": "made", "epochs": 7, "history": [{}, {}]}}
    text = markdown(
        {"date": "today", "tiny": False, "steps": {"facts": step, "tests": step, "paper": paper}}
    )
    assert "| epochs done / planned | 2 / 7 |" in text
    assert text.count("last words") == 3


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
