"""The ground truth of a stored module: fresh output modules for many tasks on its features."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.control import UNWATCHED, Control
from modkernel.data import Dataset
from modkernel.errors import DataError, InterfaceError, ScoreError, StoppedError
from modkernel.features.cache import FeatureCache, FeatureKey
from modkernel.features.compute import CacheEntry, compute_features
from modkernel.features.extractor import (
    FeatureExtractor,
    extractor_name,
    frozen_chain,
    make_extractor,
)
from modkernel.features.measure import EXAMPLES_PER_CLASS, VALIDATION_PER_CLASS, pick
from modkernel.features.sources import Picked
from modkernel.modules.stored import StoredModule
from modkernel.reuse.ground_truth import GroundTruth, GroundTruthSpec
from modkernel.reuse.scores import SCORES
from modkernel.reuse.task import Task
from modkernel.spec import OutputSpec
from modkernel.system.precision import Arithmetic
from modkernel.training.evaluation import Evaluation, confusion_matrix, evaluation_from
from modkernel.training.heads import Fit, fit_heads, predict_heads

PROBABILITIES = OutputSpec()
"""How an output module is trained whose class probabilities a score needs."""

NOTHING = {
    "held_out_features": "There are no labelled validation examples to ask about.",
    "outputs": "The module was trained on other data: it has no outputs for these classes.",
}
"""Why a score is undefined that nothing was given for, by what it needs."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Features φ [N, d] of examples and their classes, int64 [N]."""

    features: Tensor
    labels: Tensor

    def narrowed(self, task: Task, classes: Sequence[str]) -> Sample:
        """The examples of a task, labelled by its sides."""
        side = task.assign(classes)[self.labels.cpu()]
        rows = (side >= 0).nonzero().squeeze(1).to(self.features.device)
        return Sample(self.features[rows], side.to(self.features.device)[rows])


def measure_ground_truth(
    spec: GroundTruthSpec,
    modules: Sequence[StoredModule],
    data: Dataset,
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
    cache: FeatureCache | None = None,
    tested: Tensor | None = None,
) -> GroundTruth:
    """Find what a stored module is worth for each target, by training output modules on it.

    Every output module gets all training labels of its target, and is tested on all test examples
    of its classes. The scores that need features or class probabilities are taken from the
    examples that moments are of; the probabilities are those of an output module for what the
    hidden module was trained for.

    Args:
        spec: which module, for which targets, and how output modules are trained.
        modules: the chain, first to last; the last one is evaluated.
        data: has all classes of all targets.
        arithmetic: device and number format.
        control: progress, one event per target, and stop. There is no checkpoint.
        cache: stores the features.
        tested: positions of the test examples that are tested on, int64; all if left out.

    Raises:
        ClassError: a target names a class that the data does not have.
        DataError: the data has no labels, or its training or test part no example of a target.
        InterfaceError: the chain does not end in the module, or is none.
        NonFiniteError: an output module's weights are not finite.
        StoppedError: `control.stop` said so.
        SettingsError: there is no room for the features, see `compute_features`.
    """
    train_labels, test_labels = _check(spec, modules, data, tested)
    began = time.perf_counter()
    kernel = modules[-1].spec.interface.kernel
    chain = arithmetic.place(frozen_chain(modules))
    extractor = make_extractor(chain, kernel, data.train.examples, spec.seed, arithmetic)
    name = extractor_name(extractor, kernel, spec.seed)
    phi, phi_test = _features(spec, extractor, name, data, arithmetic, control, cache)
    if tested is not None:
        phi_test = phi_test[tested.to(phi_test.device)]
    train, test = Sample(phi, train_labels), Sample(phi_test, test_labels)
    found: list[Evaluation] = []
    for number, task in enumerate(spec.targets, start=1):
        fit = _fit(task, spec.output, spec.seed, train, data.classes, control)
        found.append(_evaluation(fit, test.narrowed(task, data.classes), len(task.groups)))
        control.progress({"event": "target", "target": number, "targets": len(spec.targets)})
    truth_seconds = time.perf_counter() - began
    held_out = _held_out(extractor, data, arithmetic, control)
    scores, undefined, seconds = _score(spec, train, held_out, data, control)
    return GroundTruth(
        spec=spec,
        accuracy=tuple(one.accuracy for one in found),
        balanced_accuracy=tuple(one.balanced_accuracy for one in found),
        worst_accuracy=tuple(_worst(one) for one in found),
        left_out=0 if tested is None else len(data.test) - len(tested),
        scores=scores,
        undefined=undefined,
        score_seconds=seconds,
        truth_seconds=truth_seconds,
    )


