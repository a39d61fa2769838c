"""Which stored modules to join for a task: chosen one by one on their cached features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.data import DatasetInfo
from modkernel.errors import InterfaceError, MomentsError, ScoreError, SpecError
from modkernel.features.measure import MeasuredFeatures, held_out, measured_features
from modkernel.kernels import make_kernel
from modkernel.lookup import trusting
from modkernel.modules.cost import Cost, hidden_cost
from modkernel.modules.join import other_examples
from modkernel.registry.advice.records import JoinStep, LeftOut, Together
from modkernel.registry.advice.shelf import Candidate, Shelf, known, not_cached, saw_pairs_of
from modkernel.registry.backends import feature_cache
from modkernel.registry.records import ModuleRecord
from modkernel.reuse.joint import Features, Sample, Step, choose, joint_moments
from modkernel.reuse.scores import reusability
from modkernel.reuse.task import Task
from modkernel.spec import DatasetFacts

NUMBERS = 2**26
"""Features of all candidates together that are chosen on, which bounds time and memory."""
FEWEST_ROWS = 2000
"""Training examples that are always taken, if the task has them."""


@dataclass(frozen=True)
class _Asked:
    task: Task
    data: DatasetInfo
    score: str


def choose_together(shelf: Shelf, task: Task, data: DatasetInfo, most: int, score: str) -> Together:
    """Choose the modules to join for a task, at most so many; see `reuse.joint.choose`.

    A module is left out where it cannot stand beside others ('interface'), where its features of
    these examples are not in the cache ('features'), or where it may have seen the held-out
    examples ('pairs', 'seen').

    Raises:
        ClassError: the task does not fit the classes of the data.
        ScoreError: no module can be joined, or there are too few held-out examples.
    """
    began = time.perf_counter()
    task.assign(data.classes)
    candidates, left_out = shelf.candidates(data)
    usable, sample, of_examples = _usable(shelf, candidates, task, data, left_out)
    cache = feature_cache(shelf.backends.settings)

    def read(place: int) -> Features | None:
        found = measured_features(cache, usable[place].record.id, data.fingerprint)
        return None if found is None else (found.train, found.validation)

    choice = choose(read, len(usable), sample, most)
    left_out += [_gone(usable[place].record) for place in choice.unusable]
    asked, path = _Asked(task, data, score), list[Candidate]()
    steps, parts = [], list[Tensor]()
    for step in (*choice.steps, *([choice.refused] if choice.refused else [])):
        path.append(usable[step.place])
        found = read(step.place)
        parts.append(torch.empty(0, 0) if found is None else found[0][sample.train])
        steps.append(_described(shelf, step, path, parts, sample, asked))
    refused = steps.pop() if choice.refused else None
    return Together(
        task=task,
        dataset=data.name,
        fingerprint=data.fingerprint,
        score=score,
        steps=tuple(steps),
        refused=refused,
        candidates=len(usable),
        examples=len(sample.train),
        of_examples=of_examples,
        judging=len(sample.held_out) - sample.choosing,
        seconds=time.perf_counter() - began,
        left_out=tuple(left_out),
    )


def _usable(
    shelf: Shelf,
    candidates: Sequence[Candidate],
    task: Task,
    data: DatasetInfo,
    left_out: list[LeftOut],
) -> tuple[list[Candidate], Sample, int]:
    """The candidates with features of the same examples, these, and how many for training."""
    cache = feature_cache(shelf.backends.settings)
    side = task.assign(data.classes)
    usable, numbers, first = list[Candidate](), 0, None
    seen: dict[frozenset[DatasetFacts], LeftOut | None] = {}
    for one in candidates:
        misfit = _misfit(one.record, data)
        if misfit is not None:
            left_out.append(LeftOut(module=one.record, reason="interface", message=misfit))
            continue
        found = measured_features(cache, one.record.id, data.fingerprint)
        if found is None or (first is not None and not _same_examples(first, found)):
            left_out.append(_gone(one.record))
            continue
        key = frozenset(one.facts)
        if key not in seen:
            seen[key] = _may_have_seen(shelf, one, found, _held_out(found, side, data), data)
        if (why := seen[key]) is not None:
            left_out.append(why.model_copy(update={"module": one.record}))
            continue
        first = first or found
        usable.append(one)
        numbers += found.train.shape[1]
    if first is None:
        raise ScoreError(
            "There is no stored module to join: no module has features of these data in the "
            "cache and has not seen their held-out examples. 'modkernel advise' without "
            "--stored-only measures those that can be."
        )
    sides = side[first.train_labels]
    rows = max(FEWEST_ROWS, NUMBERS // numbers)
    return usable, Sample.of(sides, _held_out(first, side, data), rows), int((sides >= 0).sum())


def _held_out(found: MeasuredFeatures, side: Tensor, data: DatasetInfo) -> Tensor:
    """The side of each validation example; -1 of those that are trained on as well."""
    sides = side[found.validation_labels]
    sides[~held_out(found, data.n_borrowed)] = -1
    return sides


def _misfit(record: ModuleRecord, data: DatasetInfo) -> str | None:
    """Why a module cannot stand beside others that take the data, if it cannot."""
    name = f"Module {record.short_id} ({record.name})"
    differing = other_examples(record.spec.preprocessing, data.preprocessing)
    if differing is not None:
        return f"{name} and '{data.name}' {differing}"
    if not make_kernel(record.spec.interface.kernel).has_features:
        return f"{name} has a kernel without features to lie beside those of others."
    return None


def _same_examples(one: MeasuredFeatures, other: MeasuredFeatures) -> bool:
    return torch.equal(one.train_labels, other.train_labels) and torch.equal(
        one.validation_labels, other.validation_labels
    )


def _may_have_seen(
    shelf: Shelf, one: Candidate, found: MeasuredFeatures, sides: Tensor, data: DatasetInfo
) -> LeftOut | None:
    """Why a module's held-out figures would flatter it, if they would."""
    if shelf.saw_pairs(one.facts, data):
        return LeftOut(module=one.record, reason="pairs", message=saw_pairs_of(one.record))
    trained = shelf.trained_on(one.facts, data.fingerprint)
    count = len(known(found.validation_digests, sides >= 0, trained))
    if not count:
        return None
    return LeftOut(
        module=one.record,
        reason="seen",
        message=f"Module {one.record.short_id} ({one.record.name}), or one under it, was trained "
        f"on {count} of the held-out examples, as part of another data set.",
    )


