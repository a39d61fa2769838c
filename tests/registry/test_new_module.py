"""Evidence of a new module: networks trained for their task, and the own tasks of studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from modkernel.modules.stored import write_module
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.advice.evidence import gathered
from modkernel.reuse.task import Task, parse_task
from tests.modkernel.helpers.stored_examples import FACTS, make_hidden
from tests.registry.helpers.examples import EVALUATION, Examples, store_chain, store_one
from tests.registry.test_advice import info
from tests.registry.test_ground_truths import truth_of, written

TASK = parse_task("cat, dog, ship")


def trained(registry: Registry, examples: Examples, seed: int, name: str) -> ModuleRecord:
    """A network of one hidden module and an output module, both trained on the same data."""
    first = examples.first(seed)
    records = store_chain(registry, (first, examples.output(first)), name)
    registry.networks.add(name, [one.id for one in records], EVALUATION)
    return records[0]


def test_networks_and_studies_tell_what_a_new_module_would_reach(
    registry: Registry, examples: Examples, tmp_path: Path
) -> None:
    asked = info(train_counts=(50,) * 4)
    for seed in range(4):
        below = trained(registry, examples, seed, f"net-{seed}")
    found = registry.advice.new_module(TASK, asked, 0.5)
    assert (found.tasks, found.verdict, found.balanced_accuracy) == (4, "unsure", None)
    # Evaluated again, a network counts once.
    again = EVALUATION.changed(accuracy=0.7)
    registry.networks.add("net-3", [one.id for one in registry.networks.members(
        registry.networks.resolve("net-3"))], again)  # fmt: skip
    assert len(gathered(registry.backends)) == 4
    # Reuse is no evidence: its output module stands on one that other data trained.
    spec, module = make_hidden(("layer1.0",), (2, 8, 8), below.id)
    other = write_module(
        tmp_path / "other",
        spec.changed(dataset=FACTS.changed(fingerprint="c" * 64)),
        module.state_dict(),
    )
    reused = store_chain(registry, (other, examples.output(other)), "reused")
    registry.networks.add("reused", [below.id, *(one.id for one in reused)], EVALUATION)
    assert len(gathered(registry.backends)) == 4
    # A study's module, evaluated on its own task of two classes.
    studied = store_one(registry, examples.first(9), "studied.hidden-1")
    truth = truth_of(studied, 0.85)
    data = truth.spec.changed(fingerprint=FACTS.fingerprint)
    registry.ground_truths.store(written(tmp_path / "truth.json", truth.changed(spec=data)))
    found = registry.advice.new_module(TASK, asked, 0.5)
    assert (found.tasks, found.verdict, found.same_data) == (5, "train", False)
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
