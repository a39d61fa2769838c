"""Several devices a module: two processes get what one gets at the same batches, and resume."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modkernel.control import Control
from modkernel.errors import SettingsError, SpecError
from modkernel.modules.stored import write_module
from modkernel.objectives.table import OBJECTIVES
from modkernel.spec import BackboneSpec, Recipe
from modkernel.training.hidden import train_hidden
from modkernel.training.parallel.batch_norm import norm_by_whole_batches
from modkernel.training.parallel.join import torchrun
from modkernel.training.parallel.ranks import ALONE, Ranks
from tests.modkernel.helpers import parallel_cases as cases
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.rank_pair import RankPair
from tests.modkernel.helpers.training_examples import FACTS, PREPROCESSING, paired, plans

MOVED = {"crop_padding": 1, "flip": True}
"""Crop and flip."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPair]:
    pair = RankPair(tmp_path_factory.mktemp("pair") / "meeting")
    yield pair
    pair.close()


def of(folder: Path, name: str, rank: int, size: int) -> dict[str, Tensor]:
    return load_file(folder / f"{name}-{rank}-of-{size}.safetensors")


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((one[name] - value).abs().max()) for name, value in other.items()}


def test_every_objective_has_the_gradients_that_one_process_has(
    pair: RankPair, tmp_path: Path
) -> None:
    """In float64, of seven examples, which two processes cannot share evenly."""
    arguments: dict[str, Any] = {"folder": str(tmp_path), "counts": [7]}
    pair("all_objectives", **arguments)
    cases.all_objectives(ALONE, **arguments)
    compared = sorted(tmp_path.glob("*-0-of-1.safetensors"))
    assert {path.name.split("-")[0] for path in compared} == set(OBJECTIVES)
    for path in compared:
        name = path.name.removesuffix("-0-of-1.safetensors")
        one, inputs = of(tmp_path, name, 0, 1), 0
        for rank in range(2):
            other = of(tmp_path, name, rank, 2)
            inputs += sum(key.startswith("x") for key in other)
            scale = max(1.0, *(float(value.abs().max()) for value in one.values()))
            assert max(differences(one, other).values()) < 1e-10 * scale, name
        assert inputs == 7, "each example is of one process"
        assert float(one["0.weight"].abs().max()) > 0, name


@pytest.mark.parametrize("count", [1, 5])
def test_a_batch_norm_is_exact_where_a_share_is_empty_or_smaller(
    pair: RankPair, tmp_path: Path, count: int
) -> None:
    pair("norms", folder=str(tmp_path), count=count)
    cases.norms(ALONE, folder=str(tmp_path), count=count)
    one = of(tmp_path, "norms", 0, 1)
    assert float(one["1.weight"].abs().max()) > 0
    for rank in range(2):
        other = of(tmp_path, "norms", rank, 2)
        assert one.keys() == other.keys()
        assert max(differences(one, other).values()) < 1e-9 * float(one["1.weight"].abs().max())


def test_a_batch_norm_of_one_value_a_channel_is_refused_as_a_plain_one_does(
    pair: RankPair,
) -> None:
    with pytest.raises(ValueError, match=r"got input size torch.Size\(\[1, 3\]\)") as plain:
        nn.BatchNorm1d(3)(torch.zeros(1, 3))
    assert pair("few_values", count=1) == [str(plain.value)] * 2
    assert pair("few_values", count=2) == [""] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 33, "clip_norm": 0.5, **MOVED},
        {"backbone": "mlp", "optimizer": "adamw", "learning_rate": 0.01},
        {"pairs": "listed", "batch_size": 13, "learning_rate": 1e-4, "epochs": 1},
        {"pairs": "views", "batch_size": 33, "flip": True, "learning_rate": 0.01},
    ],
    ids=["crop-flip-uneven", "vectors", "pair-list", "views"],
)
def test_two_processes_train_what_one_trains(
    pair: RankPair, tmp_path: Path, options: dict[str, Any]
) -> None:
    together = pair("train", folder=str(tmp_path), **options)
    alone = cases.train(ALONE, folder=str(tmp_path), **options)
    one = of(tmp_path, "weights", 0, 1)
    for rank in range(2):
        other = of(tmp_path, "weights", rank, 2)
        assert one.keys() == other.keys()
        assert max(differences(one, other).values()) < 1e-5
        for key in ("objectives", "values"):
            assert together[rank][key] == pytest.approx(alone[key], abs=1e-4)
    assert [bool(told["seen"]) for told in together] == [True, False], "the first one reports"
    assert [told["devices"] for told in (*together, alone)] == [2, 2, 1]


