"""A whole network from a spec into a folder, in this process, and the example that does it."""

from __future__ import annotations

import ast
import hashlib
import runpy
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modkernel import (
    BackboneSpec,
    Control,
    DataPlaces,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
    describe_dataset,
    load_dataset,
    train_network,
)
from modkernel.errors import ArtifactError, DataError, MomentsError, StoppedError
from modkernel.modules.stored import WEIGHTS_FILE
from modkernel.reuse.answer import answering, distance_of
from modkernel.reuse.moments_file import MOMENTS_FILE, read_moments

EXAMPLE = Path(__file__).parents[2] / "examples/train.py"
ONE = HiddenSpec(kernel=KernelSpec(name="relu"), recipe=Recipe(epochs=2, precision="float32"))
NEVER = Control(progress=lambda event: pytest.fail(f"trained: {event}"))
SPEC = NetworkSpec(
    name="digits",
    backbone=BackboneSpec(name="mlp", width=16, depth=2),
    hidden=(ONE, ONE),
    output=OutputSpec(method="ridge", labels_per_class=2, draws=3),
)


def test_a_network_is_trained_into_a_folder_once(tmp_path: Path) -> None:
    trained = train_network(SPEC, tmp_path, device="cpu")
    assert [module.folder.name for module in trained.modules] == ["hidden-1", "hidden-2", "output"]
    assert [module.spec.kind for module in trained.modules] == ["hidden", "hidden", "output"]
    assert all((module.folder / MOMENTS_FILE).is_file() for module in trained.modules[:2])
    data = load_dataset(SPEC.dataset, DataPlaces(tmp_path / "data", tmp_path / "cache"))
    every = torch.arange(len(data.test))
    (raw,) = data.test.examples.batches([every], torch.device("cpu"))
    right = trained.assemble()(raw).argmax(1) == data.test.labels
    evaluation = trained.reports[-1].evaluation
    assert evaluation is not None
    assert right.double().mean().item() == pytest.approx(evaluation.accuracy)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(WEIGHTS_FILE)}
    assert train_network(SPEC, tmp_path, device="cpu") == trained
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(WEIGHTS_FILE)} == before
    with pytest.raises(ArtifactError, match="another recipe"):
        train_network(SPEC.changed(seed=1), tmp_path, device="cpu")


def test_an_interrupted_call_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    plain = train_network(SPEC, tmp_path / "plain", device="cpu")
    seen: list[Mapping[str, Any]] = []
    control = Control(tmp_path / "checkpoints", seen.append, lambda: len(seen) == 3)
    with pytest.raises(StoppedError):
        train_network(SPEC, tmp_path / "stopped", device="cpu", control=control)
    assert not (tmp_path / "stopped/hidden-2").exists()
    control = Control(tmp_path / "checkpoints", seen.append)
    resumed = train_network(SPEC, tmp_path / "stopped", device="cpu", control=control)
    epochs = [event["epoch"] for event in seen]
    assert epochs[:4] == [1, 2, 1, 2], "every epoch once"
    assert [module.id for module in resumed.modules] == [module.id for module in plain.modules]


def test_modules_of_one_pass_are_trained_into_a_folder_once(tmp_path: Path) -> None:
    spec = SPEC.changed(train="together")
    seen: list[Mapping[str, Any]] = []
    control = Control(tmp_path / "checkpoints", seen.append, lambda: len(seen) == 1)
    with pytest.raises(StoppedError):
        train_network(spec, tmp_path / "stopped", device="cpu", control=control)
    control = Control(tmp_path / "checkpoints", seen.append)
    resumed = train_network(spec, tmp_path / "stopped", device="cpu", control=control)
    assert [event["epoch"] for event in seen if event.get("parts")] == [1, 2], "one pass for both"
    whole = train_network(spec, tmp_path / "whole", device="cpu")
    assert [one.id for one in resumed.modules] == [one.id for one in whole.modules]
    assert all((one.folder / MOMENTS_FILE).is_file() for one in whole.modules[:2])
    assert [report.recipe_digest for report in whole.reports] == [
        one.spec_sha256 for one in whole.modules
    ]
    again = train_network(
        spec, tmp_path / "whole", device="cpu", control=Control(stop=lambda: True)
    )
    assert again == whole
    with pytest.raises(ArtifactError, match="another recipe"):
        train_network(SPEC, tmp_path / "whole", device="cpu")


