"""Which stored module to build on for a task: ranked from stored moments, nothing is trained.

A module's moments of the whole data set answer for every choice and grouping of its classes. What
costs time here is reading and hashing files and one small eigenvalue problem a module.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from sqlalchemy import and_, select
from sqlalchemy.orm import defer

from modkernel.data import DATASETS, DatasetInfo
from modkernel.errors import ArtifactError, MomentsError, ScoreError
from modkernel.features.measure import MeasuredFeatures, measured_features
from modkernel.registry import moments
from modkernel.registry.backends import Stores, feature_cache
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
from modkernel.reuse.scores import DEFAULT_SCORE, bootstrap, head_accuracy, ridge_head, score_tasks
from modkernel.reuse.scores.tasks import moment_score
from modkernel.reuse.task import Task
from modkernel.spec import DatasetFacts, Preprocessing

FEW_EXAMPLES = 200
"""Training examples of a task up to which a score depends on which ones they are: on 200 examples
the accuracy of anything is known to a few points only, and so is a score."""
LARGE_BYTES = 1 << 20
"""Of a file of moments from which on several threads help: they work outside the interpreter."""
FILES = ("image_folder", "arrays")
"""Data sets whose name does not tell what is in them."""
_ranking = threading.Lock()
_Measured = tuple[ModuleRecord, MomentsRecord, tuple[DatasetFacts, ...]]


@dataclass(frozen=True)
class _Question:
    task: Task
    data: DatasetInfo
    score: str


@dataclass(frozen=True)
class _Scored:
    record: ModuleRecord
    there: MomentsRecord
    score: float
    facts: tuple[DatasetFacts, ...]
    """What it and the modules under it were trained on, its own first."""


def rank_for_task(
    stores: Stores,
    task: Task,
    data: DatasetInfo,
    score: str = DEFAULT_SCORE,
    *,
    top: int = 10,
) -> Advice:
    """Rank every stored hidden module for a task.

    A module is left out where its chain takes other examples than those of the data ('interface'),
    where it has no moments of the data ('moments'), or where the score is undefined for it
    ('score').

    Args:
        stores: Both stores; MLflow is asked only for moments that are not in the private cache.
        task: A choice or grouping of the classes of `data`.
        data: The whole data set: moments are kept by its fingerprint.
        score: Name of a score that is computed from moments.
        top: How many of the best get an accuracy, and with at most `FEW_EXAMPLES` an interval,
            if their features are still kept.

    Raises:
        UnknownNameError: there is no such score.
        ScoreError: the score is not computed from moments.
        ClassError: the task does not fit the classes of the data.
    """
    moment_score(score)
    task.assign(data.classes)
    with _undisturbed():
        return _answer(stores, _Question(task, data, score), top)


def _answer(stores: Stores, asked: _Question, top: int) -> Advice:
    data = asked.data
    left_out, measured = [], []
    modules = _hidden_modules(stores, data.fingerprint)
    records = {record.id: record for record, _ in modules}
    for record, there in modules:
        if not _takes(record.spec.preprocessing, data.preprocessing):
            left_out.append(LeftOut(module=record, reason="interface", message=_other(record)))
        elif there is None:
            message = moments.none_of(record, f"'{data.name}'")
            left_out.append(LeftOut(module=record, reason="moments", message=message))
        else:
            measured.append((record, there, _facts(record, records)))
    scored = []
    for outcome in _score_all(stores, measured, asked):
        if isinstance(outcome, LeftOut):
            left_out.append(outcome)
        else:
            scored.append(outcome)
    scored.sort(key=lambda one: -one.score)
    return Advice(
        task=asked.task,
        dataset=data.name,
        fingerprint=data.fingerprint,
        score=asked.score,
        ranked=tuple(
            _ranked(stores, one, asked, closely=place < top) for place, one in enumerate(scored)
        ),
        left_out=tuple(left_out),
    )


def _hidden_modules(
    stores: Stores, fingerprint: str
) -> list[tuple[ModuleRecord, MomentsRecord | None]]:
    """All ready hidden modules by name and age, with their moments of the data, in one query."""
    query = (
        select(ModuleRow, MomentsRow)
        .outerjoin(
            MomentsRow,
            and_(MomentsRow.module_id == ModuleRow.id, MomentsRow.fingerprint == fingerprint),
        )
        .where(ModuleRow.kind == "hidden", ModuleRow.state == "READY")
        .order_by(ModuleRow.name, ModuleRow.created_at)
        .options(defer(ModuleRow.report))
    )
    with stores.database.reading() as session:
        return [
            (queries.record_of(module), None if row is None else moments.record_of(row))
            for module, row in session.execute(query)
        ]


def _facts(record: ModuleRecord, records: Mapping[str, ModuleRecord]) -> tuple[DatasetFacts, ...]:
    facts, below = [], record
    while True:
        facts.append(below.spec.dataset)
        found = records.get(below.spec.interface.upstream)
        if found is None:
            return tuple(facts)
        below = found


def _takes(wanted: Preprocessing, found: Preprocessing) -> bool:
    return (wanted.shape, wanted.dtype) == (found.shape, found.dtype)


def _other(record: ModuleRecord) -> str:
    wanted = record.spec.preprocessing
    remedy = ""
    if len(wanted.shape) == 3:
        channels, height, _ = wanted.shape
        remedy = f"; --image-size {height} --channels {channels} makes images so"
    return (
        f"Module {record.short_id} ({record.name}) takes examples of shape "
        f"{'×'.join(map(str, wanted.shape))}, {wanted.dtype}{remedy}."
    )


def _score_all(
    stores: Stores, measured: Sequence[_Measured], asked: _Question
) -> list[_Scored | LeftOut]:
    def score(one: _Measured) -> _Scored | LeftOut:
        record, there, facts = one
        try:
            found = moments.load(stores, record, there)
            value = score_tasks(found.train, [asked.task], [asked.score], found.validation)
        except (ArtifactError, MomentsError) as error:
            return LeftOut(module=record, reason="moments", message=str(error))
        except ScoreError as error:
            return LeftOut(module=record, reason="score", message=str(error))
        return _Scored(record, there, float(value[0, 0]), facts)

    if all(there.size_bytes < LARGE_BYTES for _, there, _ in measured):
        return list(map(score, measured))
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(score, measured))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without what takes longer than the work when a thousand small problems are solved in a row.

    Torch's own threads would share each of them and wait for one another. The garbage collector
    would look at all that torch and MLflow have imported, a quarter of a second each time. Both
    belong to the whole process, so one ranks at a time.
    """
    with _ranking:
        threads, collects = torch.get_num_threads(), gc.isenabled()
        gc.disable()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if collects:
                gc.enable()


