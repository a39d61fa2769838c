"""A checkpoint is resumed by the training that it is of, and refused by every other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modkernel.control import UNWATCHED, Control
from modkernel.data import Dataset, Resident, Split
from modkernel.errors import ArtifactError, StoppedError
from modkernel.spec import DatasetSpec, HiddenSpec, KernelSpec, NetworkSpec, Recipe
from modkernel.training.checkpoint import FILE
from modkernel.training.end_to_end import train_end_to_end
from modkernel.training.hidden import train_hidden
from modkernel.training.stitch import fit_stitch
from modkernel.training.together import train_together
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.training_examples import (
    FACTS,
    MLP,
    PREPROCESSING,
    made_images,
    paired,
    plans,
)
from tests.modkernel.test_stitch import maps, stitched
from tests.modkernel.test_training_together import group

SHORT = Recipe(epochs=2, batch_size=32)
Numbers = list[float]
Train = Callable[[int, Control], Numbers]
"""Trains with a seed; gives the objective of each epoch."""


def hidden(folder: Path) -> Train:
    (plan,) = plans(MLP, SHORT, kernel="relu")
    parts = paired(96), paired(30, 1)

    def train(seed: int, control: Control) -> Numbers:
        spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=seed)
        _, report = train_hidden(spec, *parts, arithmetic=FLOAT32, control=control)
        return [line.objective for line in report.history]

    return train


def together(folder: Path) -> Train:
    parts = paired(96), paired(30, 1)

    def train(seed: int, control: Control) -> Numbers:
        spec = group(SHORT, SHORT, temperature=0.1 + seed)
        trained = train_together(spec, *parts, arithmetic=FLOAT32, control=control)
        return [line.objective for _, report in trained for line in report.history]

    return train


def end_to_end(folder: Path) -> Train:
    images, labels = made_images(186)
    parts = [
        Split([str(i) for i in range(a, b)], labels[a:b], Resident(images, a, b))
        for a, b in pairwise((0, 96, 126, 186))
    ]
    data = Dataset("made", FACTS.classes, "f" * 64, PREPROCESSING, *parts)
    spec = NetworkSpec(
        name="made",
        dataset=DatasetSpec(name="digits"),
        backbone=MLP,
        hidden=(HiddenSpec(kernel=KernelSpec(name="relu"), recipe=SHORT),),
    )

    def train(seed: int, control: Control) -> Numbers:
        report = train_end_to_end(
            spec.changed(seed=seed), data, arithmetic=FLOAT32, control=control
        )
        return [line.objective for line in report.history]

    return train


def stitch(folder: Path) -> Train:
    (lower, _), (below, upper) = maps(folder / "maps", 0), maps(folder / "maps", 1)
    examples = Resident.whole(made_images(80)[0])

    def train(seed: int, control: Control) -> Numbers:
        _, report = fit_stitch(
            stitched(lower, upper).changed(seed=seed),
            examples,
            [lower],
            [below, upper],
            arithmetic=FLOAT32,
            control=control,
        )
        return [line.objective for line in report.history]

    return train


KINDS = {one.__name__: one for one in (hidden, together, end_to_end, stitch)}


def stop_before_the_end(train: Train, folder: Path) -> None:
    """Train with seed 0 until it is stopped in the last epoch."""
    looks: list[int] = []
    train(0, Control(stop=lambda: bool(looks.append(0))))
    asked = itertools.count(1)
    with pytest.raises(StoppedError):
        train(0, Control(checkpoints=folder, stop=lambda: next(asked) >= len(looks)))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_one_folder_for_two_recipes_is_refused_and_the_first_ones_work_kept(
    kind: Callable[[Path], Train], tmp_path: Path
) -> None:
    train, folder = kind(tmp_path), tmp_path / "checkpoints"
    stop_before_the_end(train, folder)
    with pytest.raises(ArtifactError, match=r"of another recipe.* a folder of checkpoints of its"):
        train(1, Control(checkpoints=folder))
    steps: list[int] = []
    resumed = train(0, Control(checkpoints=folder, progress=lambda event: steps.append(0)))
    assert resumed == train(0, UNWATCHED) != train(1, UNWATCHED)
    assert len(steps) == 1  # The epochs before the last one were not repeated.


def test_a_checkpoint_that_names_no_recipe_is_resumed(tmp_path: Path) -> None:
    """As those of older versions, which are found by the name of their folder."""
    train = hidden(tmp_path)
    stop_before_the_end(train, tmp_path)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    assert len(state.pop("recipe_digest")) == 64
    save_file(load_file(tmp_path / FILE), tmp_path / FILE, metadata={"state": json.dumps(state)})
    seen: list[int] = []
    control = Control(checkpoints=tmp_path, progress=lambda event: seen.append(event["epoch"]))
    assert train(0, control) == train(0, UNWATCHED)
    assert seen == [2]