@pytest.mark.parametrize("train", ["in turn", "together"])
def test_a_folder_that_a_kill_left_half_written_is_made_whole(tmp_path: Path, train: Any) -> None:
    spec = SPEC.changed(train=train, output=None)
    whole = train_network(spec, tmp_path, device="cpu")
    first, second = (one.folder for one in whole.modules)
    (first / MOMENTS_FILE).unlink()  # Killed while it measured.
    assert train_network(spec, tmp_path, device="cpu", control=NEVER) == whole
    assert (first / MOMENTS_FILE).is_file()
    shutil.rmtree(second)  # Killed before it wrote the last one.
    again = train_network(spec, tmp_path, device="cpu")
    assert [one.id for one in again.modules] == [one.id for one in whole.modules]
    assert (second / MOMENTS_FILE).is_file()


def test_nothing_is_trained_on_a_plan_that_cannot_be(tmp_path: Path) -> None:
    info = describe_dataset(SPEC.dataset, DataPlaces(tmp_path / "data", tmp_path / "cache"))
    assert info.train_counts is not None
    asked = SPEC.changed(output=OutputSpec(labels_per_class=max(info.train_counts) + 1))
    with pytest.raises(Exception, match="labels"):
        train_network(asked, tmp_path / "net", device="cpu")
    assert not (tmp_path / "net/hidden-1").exists()


def test_the_example_needs_modkernel_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) <= 20
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else name.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"sys", "modkernel"}
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("of the test part, on ten labels")
    assert float(last.split("%")[0]) > 90


@pytest.mark.parametrize("count", [4, 10])
def test_few_examples_a_class_train_by_default(tmp_path: Path, count: int) -> None:
    path = tmp_path / "few.npz"
    x = np.random.default_rng(1).normal(size=(3 * count, 4)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(3 * count) % 3)
    spec = SPEC.changed(dataset=DatasetSpec(name="arrays", path=str(path)), output=OutputSpec())
    info = describe_dataset(spec.dataset, DataPlaces(tmp_path, tmp_path / "trained" / "cache"))
    assert info.n_borrowed > 0
    trained = train_network(spec, tmp_path / "trained", device="cpu")
    assert all((module.folder / MOMENTS_FILE).is_file() for module in trained.modules[:2])
    evaluation = trained.reports[-1].evaluation
    assert evaluation is not None
    assert sum(map(sum, evaluation.confusion)) == info.n_test


def test_a_module_that_cannot_be_measured_is_trained_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise MomentsError("Moments of 3000 features need 1 GiB.")

    monkeypatch.setattr("modkernel.training.network.measure", too_large)
    events: list[Mapping[str, Any]] = []
    spec = SPEC.changed(hidden=(ONE,))
    for _ in range(2):  # Found, it is asked for its moments once more.
        trained = train_network(
            spec, tmp_path, device="cpu", control=Control(progress=events.append)
        )
        assert [module.spec.kind for module in trained.modules] == ["hidden", "output"]
    told = [event["text"] for event in events if event["event"] == "note"]
    assert told == ["The module is not measured: Moments of 3000 features need 1 GiB."] * 2
    assert not list(tmp_path.rglob(MOMENTS_FILE))


def test_data_that_change_after_the_plan_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a loader that draws other examples every time."""

    def other(spec: DatasetSpec, *given: Any, **more: Any) -> Any:
        return load_dataset(spec.changed(split_seed=spec.split_seed + 1), *given, **more)

    monkeypatch.setattr("modkernel.training.network.load_dataset", other)
    with pytest.raises(DataError, match="gives other examples every time"):
        train_network(SPEC, tmp_path, device="cpu", control=NEVER)


def test_the_distance_under_a_kernel_without_features_is_not_known(tmp_path: Path) -> None:
    gaussian = HiddenSpec(
        kernel=KernelSpec(name="gaussian", centres=32),
        objective=ObjectiveSpec(name="nmse"),
        recipe=Recipe(epochs=1, precision="float32"),
    )
    trained = train_network(SPEC.changed(hidden=(gaussian,)), tmp_path, device="cpu")
    file = trained.modules[0].folder / MOMENTS_FILE
    moments = read_moments(file, hashlib.sha256(file.read_bytes()).hexdigest())
    network = trained.assemble()
    assert distance_of(network, moments) is None
    (answer,) = answering(network, moments)(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    assert answer["distance"] is None
