"""Which stored module to build on for a task: ranked from stored moments, nothing is trained.

A module's moments of the whole data set answer for every choice and grouping of its classes. What
costs time here is reading and hashing files and one small eigenvalue problem a module.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from sqlalchemy import and_, select
from sqlalchemy.orm import defer
from torch import Tensor

from modkernel.data import DATASETS, DatasetInfo
from modkernel.errors import ArtifactError, MomentsError, ScoreError
from modkernel.features.measure import MeasuredFeatures, measured_features
from modkernel.registry.backends import Backends, feature_cache
from modkernel.registry.beside.examples import SeenExamples
from modkernel.registry.beside.moments import StoredMoments, none_of
from modkernel.registry.records import (
    Advice,
    LeftOut,
    ModuleRecord,
    MomentsRecord,
    NoAccuracy,
    Ranked,
)
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import ModuleRow, MomentsRow
from modkernel.reuse.moments import ClassMoments
from modkernel.reuse.scores import DEFAULT_SCORE, bootstrap, head_confusion, ridge_head, score_tasks
from modkernel.reuse.scores.tasks import moment_score
from modkernel.reuse.task import Task
from modkernel.spec import DatasetFacts, Preprocessing
from modkernel.training.evaluation import Evaluation, evaluation_from, worst_of

FEW_EXAMPLES = 200
"""Training examples of a task up to which a score depends on which ones they are: on 200 examples
the accuracy of anything is known to a few points only, and so is a score."""
LARGE_BYTES = 1 << 20
"""Of a file of moments from which on several threads help: they work outside the interpreter."""
FILES = ("image_folder", "arrays", "table", "huggingface")
"""Data sets whose name does not tell what is in them."""
_Measured = tuple[ModuleRecord, MomentsRecord, tuple[DatasetFacts, ...]]


@dataclass(frozen=True)
class _Question:
    task: Task
    data: DatasetInfo
    score: str


@dataclass(frozen=True)
class _Scored:
    record: ModuleRecord
    stored: MomentsRecord
    score: float
    facts: tuple[DatasetFacts, ...]
    """What it and the modules under it were trained on, its own first."""


@dataclass(frozen=True)
class _Look:
    """What the cached features of a module tell."""

    interval: tuple[float, float] | None = None
    evaluation: Evaluation | None = None
    reason: NoAccuracy | None = None
    message: str | None = None
    seen: int = 0
    fitted: bool = False


@dataclass(frozen=True)
class Adviser:
    """Ranks modules. Raises StoreError where the database or MLflow fails."""

    backends: Backends
    moments: StoredMoments
    examples: SeenExamples

    def rank(
        self, task: Task, data: DatasetInfo, score: str = DEFAULT_SCORE, *, top: int = 10
    ) -> Advice:
        """Rank every stored hidden module for a task, from stored moments, without training.

        A module is left out where its chain takes other examples than those of the data
        ('interface'), where it has no moments of the data ('moments'), or where the score is
        undefined for it ('score').

        Args:
            task: A choice or grouping of the classes of `data`.
            data: The whole data set: moments are stored by its fingerprint. MLflow is read only
                for moments that are not in the private cache.
            score: Name of a score that is computed from moments.
            top: How many of the best get an accuracy, and with at most `FEW_EXAMPLES` an
                interval, if their features are still cached.

        Raises:
            UnknownNameError: there is no such score.
            ScoreError: the score is not computed from moments.
            ClassError: the task does not fit the classes of the data.
        """
        moment_score(score)
        task.assign(data.classes)
        question = _Question(task, data, score)
        measured, left_out = self._sorted_out(data)
        scored = []
        for outcome in self._score_all(measured, question):
            if isinstance(outcome, LeftOut):
                left_out.append(outcome)
            else:
                scored.append(outcome)
        scored.sort(key=lambda one: -one.score)
        return Advice(
            task=task,
            dataset=data.name,
            fingerprint=data.fingerprint,
            score=score,
            ranked=tuple(
                self._ranked(one, question, closely=place < top) for place, one in enumerate(scored)
            ),
            left_out=tuple(left_out),
        )

    def _sorted_out(self, data: DatasetInfo) -> tuple[list[_Measured], list[LeftOut]]:
        """The modules that can be scored on some data, and the others."""
        measured, left_out = [], []
        modules = self._hidden_modules(data.fingerprint)
        records = {record.id: record for record, _ in modules}
        for record, stored in modules:
            if not _takes(record.spec.preprocessing, data.preprocessing):
                left_out.append(LeftOut(module=record, reason="interface", message=_other(record)))
            elif stored is None:
                message = none_of(record, f"'{data.name}'")
                left_out.append(LeftOut(module=record, reason="moments", message=message))
            else:
                measured.append((record, stored, _facts(record, records)))
        return measured, left_out

    def _hidden_modules(self, fingerprint: str) -> list[tuple[ModuleRecord, MomentsRecord | None]]:
        """All ready hidden modules by name and age, with their moments of the data."""
        query = (
            select(ModuleRow, MomentsRow)
            .outerjoin(
                MomentsRow,
                and_(MomentsRow.module_id == ModuleRow.id, MomentsRow.fingerprint == fingerprint),
            )
            .where(ModuleRow.kind != "output", ModuleRow.state == "READY")
            .order_by(ModuleRow.name, ModuleRow.created_at)
            .options(defer(ModuleRow.report))
        )
        with self.backends.database.reading() as session:
            return [
                (queries.record_of(module), None if row is None else StoredMoments.record_of(row))
                for module, row in session.execute(query)
            ]

    def _score_all(
        self, measured: Sequence[_Measured], question: _Question
    ) -> Iterable[_Scored | LeftOut]:
        def score(one: _Measured) -> _Scored | LeftOut:
            record, stored, facts = one
            try:
                found = self.moments.read(record, stored)
                tasks, names = [question.task], [question.score]
                value = score_tasks(found.train, tasks, names, found.validation)
            except (ArtifactError, MomentsError) as error:
                return LeftOut(module=record, reason="moments", message=str(error))
            except ScoreError as error:
                return LeftOut(module=record, reason="score", message=str(error))
            return _Scored(record, stored, float(value[0, 0]), facts)

        if all(stored.size_bytes < LARGE_BYTES for _, stored, _ in measured):
            return map(score, measured)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(score, measured))

    def _ranked(self, one: _Scored, question: _Question, closely: bool) -> Ranked:
        """A scored module; looked at closely, with what its cached features tell."""
        look = self._look_closely(one, question) if closely else _Look()
        task, data, found = question.task, question.data, look.evaluation
        return Ranked(
            module=one.record,
            score=one.score,
            interval=look.interval,
            accuracy=None if found is None else found.accuracy,
            balanced_accuracy=None if found is None else found.balanced_accuracy,
            worst_class=None if found is None else worst_of(found, list(task.groups)),
            reason=look.reason,
            message=look.message,
            own=_is_own(one.facts[0], task, data),
            seen=look.seen,
            fitted=look.fitted or any(_is_fitted(facts, task, data) for facts in one.facts),
        )

    def _look_closely(self, one: _Scored, question: _Question) -> _Look:
        data = question.data
        cache = feature_cache(self.backends.settings)
        features = measured_features(cache, one.record.id, data.fingerprint)
        if features is None:
            return _Look(reason="features", message=_not_cached(one.record))
        side = question.task.assign(data.classes)
        trained = self._trained_on(one.facts, data.fingerprint)
        fitted = _known(features.train_digests, side[features.train_labels] >= 0, trained)
        answers = side[features.validation_labels]
        seen = _known(features.validation_digests, answers >= 0, trained)
        found = _Look(seen=len(seen), fitted=len(fitted) > 0)
        try:
            grouped = self.moments.read(one.record, one.stored).train.grouped(question.task)
            found = replace(found, interval=_interval(grouped, features, question))
            if any(self._saw_pairs(facts, data) for facts in one.facts):
                return replace(found, reason="pairs", message=_saw_pairs(one.record))
            if len(seen) and len(seen) == int((answers >= 0).sum()):
                return replace(found, reason="seen", message=_saw_all(one.record))
            weight, bias = ridge_head(grouped)
            answers[seen] = -1
            confusion = head_confusion(weight, bias, features.validation, answers)
            return replace(found, evaluation=evaluation_from(confusion))
        except (ArtifactError, MomentsError, ScoreError) as error:
            return replace(found, reason="score", message=str(error))

    def _trained_on(self, chain: Iterable[DatasetFacts], fingerprint: str) -> np.ndarray:
        """Digests of what a chain was trained on as part of other data sets, where it is known."""
        others = {facts for facts in chain if facts.fingerprint != fingerprint}
        known = [self.examples.of(facts) for facts in others]
        return np.concatenate(
            [np.empty(0, np.int64), *(digests for digests, _ in filter(None, known))]
        )

    def _saw_pairs(self, facts: DatasetFacts, data: DatasetInfo) -> bool:
        """Whether a list of pairs let a module see validation examples that cannot be told."""
        return facts.saw_validation(data.name, data.fingerprint) and (
            facts.fingerprint == data.fingerprint or self.examples.of(facts) is None
        )


def _known(digests: Tensor | None, of_task: Tensor, trained: np.ndarray) -> Tensor:
    """Positions of the task's examples that are among those trained on."""
    if digests is None:
        return torch.empty(0, dtype=torch.int64)
    return (torch.from_numpy(np.isin(digests.numpy(), trained)) & of_task).nonzero().flatten()


