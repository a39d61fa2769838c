"""The ground truth of a stored module: what direct computation gives, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modkernel.control import Control
from modkernel.data import Dataset, Resident
from modkernel.data.dataset import Split
from modkernel.errors import ArtifactError, ClassError, DataError, InterfaceError, StoppedError
from modkernel.features.cache import FeatureCache
from modkernel.features.extractor import frozen_chain
from modkernel.kernels import make_kernel
from modkernel.modules.stored import StoredModule
from modkernel.reuse.ground_truth import GroundTruthSpec, read_ground_truth
from modkernel.reuse.scores import SCORES, knn, leep, nce
from modkernel.reuse.scores.table import ON_MOMENTS
from modkernel.reuse.task import Task
from modkernel.spec import OutputSpec, Recipe
from modkernel.system.files import hash_file
from modkernel.training.ground_truth import PROBABILITIES, measure_ground_truth
from modkernel.training.heads import fit_heads, predict_heads
from tests.modkernel.helpers.training_examples import (
    FACTS,
    FLOAT32,
    PREPROCESSING,
    made_images,
    trained,
)

RIDGE = OutputSpec(method="ridge")
TARGETS = (
    Task.of_classes(("a", "b")),
    Task.of_classes(("c", "a", "b")),
    Task(groups={"one": ("c",), "other": ("b", "a")}),
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[StoredModule]:
    return trained(tmp_path_factory.mktemp("evaluated"), Recipe(epochs=1, batch_size=32), modules=2)


def split(count: int, seed: int) -> Split:
    images, labels = made_images(count, seed)
    return Split([str(i) for i in range(count)], labels, Resident.whole(images))


DATA = Dataset(
    "made", FACTS.classes, "f" * 64, PREPROCESSING, split(150, 2), split(30, 3), split(60, 4),
    borrowed=torch.arange(20),
)  # fmt: skip
"""What it borrows of its training part is in no score of held-out examples."""


def asked(chain: list[StoredModule], **changes: Any) -> GroundTruthSpec:
    fields = {
        "module_id": chain[-1].id,
        "fingerprint": DATA.fingerprint,
        "own": TARGETS[0],
        "targets": TARGETS,
        "output": RIDGE,
        "seed": 0,
    }
    return GroundTruthSpec(**fields | changes)


def features(chain: list[StoredModule], part: Split) -> torch.Tensor:
    (raw,) = part.examples.batches([torch.arange(len(part))], torch.device("cpu"))
    with torch.no_grad():
        h = frozen_chain(chain)(raw)
    return make_kernel(chain[-1].spec.interface.kernel).features(h)


def test_a_ground_truth_is_what_direct_computation_gives(chain: list[StoredModule]) -> None:
    events: list[Any] = []
    found = measure_ground_truth(
        asked(chain), chain, DATA, arithmetic=FLOAT32, control=Control(progress=events.append)
    )
    phi, phi_test = features(chain, DATA.train), features(chain, DATA.test)
    train, test = DATA.train.labels, DATA.test.labels
    assert train is not None
    assert test is not None
    own = train < 2
    head = fit_heads(phi[own], train[own], torch.arange(int(own.sum()))[None], 2, PROBABILITIES, 0)
    theta = (phi @ head.weight[0].T + head.bias[0]).double().softmax(1)
    sides = ([0, 1, -1], [1, 2, 0], [1, 1, 0])
    for position, side_of in enumerate(sides):
        side, truth = torch.tensor(side_of)[train], torch.tensor(side_of)[test]
        known = side >= 0
        every = torch.arange(int(known.sum()))[None]
        fit = fit_heads(phi[known], side[known], every, max(side_of) + 1, RIDGE, 0)
        right = predict_heads(fit, phi_test[truth >= 0])[0] == truth[truth >= 0]
        assert found.accuracy[position] == pytest.approx(right.double().mean().item(), abs=0.02)
        shares = [
            right[truth[truth >= 0] == number].double().mean().item()
            for number in range(max(side_of) + 1)
        ]
        balanced = sum(shares) / len(shares)
        assert found.balanced_accuracy[position] == pytest.approx(balanced, abs=0.04)
        assert found.worst_accuracy[position] == pytest.approx(min(shares), abs=0.08)
        phi_held, held = features(chain, DATA.validation), DATA.validation.labels
        assert held is not None
        expected = {
            "knn": knn(phi, side, phi_held, torch.tensor(side_of)[held]),
            "contrastive": SCORES["contrastive"].function(phi, side),
            "leep": leep(theta, side),
            "nce": nce(theta, side),
        }
        for name, value in expected.items():
            assert found.scores[name][position] == pytest.approx(value, rel=1e-4), name
    assert [event["target"] for event in events] == [1, 2, 3]
    needed = {name for name, score in SCORES.items() if score.needs not in ON_MOMENTS}
    assert found.scores.keys() == found.score_seconds.keys() == needed
    assert found.truth_seconds > 0


def test_what_is_in_the_cache_is_used(chain: list[StoredModule], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features", 1 << 30)
    first = measure_ground_truth(asked(chain), chain, DATA, arithmetic=FLOAT32, cache=cache)
    files = {path: path.stat().st_ino for path in cache.folder.glob("*.safetensors")}
    assert len(files) == 2, "training and test examples"
    second = measure_ground_truth(asked(chain), chain, DATA, arithmetic=FLOAT32, cache=cache)
    assert (second.accuracy, second.scores) == (first.accuracy, first.scores)
    assert {path: path.stat().st_ino for path in cache.folder.glob("*.safetensors")} == files
    some = torch.arange(50)
    third = measure_ground_truth(
        asked(chain), chain, DATA, arithmetic=FLOAT32, cache=cache, tested=some
    )
    assert (first.left_out, third.left_out) == (0, 10)


def test_a_score_that_a_target_does_not_allow_is_left_out(chain: list[StoredModule]) -> None:
    """One example a side: there is no same pair. The accuracy is defined all the same."""
    train = split(3, 5)
    few = Dataset("few", FACTS.classes, "f" * 64, PREPROCESSING, train, train, split(6, 6))
    found = measure_ground_truth(asked(chain), chain, few, arithmetic=FLOAT32)
    assert len(found.accuracy) == 3
    assert "two examples" in found.undefined["contrastive"]
    assert "contrastive" not in found.scores
    assert set(found.scores) == {"knn", "leep", "nce"}


def test_evaluating_refuses_and_stops(chain: list[StoredModule]) -> None:
    with pytest.raises(InterfaceError, match="whole chain"):
        measure_ground_truth(asked(chain), chain[:1], DATA, arithmetic=FLOAT32)
    wild = (Task.of_classes(("a", "zebra")),)
    with pytest.raises(ClassError, match="zebra"):
        measure_ground_truth(asked(chain, targets=wild), chain, DATA, arithmetic=FLOAT32)
    answers = iter([False] * 2)
    stopping = Control(stop=lambda: next(answers, True))
    with pytest.raises(StoppedError):
        measure_ground_truth(asked(chain), chain, DATA, arithmetic=FLOAT32, control=stopping)


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_target_without_examples_is_named_before_anything_is_computed(
    chain: list[StoredModule], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modkernel.features.compute._forward", lambda *_: pytest.fail("computed"))
    some, none = split(60, 4), split(60, 4)
    assert none.labels is not None
    none = replace(none, labels=torch.zeros_like(none.labels))
    parts = (none, some, some) if part == "training" else (some, some, none)
    lacking = Dataset("lacking", FACTS.classes, "f" * 64, PREPROCESSING, *parts)
    targets = (TARGETS[0], Task.of_classes(("b", "c")))
    with pytest.raises(DataError, match=f"{part} part of data set 'lacking'.*'b-c'"):
        measure_ground_truth(asked(chain, targets=targets), chain, lacking, arithmetic=FLOAT32)


def test_a_file_that_is_no_ground_truth(chain: list[StoredModule], tmp_path: Path) -> None:
    path = tmp_path / "ground_truth.json"
    spec = asked(chain).model_dump(mode="json")
    one_side = {**spec, "own": {"groups": [["a", ["a"]]]}}
    for content in ("", "{}", json.dumps({"spec": one_side, "accuracy": []})):
        path.write_text(content)
        with pytest.raises(ArtifactError, match="not a ground truth"):
            read_ground_truth(path, hash_file(path))
    with pytest.raises(ArtifactError, match="not a ground truth"):
        read_ground_truth(tmp_path / "missing.json", "0" * 64)