def _check(
    spec: GroundTruthSpec, modules: Sequence[StoredModule], data: Dataset, tested: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Refuse what cannot be evaluated; returns the labels that are trained and tested on."""
    if modules[-1].id != spec.module_id:
        raise InterfaceError(
            f"Module {spec.module_id[:12]} is to be evaluated, but the chain ends in "
            f"{modules[-1].id[:12]}: pass the whole chain of the module, in order."
        )
    if data.train.labels is None or data.test.labels is None:
        raise DataError(f"Data set '{data.name}' has no class labels to evaluate a module on.")
    test = data.test.labels if tested is None else data.test.labels[tested]
    known = data.train.labels, test
    for part, labels in zip(("training", "test"), known, strict=True):
        for task in spec.targets:
            if not bool((task.assign(data.classes)[labels] >= 0).any()):
                raise DataError(
                    f"The {part} part of data set '{data.name}' has no example of target "
                    f"'{task.name}': evaluate the module on data that has some, or leave it out."
                )
    return known


def _held_out(
    extractor: FeatureExtractor, data: Dataset, arithmetic: Arithmetic, control: Control
) -> Sample | None:
    """The validation examples that moments are of, but for those that are training examples too.

    None where there are none with a label.
    """
    part = data.validation
    if part.labels is None:
        return None
    rows = pick(part.labels, data, "validation", VALIDATION_PER_CLASS)
    if not len(rows):
        return None
    picked = Picked(part.examples, rows)
    values = compute_features(extractor, picked, arithmetic, stop=control.stop).values
    return Sample(values, part.labels[rows])


def _score(
    spec: GroundTruthSpec,
    train: Sample,
    held_out: Sample | None,
    data: Dataset,
    control: Control,
) -> tuple[dict[str, tuple[float, ...]], dict[str, str], dict[str, float]]:
    """Scores that moments do not give, for every target; why some are undefined; seconds."""
    rows = pick(train.labels, data, "train", EXAMPLES_PER_CLASS)
    measured = Sample(train.features[rows.to(train.features.device)], train.labels[rows])
    began = time.perf_counter()
    outputs: tuple[Sample, ...] = ()
    if spec.own is not None:
        fit = _fit(spec.own, PROBABILITIES, spec.seed, train, data.classes, control)
        outputs = (Sample(_probabilities(fit, measured.features), measured.labels),)
    # A score is timed as if it were the only one: each that needs the outputs pays for them.
    needed = {
        "features": ((measured,), 0.0),
        "held_out_features": (() if held_out is None else (measured, held_out), 0.0),
        "outputs": (outputs, time.perf_counter() - began),
    }
    scores: dict[str, tuple[float, ...]] = {}
    undefined: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name, score in SCORES.items():
        if score.needs not in needed:
            continue
        inputs, cost = needed[score.needs]
        if not inputs:
            undefined[name] = NOTHING[score.needs]
            continue
        began = time.perf_counter()
        try:
            scores[name] = tuple(
                score.function(*_tensors(inputs, task, data.classes)) for task in spec.targets
            )
        except ScoreError as error:
            undefined[name] = str(error)
        seconds[name] = cost + time.perf_counter() - began
    return scores, undefined, seconds


def _tensors(inputs: Sequence[Sample], task: Task, classes: Sequence[str]) -> Iterator[Tensor]:
    """Features and sides of a task's examples, of each sample."""
    for one in inputs:
        narrowed = one.narrowed(task, classes)
        yield narrowed.features
        yield narrowed.labels


def _features(
    spec: GroundTruthSpec,
    extractor: FeatureExtractor,
    name: str,
    data: Dataset,
    arithmetic: Arithmetic,
    control: Control,
    cache: FeatureCache | None,
) -> Iterator[Tensor]:
    """Features of all training and of all test examples."""
    for split, examples in (("train", data.train.examples), ("test", data.test.examples)):
        key = FeatureKey(
            module=spec.module_id,
            data=data.fingerprint,
            split=split,
            transform=name,
            dtype=arithmetic.name,
        )
        entry = None if cache is None else CacheEntry(cache, key)
        yield compute_features(
            extractor, examples, arithmetic, entry=entry, stop=control.stop
        ).values


def _fit(
    task: Task,
    output: OutputSpec,
    seed: int,
    train: Sample,
    classes: Sequence[str],
    control: Control,
) -> Fit:
    """A fresh output module for a task, on all training labels of its classes."""
    if control.stop():
        raise StoppedError("Evaluating a module was stopped: run the same command to resume.")
    sample = train.narrowed(task, classes)
    all_rows = torch.arange(len(sample.labels))[None]
    sides, unwatched = len(task.groups), Control(stop=control.stop)
    return fit_heads(sample.features, sample.labels, all_rows, sides, output, seed, unwatched)


def _evaluation(fit: Fit, sample: Sample, sides: int) -> Evaluation:
    predicted = predict_heads(fit, sample.features)[0]
    return evaluation_from(confusion_matrix(sample.labels, predicted.cpu(), sides))


def _probabilities(fit: Fit, features: Tensor) -> Tensor:
    """Class probabilities [N, Z] of the first head."""
    logits = features @ fit.weight[0].T + fit.bias[0]
    return logits.double().softmax(1)


def _worst(found: Evaluation) -> float:
    share = found.per_class[found.worst_class]
    assert share is not None
    return share