def _facts(record: ModuleRecord, records: Mapping[str, ModuleRecord]) -> tuple[DatasetFacts, ...]:
    """What data a module and all that it stands on were trained on."""
    facts: list[DatasetFacts] = []
    seen, waiting = set(), [record]
    while waiting:
        one = waiting.pop()
        if one.id not in seen:
            seen.add(one.id)
            facts.extend(one.spec.learnt_from)
            waiting += [records[name] for name in one.spec.interface.stands_on if name in records]
    return tuple(facts)


def _takes(wanted: Preprocessing, found: Preprocessing) -> bool:
    same_columns = None in (wanted.columns, found.columns) or wanted.columns == found.columns
    return (wanted.shape, wanted.dtype) == (found.shape, found.dtype) and same_columns


def _other(record: ModuleRecord) -> str:
    wanted = record.spec.preprocessing
    remedy = ""
    if len(wanted.shape) == 3:
        channels, height, width = wanted.shape
        size = f"{height}" if height == width else f"{height}x{width}"
        remedy = f"; --image-size {size} --channels {channels} makes images so"
    return (
        f"Module {record.short_id} ({record.name}) takes examples of shape "
        f"{'×'.join(map(str, wanted.shape))}, {wanted.dtype}{remedy}."
    )


def _interval(
    grouped: ClassMoments, features: MeasuredFeatures, question: _Question
) -> tuple[float, float] | None:
    if grouped.examples > FEW_EXAMPLES or moment_score(question.score).needs != "moments":
        return None
    side = question.task.assign(question.data.classes)
    return bootstrap(features.train, side[features.train_labels], grouped.classes, question.score)