def _gone(record: ModuleRecord) -> LeftOut:
    return LeftOut(module=record, reason="features", message=not_cached(record))


def _described(
    shelf: Shelf,
    step: Step,
    path: Sequence[Candidate],
    parts: Sequence[Tensor],
    sample: Sample,
    asked: _Asked,
) -> JoinStep:
    """A step with the score of the joint features, and what they cost at prediction."""
    value = None
    # Some scores want rows of length one, and moments of many features are too large.
    with suppress(ScoreError, MomentsError):
        moments = joint_moments(
            parts, sample.train_sides, asked.task.groups, asked.data.fingerprint
        )
        value = reusability(moments, score=asked.score)
    cost = _cost(shelf, path)
    return JoinStep(
        module=path[-1].record,
        balanced_accuracy=step.accuracy,
        gain=step.gain,
        gain_error=step.gain_error,
        explained=step.explained,
        brings=step.brings,
        score=value,
        features=step.features,
        parameters=None if cost is None else cost.parameters,
        multiply_adds=None if cost is None else cost.multiply_adds,
        seconds=step.seconds,
    )


def _cost(shelf: Shelf, path: Sequence[Candidate]) -> Cost | None:
    """Of all modules under the joint features, one that several stand on once."""
    modules = {record.id: record for one in path for record in one.chain}
    total = Cost(0, 0, 0)
    with trusting(shelf.backends.settings.trusted_packages):
        for record in modules.values():
            if record.spec.kind == "output":
                return None
            try:
                total += hidden_cost(record.id, record.spec)
            except (SpecError, InterfaceError):
                return None
    return total
