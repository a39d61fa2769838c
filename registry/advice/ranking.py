"""Which stored module to build on for a task: ranked from stored moments, nothing is trained.

A module's moments of the whole data set answer for every choice and grouping of its classes. What
costs time here is reading and hashing files and one small eigenvalue problem a module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from modkernel.data import DatasetInfo
from modkernel.errors import ArtifactError, MomentsError, ScoreError
from modkernel.features.measure import (
    MeasuredFeatures,
    held_out,
    held_out_moments,
    measured_features,
)
from modkernel.registry.advice.evidence import new_module
from modkernel.registry.advice.records import (
    Advice,
    LeftOut,
    NewModule,
    NoAccuracy,
    Ranked,
    Together,
)
from modkernel.registry.advice.shelf import (
    Shelf,
    everybody_has_alike,
    known,
    not_cached,
    saw_pairs_of,
)
from modkernel.registry.advice.together import choose_together
from modkernel.registry.backends import Backends, feature_cache
from modkernel.registry.beside.examples import SeenExamples
from modkernel.registry.beside.moments import StoredMoments, none_of
from modkernel.registry.records import ModuleRecord, MomentsRecord
from modkernel.reuse.moments import ClassMoments
from modkernel.reuse.scores import (
    DEFAULT_SCORE,
    bootstrap,
    head_confusion,
    knn,
    ridge_head,
    score_tasks,
)
from modkernel.reuse.scores.tasks import moment_score
from modkernel.reuse.task import Task
from modkernel.spec import DatasetFacts
from modkernel.system.limits import usable_cores
from modkernel.training.evaluation import Evaluation, evaluation_from, worst_of

FEW_EXAMPLES = 200
"""Training examples of a task up to which a score depends on which ones they are: on 200 examples
the accuracy of anything is known to a few points only, and so is a score."""
LARGE_BYTES = 1 << 20
"""Of a file of moments from which on several threads help: they work outside the interpreter."""
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
    knn: float | None = None
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

    @property
    def shelf(self) -> Shelf:
        """What there is to choose from."""
        return Shelf(self.backends, self.examples)

    def rank(
        self, task: Task, data: DatasetInfo, score: str = DEFAULT_SCORE, *, top: int = 10
    ) -> Advice:
        """Rank every stored hidden module for a task, from stored moments, without training.

        A module is left out where its chain takes other examples than those of the data
        ('interface'), where it has no moments of the data ('moments'), where the score needs its
        measured features and they are not cached any more ('features'), or where the score is
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

    def without_features(self, data: DatasetInfo) -> tuple[str, ...]:
        """Ids of the modules that take some data, and whose features of them are not cached."""
        cache = feature_cache(self.backends.settings)
        candidates, _ = self.shelf.candidates(data)
        return tuple(
            one.record.id
            for one in candidates
            if measured_features(cache, one.record.id, data.fingerprint) is None
        )

    def together(
        self, task: Task, data: DatasetInfo, most: int, score: str = DEFAULT_SCORE
    ) -> Together:
        """Choose stored modules to join for a task, from their cached features, without training.

        Args:
            task: A choice or grouping of the classes of `data`.
            data: The whole data set: features are cached by its fingerprint.
            most: Modules to choose, at most.
            score: Name of a score, told of the joint features too.

        Raises:
            UnknownNameError: there is no such score.
            ScoreError: the score is not computed from moments; no module can be joined; or there
                are too few held-out examples.
            ClassError: the task does not fit the classes of the data.
        """
        moment_score(score)
        return choose_together(self.shelf, task, data, most, score)

    def new_module(self, task: Task, data: DatasetInfo, reached: float | None) -> NewModule:
        """What a module that is trained for a task would probably reach, and cost.

        From all evaluations that the registry holds; see `reuse.new_module`.

        Args:
            task: A choice or grouping of the classes of `data`.
            data: The whole data set.
            reached: Balanced accuracy by reuse, which it is compared with.

        Raises:
            ClassError: the task does not fit the classes of the data.
        """
        return new_module(self.backends, task, data, reached)

    def _sorted_out(self, data: DatasetInfo) -> tuple[list[_Measured], list[LeftOut]]:
        """The modules that can be scored on some data, and the others."""
        found, left_out = self.shelf.candidates(data)
        measured = []
        for one in found:
            if one.moments is None:
                message = none_of(one.record, f"'{data.name}'")
                left_out.append(LeftOut(module=one.record, reason="moments", message=message))
            else:
                measured.append((one.record, one.moments, one.facts))
        return measured, left_out

    def _score_all(
        self, measured: Sequence[_Measured], question: _Question
    ) -> Iterable[_Scored | LeftOut]:
        cache = feature_cache(self.backends.settings)

        def score(one: _Measured) -> _Scored | LeftOut:
            record, stored, facts = one
            # Only a stranger's can be: the classes are part of what the fingerprint is taken over.
            if stored.classes != question.data.classes:
                message = _of_other_classes(record, question.data)
                return LeftOut(module=record, reason="moments", message=message)
            try:
                found = self.moments.read(record, stored)
                tasks, names = [question.task], [question.score]
                held: ClassMoments | None = found.validation
                if moment_score(question.score).needs == "held_out":
                    held = held_out_moments(cache, found, question.data)
                if held is None:
                    return LeftOut(module=record, reason="features", message=not_cached(record))
                value = score_tasks(found.train, tasks, names, held)
            except (ArtifactError, MomentsError) as error:
                return LeftOut(module=record, reason="moments", message=str(error))
            except ScoreError as error:
                return LeftOut(module=record, reason="score", message=str(error))
            return _Scored(record, stored, float(value[0, 0]), facts)

        if all(stored.size_bytes < LARGE_BYTES for _, stored, _ in measured):
            return map(score, measured)
        with ThreadPoolExecutor(usable_cores()) as pool:
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
            knn=look.knn,
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
            return _Look(reason="features", message=not_cached(one.record))
        side = question.task.assign(data.classes)
        trained = self.shelf.trained_on(one.facts, data.fingerprint)
        fitted = known(features.train_digests, side[features.train_labels] >= 0, trained)
        answers = side[features.validation_labels]
        validated = int((answers >= 0).sum())
        answers[~held_out(features, data.n_borrowed)] = -1
        seen = known(features.validation_digests, answers >= 0, trained)
        found = _Look(seen=len(seen), fitted=len(fitted) > 0)
        try:
            grouped = self.moments.read(one.record, one.stored).train.grouped(question.task)
            found = replace(found, interval=_interval(grouped, features, question))
            if self.shelf.saw_pairs(one.facts, data):
                return replace(found, reason="pairs", message=saw_pairs_of(one.record))
            if validated and not bool((answers >= 0).any()):
                return replace(found, reason="score", message=_none_held_out(validated))
            if len(seen) and len(seen) == int((answers >= 0).sum()):
                return replace(found, reason="seen", message=_saw_all(one.record))
            weight, bias = ridge_head(grouped)
            answers[seen] = -1
            confusion = head_confusion(weight, bias, features.validation, answers)
            neighbours = knn(
                features.train, side[features.train_labels], features.validation, answers
            )
            return replace(found, evaluation=evaluation_from(confusion), knn=neighbours)
        except (ArtifactError, MomentsError, ScoreError) as error:
            return replace(found, reason="score", message=str(error))


def _interval(
    grouped: ClassMoments, features: MeasuredFeatures, question: _Question
) -> tuple[float, float] | None:
    if grouped.examples > FEW_EXAMPLES or moment_score(question.score).needs != "moments":
        return None
    side = question.task.assign(question.data.classes)
    return bootstrap(features.train, side[features.train_labels], grouped.classes, question.score)


def _of_other_classes(record: ModuleRecord, data: DatasetInfo) -> str:
    return (
        f"The moments of module {record.short_id} ({record.name}) on '{data.name}' are of other "
        "classes than the data have: 'modkernel advise' without --stored-only measures it again."
    )


def _saw_all(record: ModuleRecord) -> str:
    return (
        f"Module {record.short_id} ({record.name}), or one under it, was trained on all of the "
        "held-out examples, as part of another data set."
    )


def _none_held_out(validated: int) -> str:
    return (
        f"All {validated} examples of the task that are validated on are training examples too, "
        "which tell no accuracy: give data with more validation examples."
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
    return facts.name == data.name and everybody_has_alike(data.name)
