"""Evidence of a new module: networks trained for their task, and the own tasks of studies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modkernel.data import ExampleDigests
from modkernel.modules.stored import StoredModule, stored_weights, write_module
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.advice import evidence
from modkernel.registry.advice.evidence import _evidence, _is_chain, _newest, gathered
from modkernel.registry.beside.examples import SeenExamples
from modkernel.reuse import new_module
from modkernel.reuse.new_module import Evidence
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import DatasetFacts, HiddenSpec, Recipe, Upstream
from tests.modkernel.helpers.stored_examples import FACTS, make_hidden
from tests.registry.helpers.examples import EVALUATION, Examples, store_chain, store_one
from tests.registry.test_advice import BASE, info
from tests.registry.test_ground_truths import truth_of, written

TASK = parse_task("cat, dog, ship")
REPORT = json.dumps({"examples": 100, "device": "cpu"})


def on_data(stored: StoredModule, facts: DatasetFacts) -> StoredModule:
    """A module of the same weights that was trained on other data."""
    changed = stored.spec.changed(dataset=facts)
    name = f"{stored.folder.name}-{changed.digest()[:6]}"
    return write_module(stored.folder.with_name(name), changed, stored_weights(stored))


def trained(
    registry: Registry, examples: Examples, seed: int, name: str, facts: DatasetFacts = FACTS
) -> ModuleRecord:
    """A network of one hidden module and an output module, both trained on the same data."""
    first = on_data(examples.first(seed), facts)
    records = store_chain(registry, (first, on_data(examples.output(first), facts)), name)
    registry.networks.add(name, [one.id for one in records], EVALUATION)
    return records[0]


def test_networks_and_studies_tell_what_a_new_module_would_reach(
    registry: Registry, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_module, "FEWEST", 3)
    asked = info(train_counts=(50,) * 4)
    for seed in range(2):
        facts = FACTS.changed(fingerprint=f"{seed + 1}" * 64)
        below = trained(registry, examples, seed, f"net-{seed}", facts)
    found = registry.advice.new_module(TASK, asked, 0.5)
    assert (found.tasks, found.verdict, found.balanced_accuracy) == (2, "unsure", None)
    # Evaluated again, a network counts once.
    again = EVALUATION.changed(accuracy=0.7)
    registry.networks.add("net-1", [one.id for one in registry.networks.members(
        registry.networks.resolve("net-1"))], again)  # fmt: skip
    assert len(gathered(registry.backends)) == 2
    # Reuse is no evidence: its output module stands on one that other data trained.
    spec, module = make_hidden(("layer1.0",), (2, 8, 8), below.id)
    other = write_module(
        tmp_path / "other",
        spec.changed(dataset=FACTS.changed(fingerprint="c" * 64)),
        module.state_dict(),
    )
    reused = store_chain(registry, (other, examples.output(other)), "reused")
    registry.networks.add("reused", [below.id, *(one.id for one in reused)], EVALUATION)
    assert len(gathered(registry.backends)) == 2
    # A study's module, evaluated on its own task of two classes.
    studied = store_one(registry, examples.first(9), "studied.hidden-1")
    truth = truth_of(studied, 0.85)
    data = truth.spec.changed(fingerprint=FACTS.fingerprint)
    registry.ground_truths.store(written(tmp_path / "truth.json", truth.changed(spec=data)))
    found = registry.advice.new_module(TASK, asked, 0.5)
    assert (found.tasks, found.verdict, found.same_data) == (3, "train", False)
    assert found.interval is not None
    low, high = found.interval
    # 0.85 of two classes is 0.7 of the way from a guess to all right.
    assert (low, high) == pytest.approx((1 / 3 + 0.7 * 2 / 3, 0.9))
    assert found.balanced_accuracy == pytest.approx(0.9)
    assert found.seconds == pytest.approx(1.5 * 150 / 100)
    assert registry.advice.new_module(TASK, asked, 0.95).verdict == "reuse"
    assert registry.advice.new_module(TASK, asked, None).verdict == "unsure"


def test_what_was_trained_for_other_data_is_no_evidence(
    registry: Registry, examples: Examples, tmp_path: Path
) -> None:
    record = store_one(registry, examples.first(), "one.hidden-1")

    def store(own: Task, *others: Task) -> None:
        truth = truth_of(record)
        spec = truth.spec.changed(own=own, targets=(own, *others), fingerprint="c" * 64)
        figures = dict.fromkeys(
            ("accuracy", "balanced_accuracy", "worst_accuracy"), (0.4,) * (1 + len(others))
        )
        registry.ground_truths.store(
            written(tmp_path / "truth.json", truth.changed(spec=spec, **figures))
        )

    trained_for, other = Task.of_classes(FACTS.classes), Task.of_classes(("x", "y"))
    # As promote-module of former versions left it on other data, of whatever classes.
    store(other)
    store(trained_for)
    store(other, trained_for)
    assert gathered(registry.backends) == []
    # A study trains for one of several targets, on a part of what it evaluates on.
    store(trained_for, other)
    assert [one.accuracy for one in gathered(registry.backends)] == [0.4]


def test_seeds_of_one_task_count_once_and_files_are_told_apart_by_their_content(
    registry: Registry, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2):
        record = trained(registry, examples, seed, f"net-{seed}")
    (one,) = gathered(registry.backends)
    assert one.dataset == "digits", "a name that says what is in it"
    folders = [
        evidence_of(with_spec(record, dataset=FACTS.changed(name="image_folder", fingerprint=data)))
        for data in ("a" * 64, "b" * 64)
    ]
    assert [each.dataset for each in folders] == ["a" * 64, "b" * 64]
    assert {(each.recipe, each.digest) for each in folders} == {(one.recipe, one.digest)}
    asked = list[str]()
    monkeypatch.setattr(evidence, "forecast", lambda _, known_by, *__: asked.append(known_by) or 0)
    for name in ("image_folder", "digits"):
        registry.advice.new_module(TASK, info(name=name), 0.5)
    assert asked == [BASE, "digits"]


def test_data_that_grow_are_one_task(registry: Registry, examples: Examples) -> None:
    none = np.empty(0, np.int64)

    def week(number: int, rows: range, **changes: object) -> DatasetFacts:
        facts = FACTS.changed(name="arrays", fingerprint=f"{number}" * 64, **changes)
        shuffled = np.random.default_rng(number).permutation(np.array(rows))
        registry.examples.remember(ExampleDigests(facts.fingerprint, shuffled, none, none))
        return facts

    weeks = [week(number, range(100 + 50 * number)) for number in range(4)]
    for number, facts in enumerate(weeks[:2]):
        record = trained(registry, examples, number, f"net-{number}", facts)
    assert [one.dataset for one in gathered(registry.backends)] == ["1" * 64], "the newest"

    def counted() -> list[str]:
        found = [_evidence([(with_spec(record, dataset=one), REPORT)], 0.9, 3) for one in weeks]
        kept = _newest([one for (one,) in found], SeenExamples(registry.backends))
        return [one.fingerprint[0] for one in kept]

    assert counted() == ["3"]
    weeks.append(week(4, range(130, 400)))
    assert counted() == ["3", "4"], "half of the smaller one's examples are not most of them"
    weeks.append(week(5, range(90), classes=("cat", "dog", "other")))
    assert counted() == ["3", "4", "5"], "another task on the same examples"
    weeks.append(week(6, range(90)))
    assert counted() == ["4", "5", "6"], "a part of what was trained on before"
    weeks += [FACTS.changed(name="arrays", fingerprint=unknown * 64) for unknown in "78"]
    assert counted() == ["4", "5", "6", "7", "8"], "whose examples are not known"


def test_recipes_that_differ_in_anything_are_not_mixed(
    registry: Registry, examples: Examples
) -> None:
    first = store_one(registry, examples.first())

    def on(*below: ModuleRecord, **changes: object) -> ModuleRecord:
        upstream = [Upstream(id=one.id) for one in below]
        interface = first.spec.interface.changed(upstream=upstream)
        made = with_spec(first, interface=interface, **changes)
        return made.model_copy(update={"id": made.spec.digest()})

    second = on(first, blocks=("layer1.0",))
    found = [
        evidence_of(first, second),
        evidence_of(first),
        evidence_of(with_spec(first, hidden=HiddenSpec(tail=("layer1.0",)))),
        evidence_of(with_spec(first, hidden=HiddenSpec(recipe=Recipe(batch_size=64)))),
    ]
    assert len({(each.recipe, each.digest) for each in found}) == len(found)
    assert [each.recipe.split(", ")[2] for each in found[:2]] == ["up to layer1.0", "up to stem"]
    # What stands side by side is not what training one gives.
    other = first.model_copy(update={"id": "e" * 64})
    assert _evidence([(one, REPORT) for one in (first, other)], 0.9, 3) == []
    top, joined = on(second), on(first, second)
    assert _is_chain([first, second, top])
    assert not _is_chain([first, second, joined])


def with_spec(record: ModuleRecord, **changes: object) -> ModuleRecord:
    return record.model_copy(update={"spec": record.spec.changed(**changes)})


def evidence_of(*chain: ModuleRecord) -> Evidence:
    (found,) = _evidence([(record, REPORT) for record in chain], 0.9, 3)
    return found.evidence