def _ranked(stores: Stores, one: _Scored, asked: _Question, closely: bool) -> Ranked:
    """A scored module; looked at closely, with what its kept features tell."""
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    reason: NoAccuracy | None = None
    message: str | None = None
    data = asked.data
    if closely:
        cache = feature_cache(stores.settings)
        features = measured_features(cache, one.record.id, data.fingerprint)
        if features is None:
            reason, message = "features", _not_kept(one.record)
        else:
            try:
                grouped = moments.load(stores, one.record, one.there).train.grouped(asked.task)
                interval = _interval(grouped, features, asked)
                if any(facts.saw_validation(data.name, data.fingerprint) for facts in one.facts):
                    reason, message = "pairs", _saw_pairs(one.record)
                else:
                    accuracy = _accuracy(grouped, features, asked)
            except (ArtifactError, MomentsError, ScoreError) as error:
                reason, message = "score", str(error)
    return Ranked(
        module=one.record,
        score=one.score,
        interval=interval,
        accuracy=accuracy,
        reason=reason,
        message=message,
        own=_is_own(one.facts[0], asked.task, data),
        fitted=any(_is_fitted(facts, asked.task, data) for facts in one.facts),
    )


def _accuracy(grouped: ClassMoments, features: MeasuredFeatures, asked: _Question) -> float:
    side = asked.task.assign(asked.data.classes)
    weight, bias = ridge_head(grouped)
    return head_accuracy(weight, bias, features.validation, side[features.validation_labels])


def _interval(
    grouped: ClassMoments, features: MeasuredFeatures, asked: _Question
) -> tuple[float, float] | None:
    if grouped.examples > FEW_EXAMPLES or moment_score(asked.score).needs != "moments":
        return None
    side = asked.task.assign(asked.data.classes)
    return bootstrap(features.train, side[features.train_labels], grouped.classes, asked.score)


def _not_kept(record: ModuleRecord) -> str:
    return (
        f"The measured features of module {record.short_id} ({record.name}) are not in the cache "
        "any more: 'modkernel advise' without --stored-only computes them again."
    )


def _saw_pairs(record: ModuleRecord) -> str:
    return (
        f"Module {record.short_id} ({record.name}), or one under it, was trained on a list of "
        "pairs of these data, which is over the held-out examples too."
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