def _not_cached(record: ModuleRecord) -> str:
    return (
        f"The measured features of module {record.short_id} ({record.name}) are not in the cache "
        "any more: 'modkernel advise' without --stored-only computes them again."
    )


def _saw_pairs(record: ModuleRecord) -> str:
    return (
        f"Module {record.short_id} ({record.name}), or one under it, was trained on a list of "
        "pairs of these data, which is over the held-out examples too."
    )


def _saw_all(record: ModuleRecord) -> str:
    return (
        f"Module {record.short_id} ({record.name}), or one under it, was trained on all of the "
        "held-out examples, as part of another data set."
    )


def _is_own(facts: DatasetFacts, task: Task, data: DatasetInfo) -> bool:
    """Whether a module was trained on the task itself, as far as its facts tell.

    They name the data set, its content by a fingerprint, and the classes. A part of a data set has
    a fingerprint of its own, so a part is known by the data set's name, where that tells what is
    in it, and the names of its classes; who grouped other classes under the same names is taken
    for the same.
    """
    sides = set(task.groups)
    if sides == set(task.classes) == set(data.classes):
        return facts.fingerprint == data.fingerprint
    return _is_named(facts, data) and set(facts.classes) == sides


def _is_fitted(facts: DatasetFacts, task: Task, data: DatasetInfo) -> bool:
    """Whether a module was trained on examples of the task, as far as its facts tell.

    Of classes that were joined under another name it is not known which they were: then yes.
    """
    if facts.fingerprint == data.fingerprint:
        return True
    others = set(data.classes) - set(task.classes)
    return _is_named(facts, data) and not others.issuperset(facts.classes)


def _is_named(facts: DatasetFacts, data: DatasetInfo) -> bool:
    """Whether both are of one data set that everybody has alike."""
    return facts.name == data.name and data.name in DATASETS and data.name not in FILES
