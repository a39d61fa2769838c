"""How good a stored candidate is, from what it left when it was stored: nothing is trained."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from pydantic import TypeAdapter

from modkernel.data import DatasetInfo, describe_dataset
from modkernel.errors import MomentsError
from modkernel.features.measure import (
    MeasuredFeatures,
    held_out,
    held_out_moments,
    measured_features,
)
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.search.spec import ACCURACY
from modkernel.flows.tasks.measure import measure_stored_module
from modkernel.flows.tasks.work import work_of
from modkernel.flows.team.dispatch import is_worth_it, send, sends_work
from modkernel.lookup import lookup
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.backends import feature_cache
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.scores import SCORES, head_confusion, reusability, ridge_head
from modkernel.reuse.task import Task
from modkernel.spec import DatasetSpec
from modkernel.training.evaluation import evaluation_from, worst_of
from modkernel.training.report import ClassRecall


class CandidateScore(NamedTuple):
    """How good a candidate is; the others where that is an accuracy."""

    score: float
    balanced_accuracy: float | None = None
    worst_class: ClassRecall | None = None
    held_out: bool = True
    """Whether it is of examples that are not trained on."""


_told: TypeAdapter[CandidateScore] = TypeAdapter(CandidateScore)


def score_names() -> tuple[str, ...]:
    """What a search may compare candidates by."""
    return (ACCURACY, *(name for name, score in SCORES.items() if score.needs == "moments"))


def check_score(name: str) -> None:
    """Check that candidates can be compared by a score.

    Raises:
        UnknownNameError: it is neither 'accuracy' nor a score that needs class moments alone.
    """
    lookup(dict.fromkeys(score_names()), name, "score of a search")


def score_candidate(
    registry: Registry, record: ModuleRecord, dataset: DatasetSpec, info: DatasetInfo, name: str
) -> CandidateScore:
    """The score of a stored module on the measured examples of its data; larger is better.

    'accuracy': a ridge output module is fitted in closed form on the moments of the training
    examples and tested on the held-out validation examples; where there are none, on those that
    are validated on and trained on as well. A score of moments is that of all that are validated
    on; where some of these are trained on, of the classes that have two held-out examples at least.
    Where fewer than two classes have, it is of all the same, which the score says.

    Raises:
        ScoreError: the score is undefined for the module's features.
        ModkernelError: the module was not measured yet, and cannot be.
    """
    here = feature_cache(registry.settings)
    by_moments = name != ACCURACY and not info.n_borrowed
    if by_moments or measured_features(here, record.id, info.fingerprint) is not None:
        return _score(registry, record, dataset, info, name)
    if not sends_work(registry.settings):
        return _score(registry, record, dataset, info, name)
    asked = work_of(
        registry,
        "score",
        dataset,
        info.fingerprint,
        passes=1,
        module_id=record.id,
        dataset=dataset,
        score=name,
    )
    if not is_worth_it(registry.settings, asked):
        return _score(registry, record, dataset, info, name)
    # The features are where the module was trained, or are taken again on a device.
    key = sha256(f"score {record.id} {info.fingerprint} {name}".encode()).hexdigest()
    told = send(key, f"score {record.name} {record.short_id}", "measuring", asked)
    return _told.validate_json(told)


def score_stored_module(module_id: str, dataset: DatasetSpec, score: str) -> str:
    """The score of a stored module as JSON: what a machine of a team is asked for.

    Raises:
        ModkernelError: see `score_candidate`.
    """
    registry = open_registry()
    record = registry.modules.resolve(module_id)
    info = describe_dataset(dataset, registry.settings.places)
    return _told.dump_json(_score(registry, record, dataset, info, score)).decode()


def _score(
    registry: Registry, record: ModuleRecord, dataset: DatasetSpec, info: DatasetInfo, name: str
) -> CandidateScore:
    fingerprint = info.fingerprint
    if not registry.moments.has(record, fingerprint):
        measure_stored_module(record.id, dataset)
    moments = registry.moments.load(record, fingerprint)
    if name != ACCURACY:
        return _by_moments(registry, record, dataset, info, moments, name)
    features = _features(registry, record, dataset, fingerprint)
    weights, bias = ridge_head(moments.train)
    rows = held_out(features, info.n_borrowed)
    is_held_out = bool(rows.any())
    answers = features.validation_labels.clone()
    if is_held_out:
        answers[~rows] = -1
    found = evaluation_from(head_confusion(weights, bias, features.validation, answers))
    worst = worst_of(found, moments.train.classes)
    if is_held_out:
        registry.modules.tell_accuracy(record, found.accuracy)
    return CandidateScore(found.accuracy, found.balanced_accuracy, worst, is_held_out)


def _by_moments(
    registry: Registry,
    record: ModuleRecord,
    dataset: DatasetSpec,
    info: DatasetInfo,
    moments: ModuleMoments,
    name: str,
) -> CandidateScore:
    if not info.n_borrowed:
        return CandidateScore(reusability(moments.validation, score=name))
    _features(registry, record, dataset, info.fingerprint)
    found = held_out_moments(feature_cache(registry.settings), moments, info)
    if found is None:
        raise _too_large(record)
    # One example alone makes no pair.
    known = [side for side, n in zip(found.classes, found.counts.tolist(), strict=True) if n > 1]
    if len(known) < 2:
        return CandidateScore(reusability(moments.validation, score=name), held_out=False)
    return CandidateScore(reusability(found, Task.of_classes(known), name))


def _features(
    registry: Registry, record: ModuleRecord, dataset: DatasetSpec, fingerprint: str
) -> MeasuredFeatures:
    cache = feature_cache(registry.settings)
    found = measured_features(cache, record.id, fingerprint)
    if found is None:
        # They were evicted, or never cached: the moments stay as they are.
        measure_stored_module(record.id, dataset, features=True)
        found = measured_features(cache, record.id, fingerprint)
    if found is None:
        raise _too_large(record)
    return found


def _too_large(record: ModuleRecord) -> MomentsError:
    return MomentsError(
        f"The measured features of module {record.short_id} ({record.name}) do not fit into the "
        "feature cache: set MODKERNEL_FEATURE_CACHE_BYTES higher."
    )
