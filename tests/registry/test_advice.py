"""Ranking stored modules: the order is the scores', and nobody is left out without a word."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from modkernel.data import DatasetInfo
from modkernel.features.cache import FeatureCache
from modkernel.modules.stored import write_module
from modkernel.registry import Advice, ModuleRecord, Registry, saga
from modkernel.registry.advice import ranking
from modkernel.reuse.moments import ClassMoments, ModuleMoments, accumulate
from modkernel.reuse.moments_file import write_moments
from modkernel.reuse.scores import SCORES, reusability, score_tasks
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import Preprocessing
from tests.modkernel.helpers.stored_examples import FACTS, PREPROCESSING, make_hidden, store_hidden
from tests.registry.helpers.examples import Examples, class_moments, store_one
from tests.registry.helpers.stored_homes import opened_copy
from tests.registry.test_moments import in_mlflow, private_copy

BASE = "b" * 64
"""Fingerprint of the data that is asked about; the modules were trained on other data."""
CLASSES = ("cat", "deer", "dog", "ship")
TASKS = ("cat, dog", "animal=cat+dog+deer, vehicle=ship", "cat, deer, dog, ship")


def info(preprocessing: Preprocessing = PREPROCESSING, **changes: object) -> DatasetInfo:
    values = {
        "name": "animals",
        "classes": CLASSES,
        "fingerprint": BASE,
        "preprocessing": preprocessing,
        "train_counts": (15,) * len(CLASSES),
        "n_train": 60,
        "n_validation": 60,
        "n_test": 0,
        "labelled": True,
    }
    return DatasetInfo.model_validate(values | changes)


def keep(
    registry: Registry,
    record: ModuleRecord,
    folder: Path,
    seed: int = 0,
    apart: float = 1.0,
    train: ClassMoments | None = None,
    dimension: int = 4,
) -> ModuleMoments:
    """Moments of a module on the data that is asked about."""
    parts = [
        class_moments(seed + part, BASE, CLASSES, apart, dimension=dimension) for part in (0, 1000)
    ]
    made = ModuleMoments(record.id, train or parts[0], parts[1], 0.1)
    write_moments(folder / f"{record.id}.safetensors", made)
    registry.moments.store(record, folder / f"{record.id}.safetensors", "animals")
    return made


APART = {"bad": 0.05, "good": 1.0, "fair": 0.4}
"""How far apart the classes are in the features of three modules, by a word for each module."""
Three = dict[str, tuple[ModuleRecord, ModuleMoments]]


def measure(registry: Registry, folder: Path) -> Three:
    """The modules of the home 'versions' by those words, with moments as they were stored."""
    return {
        name: (record, keep(registry, record, folder, seed, APART[name]))
        for seed, (name, record) in enumerate(zip(APART, registry.modules.find(), strict=True))
    }


@pytest.fixture
def three(registry: Registry, tmp_path: Path) -> Three:
    return measure(registry, tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Three]]:
    """The same in a registry that tests only read."""
    with opened_copy(tmp_path_factory, "versions") as registry:
        yield registry, measure(registry, tmp_path_factory.mktemp("moments"))


def names(found: Advice, three: Three) -> list[str]:
    known = {record.id: name for name, (record, _) in three.items()}
    return [known[one.module.id] for one in found.ranked]


def test_modules_stand_in_the_order_of_their_scores(shared: tuple[Registry, Three]) -> None:
    registry, three = shared
    scores = [name for name, row in SCORES.items() if row.needs in ("moments", "held_out")]
    for score, text in product(scores, TASKS):
        _check_order(registry, three, parse_task(text), score)


def _check_order(
    registry: Registry,
    three: Three,
    task: Task,
    score: str,
) -> None:
    found = registry.advice.rank(task, info(), score)
    expected = {
        record.id: reusability(kept.train, task, score, kept.validation)
        for record, kept in three.values()
    }
    assert [one.module.id for one in found.ranked] == sorted(
        expected, key=lambda module: -expected[module]
    ), (score, task)
    for one in found.ranked:
        assert one.score == pytest.approx(expected[one.module.id], rel=1e-12)
        assert one.module == registry.modules.resolve(one.module.id)
        assert (one.own, one.accuracy, one.interval) == (False, None, None)
    assert (found.task, found.dataset, found.fingerprint) == (task, "animals", BASE)
    assert (found.score, found.left_out) == (score, ())


def test_what_tells_classes_apart_comes_first(shared: tuple[Registry, Three]) -> None:
    registry, three = shared
    found = registry.advice.rank(parse_task("cat, dog"), info())
    assert names(found, three) == ["good", "fair", "bad"]


@pytest.mark.home("chain")
def test_every_hidden_module_is_ranked_or_left_out_with_a_reason(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples, tmp_path: Path
) -> None:
    first, second, _ = records
    unmeasured = store_one(registry, examples.first(5), "unmeasured.hidden-1")
    undefined = store_one(registry, examples.first(6), "undefined.hidden-1")
    small = Preprocessing(shape=(3, 16, 16), dtype="uint8", mean=(0.3,), std=(0.2,))
    stored, _ = store_hidden(examples.folder / "other", ("stem",), (1, 8, 8), PREPROCESSING.id, 7)
    other = store_one(registry, stored, "other.hidden-1")
    keep(registry, first, tmp_path)
    keep(registry, second, tmp_path, seed=1)
    labels = torch.arange(60) % 2
    keep(
        registry,
        undefined,
        tmp_path,
        train=accumulate([(torch.eye(4)[labels], labels)], CLASSES, BASE),
    )
    found = registry.advice.rank(parse_task("cat, dog"), info())
    assert {one.module.id for one in found.ranked} == {first.id, second.id}
    left_out = {one.module.id: one for one in found.left_out}
    assert left_out.keys() == {unmeasured.id, undefined.id, other.id}
    assert left_out[unmeasured.id].reason == "moments"
    assert "modkernel advise" in left_out[unmeasured.id].message
    assert left_out[undefined.id].reason == "score"
    assert "no examples of 'dog'" in left_out[undefined.id].message
    found = registry.advice.rank(parse_task("cat, dog"), info(small))
    assert (found.ranked, {one.reason for one in found.left_out}) == ((), {"interface"})
    assert "1×8×8, uint8; --image-size 8 --channels 1" in found.left_out[0].message
    assert found.left_out[0].module.short_id in found.left_out[0].message


@pytest.mark.home("versions")
def test_moments_of_other_classes_are_none_and_hinder_no_other_module(
    registry: Registry,
    three: Three,
    examples: Examples,
    tmp_path: Path,
) -> None:
    record = store_one(registry, examples.first(8), "far.hidden-1")
    made = class_moments(8, BASE, ("x", "y", "z"))
    write_moments(tmp_path / "far", ModuleMoments(record.id, made, made, 0.1))
    registry.moments.store(record, tmp_path / "far")
    task = parse_task("cat, dog")
    found = registry.advice.rank(task, info())
    assert len(found.ranked) == len(three)
    ((module, reason),) = ((one.module, one.reason) for one in found.left_out)
    assert (module.id, reason) == (record.id, "moments")
    assert not registry.moments.has(record, BASE, info().classes)
    keep(registry, record, tmp_path)
    assert registry.moments.has(record, BASE, info().classes), "measuring it again replaces them"
    assert len(registry.advice.rank(task, info()).ranked) == len(three) + 1


@pytest.mark.home("versions")
def test_lost_moments_leave_a_module_out_until_it_is_measured_again(
    registry: Registry,
    three: Three,
    tmp_path: Path,
) -> None:
    record, _ = three["good"]
    (there,) = registry.moments.of(record)
    private_copy(registry, there).unlink()
    task = parse_task("cat, dog")
    assert len(registry.advice.rank(task, info()).ranked) == 3, "MLflow has the bytes"
    private_copy(registry, there).unlink()
    in_mlflow(registry, record, there).unlink()
    found = registry.advice.rank(task, info())
    assert names(found, three) == ["fair", "bad"]
    assert [(one.module.id, one.reason) for one in found.left_out] == [(record.id, "moments")]
    keep(registry, record, tmp_path)
    assert names(registry.advice.rank(task, info()), three) == ["good", "fair", "bad"]


@pytest.mark.home("versions")
def test_modules_that_are_lost_are_not_offered(registry: Registry, three: Three) -> None:
    saga.update(registry.backends, three["good"][0], state="LOST")
    found = registry.advice.rank(parse_task("cat, dog"), info())
    assert (names(found, three), found.left_out) == (["fair", "bad"], ())


@dataclass(frozen=True)
class Kept:
    """Features in place of those that measuring keeps."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    train_digests: Tensor | None = None
    validation_digests: Tensor | None = None