@pytest.mark.parametrize("options", [{}, {"views": 2, **MOVED}], ids=["plain", "views"])
def test_two_processes_train_on_a_stored_module(
    pair: RankPair, tmp_path: Path, options: dict[str, Any]
) -> None:
    """What the module below gives is computed once and kept: both take their shares of it."""
    plan = plans(BackboneSpec(name="resnet18", width=8), Recipe(epochs=1, batch_size=32), 2)[0]
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    weights, _ = train_hidden(spec, paired(96), paired(31, 1), arithmetic=FLOAT32)
    below = write_module(tmp_path / "below", spec, weights)
    pair("train", folder=str(tmp_path), below=str(below.folder), **options)
    cases.train(ALONE, folder=str(tmp_path), below=str(below.folder), **options)
    one = of(tmp_path, "weights", 0, 1)
    for rank in range(2):
        assert max(differences(one, of(tmp_path, "weights", rank, 2)).values()) < 1e-5


@pytest.mark.long
def test_two_processes_train_a_network_into_one_folder(pair: RankPair, tmp_path: Path) -> None:
    first, second = pair("network", folder=str(tmp_path))
    assert first == second
    assert len(first) == 3
    assert pair("network", folder=str(tmp_path)) == [first, first], "it is there"
    assert cases.network(ALONE, folder=str(tmp_path)) == first
    shutil.rmtree(tmp_path / "output")
    assert pair("network", folder=str(tmp_path), late=2.0) == [first, first], "one looks later"


def test_two_processes_that_were_stopped_resume_bit_for_bit(pair: RankPair, tmp_path: Path) -> None:
    """One of them is asked to stop, in the middle of an epoch: both do, at the same step."""
    arguments: dict[str, Any] = {"folder": str(tmp_path), **MOVED}
    checkpoints = str(tmp_path / "checkpoints")
    pair("train", name="whole", **arguments)
    stopped = pair("train", stop_after=4, checkpoints=checkpoints, **arguments)
    assert stopped == [{"stopped": True, "seen": [1]}, {"stopped": True, "seen": []}]
    resumed = pair("train", name="resumed", checkpoints=checkpoints, **arguments)
    assert resumed[0]["seen"] == [2]
    for rank in range(2):
        whole, again = (of(tmp_path, name, rank, 2) for name in ("whole", "resumed"))
        assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_each_process_draws_for_itself_and_repeats_it(pair: RankPair) -> None:
    first, second = pair("draws")
    assert first[0] != second[0]
    for step, other, again in (first, second):
        assert step == again != other


def test_nobody_outside_this_machine_can_reach_them(pair: RankPair) -> None:
    for addresses in pair("listening"):
        assert addresses
        assert {bytes.fromhex(address)[::-1] for address in addresses} == {bytes([127, 0, 0, 1])}


def test_what_several_devices_cannot_train_is_refused() -> None:
    (plan,) = plans(BackboneSpec(name="resnet18", width=8), Recipe(epochs=1, batch_size=3))
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    with pytest.raises(SpecError, match="A batch of 3 cannot be shared by 4 devices"):
        train_hidden(
            spec,
            paired(12),
            paired(12, 1),
            arithmetic=FLOAT32,
            control=Control(),
            ranks=Ranks(0, 4),
        )

    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(SpecError, match=r"'1' is a Own, .* train this module on one device"):
        norm_by_whole_batches(nn.Sequential(nn.ReLU(), Own(3)), Ranks(0, 2))


@pytest.mark.long
def test_the_example_runs_under_torchrun(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples/train_on_devices.py"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(example), str(tmp_path), "cpu"),
        ],
        env=os.environ | {"PYTHONPATH": str(example.parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1].split("%")[0]) > 90
    reports = [json.loads(path.read_text()) for path in sorted((tmp_path / "reports").iterdir())]
    assert [report["devices"] for report in reports] == [2, 2, 1]


def test_without_a_loopback_interface_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(2, "eth0")])
    with pytest.raises(SettingsError, match=r"loopback .* there are only eth0"), torchrun("cpu"):
        pass


def test_torchrun_on_several_machines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="start torchrun with --nnodes 1"), torchrun("cpu"):
        pass
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SettingsError, match="There are 2 GPUs here for 4"), torchrun("cuda"):
        pass
