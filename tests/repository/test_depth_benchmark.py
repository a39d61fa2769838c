"""`benchmarks/depth.py`: what it keeps, goes on from and prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import depth, step_memory
from modkernel.backbones import build_hidden
from modkernel.kernels import make_kernel
from modkernel.spec import BackboneSpec, KernelSpec
from modkernel.training.end_to_end import Whole

ARGUMENTS = ["--dataset", "digits", "--rows", "one", "four-auto", "--seeds", "0", "1"]


def result(row: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    few = {"few_mean": accuracy / 2, "few_least": accuracy / 4}
    return {
        "row": row, "seed": seed, "all_labels": accuracy, **few, "seconds": 10.0 * (seed + 1),
        "peak_bytes": 3 << 20, "device": "a card", "precision": "float32", "jobs": 1, **more,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "depth.jsonl"
    monkeypatch.setattr(sys, "argv", ["depth", *ARGUMENTS, "--json", str(file)])
    monkeypatch.setattr(depth, "load_dataset", lambda *_: None)
    return file


def test_rows_that_are_there_are_not_trained_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = depth.setting_of(depth.arguments())
    other = result("four-auto", 0, 0.9, setting={**setting, "epochs": 99})
    there = [result("one", 0, 0.5, setting=setting), other]
    cut_off = json.dumps(result("one", 1, 0.7, setting=setting))[:30]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in there) + cut_off)
    begun: list[tuple[str, int]] = []

    class Child:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            name, seed = command[-2:]
            self.told = result(name, int(seed), 0.25 * (int(seed) + 1))
            begun.append((name, int(seed)))

        def communicate(self) -> tuple[str, None]:
            return f"{json.dumps(self.told)}\n", None

    monkeypatch.setattr(depth.subprocess, "Popen", Child)
    with pytest.raises(SystemExit, match="0"):
        depth.main()
    assert begun == [("four-auto", 0), ("one", 1), ("four-auto", 1)]
    lines = capsys.readouterr().out.splitlines()
    assert "| one hidden module | 2 | 50.00% | 25.00% | 12.50% | 15 | 3 |" in lines
    assert "| four hidden modules, tail: auto | 2 | 37.50% | 18.75% | 9.38% | 15 | 3 |" in lines
    begun.clear()
    with pytest.raises(SystemExit, match="0"):
        depth.main()
    assert not begun


def test_a_row_that_fails_leaves_the_others(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Child:
        def __init__(self, command: list[str], **_: Any) -> None:
            self.name, self.seed = command[-2:]
            self.returncode = int(self.name == "one")

        def communicate(self) -> tuple[str, None]:
            return json.dumps(result(self.name, int(self.seed), 0.5)), None

    monkeypatch.setattr(depth.subprocess, "Popen", Child)
    with pytest.raises(SystemExit, match="1"):
        depth.main()
    out = capsys.readouterr().out
    assert "one, seed 0: FAILED (1)" in out
    assert "| four hidden modules, tail: auto | 2 | 50.00%" in out
    assert "| one hidden module" not in out


def test_checkpointing_changes_memory_alone() -> None:
    backbone = BackboneSpec(name="resnet18", width=2)
    hidden = build_hidden(backbone, ("stem", "layer1.0", "layer1.1"), (3, 8, 8), seed=0)
    whole = Whole(hidden, make_kernel(KernelSpec(name="relu_avgpool")), torch.nn.Linear(2, 3))
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for forward in (Whole.forward, depth.forget_activations):
        whole.zero_grad()
        forward(whole, images).square().sum().backward()
        gradients.append([p.grad.clone() for p in whole.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(whole.parameters()))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.long
def test_memory_of_a_step_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ("end-to-end", "checkpointed", "four-none")
    given = ["step_memory", "--width", "8", "--batch", "64", "--rows", *rows]
    monkeypatch.setattr(sys, "argv", given)
    step_memory.main()
    lines = capsys.readouterr().out.splitlines()[-3:]
    counted = {line.split("|")[1].strip(): int(line.split("|")[2]) for line in lines}
    most = counted.pop("end to end, cross-entropy")
    assert len(counted) == 2
    assert max(counted.values()) < most