def features(seed: int, count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % len(CLASSES)
    noise = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    phi = torch.eye(len(CLASSES), 6)[labels] + 0.7 * noise
    return phi / phi.norm(dim=1, keepdim=True), labels


@pytest.mark.home("versions")
@pytest.mark.parametrize(("count", "few"), [(80, True), (1200, False)])
def test_kept_features_tell_accuracy_and_how_sure_the_score_is(
    registry: Registry,
    records: tuple[ModuleRecord, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    few: bool,
) -> None:
    kept = {}
    for seed, record in enumerate(records):
        train, validation = features(seed, count), features(seed + 50, 200)
        both = (accumulate([part], CLASSES, BASE) for part in (train, validation))
        write_moments(tmp_path / "new", ModuleMoments(record.id, *both, 0.1))
        registry.moments.store(record, tmp_path / "new")
        kept[record.id] = Kept(*train, *validation)

    def measured(_: FeatureCache, module_id: str, fingerprint: str) -> Kept | None:
        return kept[module_id] if fingerprint == BASE else None

    monkeypatch.setattr(ranking, "measured_features", measured)
    task = parse_task("animal=cat+dog, ship")
    found = registry.advice.rank(task, info(), top=2)
    side = torch.tensor([0, -1, 0, 1])
    for one in found.ranked[:2]:
        own = kept[one.module.id]
        chosen, tested = side[own.train_labels] >= 0, side[own.validation_labels] >= 0
        targets = torch.nn.functional.one_hot(side[own.train_labels][chosen], 2)
        oracle = Ridge(alpha=1e-3 * int(chosen.sum()))
        oracle.fit(own.train[chosen].double(), targets.double())
        outputs = torch.from_numpy(oracle.predict(own.validation[tested].double()))
        right = outputs.argmax(1) == side[own.validation_labels][tested]
        assert one.accuracy == pytest.approx(right.double().mean().item())
        assert 0.6 < one.accuracy <= 1
        phi, answers = own.train[chosen], side[own.train_labels][chosen]
        apart = torch.cdist(own.validation[tested].double(), phi.double())
        nearest = apart.topk(10, largest=False).indices
        votes = answers[nearest].sum(1)  # Of side 1, among ten.
        share = torch.where(votes == 5, 0.5, ((votes > 5) == side[own.validation_labels][tested]))
        truth = side[own.validation_labels][tested]
        balanced = torch.stack([share[truth == each].double().mean() for each in (0, 1)]).mean()
        assert one.knn == pytest.approx(balanced.item(), abs=1e-9)
        assert (one.interval is not None) == few
        if one.interval is not None:
            low, high = one.interval
            assert low < high
            assert low < one.score + (high - low)
        assert (one.reason, one.message) == (None, None)
    last = found.ranked[2]
    assert (last.accuracy, last.interval, last.reason) == (None, None, None)


def test_why_there_is_no_accuracy_is_said(
    shared: tuple[Registry, Three], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, _ = shared
    ranked = registry.advice.rank(parse_task("cat, dog"), info(), top=2).ranked
    assert [one.reason for one in ranked] == ["features", "features", None]
    assert "are not in the cache any more" in (ranked[0].message or "")
    train, (phi, labels) = features(0, 80), features(1, 80)
    ships = labels == 3
    kept = Kept(*train, phi[ships], labels[ships])
    monkeypatch.setattr(ranking, "measured_features", lambda *_: kept)
    ranked = registry.advice.rank(parse_task("cat, dog"), info()).ranked
    assert len(ranked) == 3
    for one in ranked:
        assert (one.accuracy, one.reason) == (None, "score")
        assert "no held-out examples" in (one.message or "")


@pytest.mark.home("one")
def test_the_modules_own_task_is_known_by_its_facts(
    registry: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    (record,) = records
    made = ModuleMoments(record.id, class_moments(0), class_moments(1), 0.1)
    write_moments(tmp_path / "own", made)
    registry.moments.store(record, tmp_path / "own")

    def own(task: Task, **changes: object) -> bool:
        (one,) = registry.advice.rank(task, info(**changes)).ranked
        assert one.fitted == (changes["name"] == FACTS.name)
        return one.own

    whole = {"name": FACTS.name, "classes": FACTS.classes, "fingerprint": FACTS.fingerprint}
    assert own(Task.of_classes(FACTS.classes), **whole)
    assert own(Task.of_classes(reversed(FACTS.classes)), **whole)
    assert not own(Task.of_classes(FACTS.classes[:2]), **whole)
    assert not own(parse_task("0=0+2, 1"), **whole)
    more = ("0", "1", "2", "3")
    train, validation = (class_moments(seed, BASE, more) for seed in (0, 1))
    write_moments(tmp_path / "more", ModuleMoments(record.id, train, validation, 0.1))
    registry.moments.store(record, tmp_path / "more")
    part = {"name": FACTS.name, "classes": more, "fingerprint": BASE}
    assert own(Task.of_classes(FACTS.classes), **part)
    assert not own(Task.of_classes(more), **part)
    assert not own(Task.of_classes(FACTS.classes), **part | {"name": "cifar10"})


@pytest.mark.parametrize("name", ["digits", "image_folder", "arrays", "mine:digits"])
def test_the_name_of_a_folder_or_a_file_does_not_tell_what_is_in_it(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    spec, module = make_hidden(("stem",), (1, 8, 8), PREPROCESSING.id)
    facts = FACTS.changed(name=name, classes=("cat", "deer"))
    spec = spec.changed(dataset=facts)
    record = store_one(registry, write_module(tmp_path / name, spec, module.state_dict()))
    keep(registry, record, tmp_path)
    known = name == "digits"
    for text, own, fitted in [
        ("cat, deer", known, known),
        ("pet=cat+dog, ship", False, known),
        ("dog, ship", False, False),
    ]:
        (one,) = registry.advice.rank(parse_task(text), info(name=name)).ranked
        assert (one.own, one.fitted) == (own, fitted)


def test_ranking_changes_nothing_that_other_threads_could_see(
    shared: tuple[Registry, Three], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, _ = shared
    seen = []

    def look() -> None:
        seen.append((torch.get_num_threads(), gc.isenabled()))

    def scoring(*arguments: Any) -> Tensor:
        other = threading.Thread(target=look)  # a new thread takes the process's settings
        other.start()
        other.join()
        return score_tasks(*arguments)

    monkeypatch.setattr(ranking, "score_tasks", scoring)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        registry.advice.rank(parse_task("cat, dog"), info())
        look()
        assert seen == [(2, True)] * 4
    finally:
        torch.set_num_threads(threads)
