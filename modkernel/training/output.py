"""Train the output module on frozen features, on few labels or on all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modkernel.control import UNWATCHED, Control
from modkernel.data.dataset import TRAINING_PART
from modkernel.data.label_budget import check_label_budget, check_spreading, draw_labels
from modkernel.data.sources import ExampleSource
from modkernel.errors import ClassError, DataError, SpecError
from modkernel.features.cache import FeatureCache
from modkernel.features.compute import cache_entry, compute_features
from modkernel.features.extractor import extractor_name, frozen_upstream, make_extractor
from modkernel.features.sources import Picked
from modkernel.modules.stored import StoredModule
from modkernel.spec import ModuleSpec, OutputSpec
from modkernel.system.precision import Arithmetic
from modkernel.training.evaluation import confusion_matrix, output_evaluation, recall_of
from modkernel.training.heads import Fit, fit_heads, predict_heads
from modkernel.training.label_spreading import SAMPLE, Spread, candidates, spread_labels
from modkernel.training.labels_seen import hidden_saw, labels_told
from modkernel.training.report import ClassRecall, OutputEvaluation, TrainReport


@dataclass(frozen=True)
class LabelledData:
    """Raw examples and their classes, int64 [N]; none where they are not known."""

    examples: ExampleSource
    labels: Tensor | None
    split: str | None = None
    """The split of the data set that these are, whole and in order, by which cached features are
    found. None for any other choice of examples, which no cache is used for."""
    trained: Tensor | None = None
    """Positions of those that are trained on though they are held out, int64; None: of none."""


@dataclass(frozen=True)
class GivenLabels:
    """Labels given by hand: positions of examples, int64 [n], and their classes, int64 [n]."""

    rows: Tensor
    labels: Tensor
    known: int | None = None
    """Examples whose labels hidden modules may have seen, where these are not all labels of the
    training examples."""


def train_output(
    spec: ModuleSpec,
    train: LabelledData,
    test: LabelledData | None,
    upstream: Sequence[StoredModule],
    *,
    validation: LabelledData | None = None,
    given: GivenLabels | None = None,
    unlabelled: ExampleSource | None = None,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
    cache: FeatureCache | None = None,
    tested: Tensor | None = None,
) -> tuple[dict[str, Tensor], TrainReport]:
    """Train the output module that `spec` describes, and evaluate it and its label draws.

    All draws are fitted at once. The weights returned are those of the last epoch: choosing an
    epoch would take more labels than the budget. A module on every label is fitted as well, as the
    reference that the report's `accuracy_all_labels` gives.

    Args:
        spec: of kind `output`.
        train: training examples and labels; only the drawn labels are used. Labels that are not
            known need `given`.
        test: test examples and labels; without them there is no evaluation.
        upstream: the stored hidden modules, first to last.
        validation: validation examples and labels, on which classes without a test example are
            looked at.
        given: the only labels that are used, in place of drawn ones.
        unlabelled: further examples, without a label, that labels are spread over where
            `spec.output.spread_labels` says so, as they are over those of `train` that no label is
            used of.
        arithmetic: device and number format.
        control: progress and stop. There is no checkpoint: this takes seconds.
        cache: stores the features of whole splits for the next output module.
        tested: positions of the test examples that are tested on, int64; all if left out.

    Returns:
        The module's state dict on the CPU (`weight` [C, d], `bias` [C] and, for a gaussian kernel,
        `centres` [M, ...]), and the report.

    Raises:
        SpecError: not the spec of an output module; labels are to be spread, and there is no
            example without one.
        ClassError: fewer than two classes.
        InterfaceError: `upstream` is not the chain that the spec names.
        LabelBudgetError: more labels per class than there are.
        DataError: no labels at all.
        NonFiniteError: the weights are not finite, see `minimise`.
        StoppedError: `control.stop` said so.
        SettingsError: there is no room for the features, see `compute_features`.
    """
    output, names = _check(spec, train, given)
    known_count = None if given is None else given.known
    chain = arithmetic.place(frozen_upstream(spec, upstream))
    kernel = spec.interface.kernel
    extractor = make_extractor(chain, kernel, train.examples, spec.seed, arithmetic)
    name = extractor_name(extractor, kernel, spec.seed, train.split or "train")
    if given is not None and train.labels is None and not output.spread_labels:
        # No features of the examples without a label are needed.
        train, given = LabelledData(Picked(train.examples, given.rows), given.labels), None
    known, every = _known(train, given)
    chosen, labels = _choose(output, known, given, every, spec)
    count = len(train.examples) + (0 if unlabelled is None else len(unlabelled))
    if output.spread_labels:
        check_spreading(chosen.shape[1], count)

    def features(data: LabelledData) -> Tensor:
        entry = cache_entry(cache, spec, data.split, arithmetic, name)
        return compute_features(
            extractor, data.examples, arithmetic, entry=entry, stop=control.stop
        ).values

    phi, phi_test = features(train), None if test is None else features(test)
    began = time.perf_counter()
    rows, labels = chosen.to(phi.device), labels.to(phi.device)
    fitted, reached = phi, 0
    if output.spread_labels:
        order = candidates(count, rows.shape[1], spec.seed)
        more, extra = order[order >= len(phi)].sort().values, None
        if unlabelled is not None and len(more):
            extra = features(LabelledData(Picked(unlabelled, more - len(phi)), None))
        fitted, spread = _spread(phi, labels, rows, order, extra, len(names), control)
        rows, labels, reached = spread.rows, spread.labels, spread.reached[0]
    unsaved = replace(control, checkpoints=None)
    fit = fit_heads(fitted, labels, rows, len(names), output, spec.seed, unsaved)
    known_labels = None if train.split == TRAINING_PART else known_count or every.shape[1]
    below = [one.spec for one in upstream]
    weighed = spec.kind == "output" and spec.weights is not None
    saw = hidden_saw(below, spec.dataset.fingerprint, known_labels, weighed)
    evaluation = None
    if test is not None and test.labels is not None and phi_test is not None:
        reference = fit
        if chosen is not every or output.spread_labels:
            known, unwatched = known.to(phi.device), Control(stop=control.stop)
            reference = fit_heads(phi, known, every, len(names), output, spec.seed, unwatched)
        truth = test.labels
        if tested is not None:
            phi_test, truth = phi_test[tested.to(phi_test.device)], truth[tested]
        evaluation = _evaluate(fit, reference, phi_test, truth, chosen.shape[1], names)
        lacking = _of_classes(validation, evaluation.untested, names)
        if lacking is not None:
            found = _confusions(fit, features(lacking[0]), lacking[1], names)[0]
            evaluation = evaluation.changed(validated=_recalls(found, names, lacking[2]))
        evaluation = evaluation.changed(hidden_saw=saw, spread_over=reached)

    report = TrainReport(
        recipe_digest=spec.digest(),
        history=fit.history,
        best_epoch=len(fit.history),
        seconds=time.perf_counter() - began,
        device=str(arithmetic.device),
        precision=arithmetic.name,
        threads=arithmetic.threads,
        examples=chosen.shape[1],
        parameters=fit.weight[0].numel() + fit.bias[0].numel(),
        evaluation=evaluation,
        labels_told=labels_told(chosen.shape[1], saw, reached),
    )
    weights = {"weight": fit.weight[0], "bias": fit.bias[0]}
    if extractor.centres is not None:
        weights["centres"] = extractor.centres
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}, report


def _check(
    spec: ModuleSpec, train: LabelledData, given: GivenLabels | None
) -> tuple[OutputSpec, tuple[str, ...]]:
    """Refuse what cannot be trained; returns how to train, and the classes."""
    if spec.kind != "output":
        raise SpecError("train_output takes the spec of an output module: use train_hidden.")
    if len(spec.classes) < 2:
        raise ClassError("An output module tells classes apart: give at least two of them.")
    labels = train.labels if given is None else given.labels
    if labels is None:
        raise DataError("There are no class labels to train an output module on: give some.")
    counts = torch.bincount(labels, minlength=len(spec.classes)).tolist()
    check_label_budget(counts, spec.classes, spec.output.labels_per_class or 1)
    return spec.output, spec.classes


def _spread(
    phi: Tensor,
    labels: Tensor,
    chosen: Tensor,
    order: Tensor,
    extra: Tensor | None,
    classes: int,
    control: Control,
) -> tuple[Tensor, Spread]:
    """Labels of `chosen` spread along `order`: features of these examples alone, and their labels.

    Args:
        phi: features of the training examples, [N, d].
        labels: int64 [N].
        chosen: int64 [D, n].
        order: as `candidates` gives it: positions in the training examples and, from N on, in the
            examples without a label.
        extra: features of the latter in order of their positions, if there are any.
        classes: C.
        control: progress and stop.
    """
    inside = torch.cat([order[order < len(phi)], chosen.flatten().cpu()]).unique()
    positions = torch.cat([inside, order[order >= len(phi)].sort().values])
    taken = inside.to(phi.device)
    pool, known = phi[taken], labels[taken]
    if extra is not None:
        pool = torch.cat([pool, extra.to(pool.device)])
        known = torch.cat([known, known.new_full((len(extra),), -1)])
    count = min(SAMPLE, len(order) - chosen.shape[1])
    control.progress({"event": "note", "text": f"Labels are spread over {count:,} examples."})
    rows, drawn = (
        torch.searchsorted(positions, part.cpu()).to(pool.device) for part in (chosen, order)
    )
    spread = spread_labels(pool, known, rows, drawn, classes, control.stop)
    if spread.reached[0] < count:
        text = f"No label reaches {count - spread.reached[0]:,} of them: these take no part."
        control.progress({"event": "note", "text": text})
    return pool, spread


def _known(train: LabelledData, given: GivenLabels | None) -> tuple[Tensor, Tensor]:
    """Labels [N] of all examples, -1 for none, and the rows [1, n] that have one, int64."""
    count = len(train.examples)
    if train.labels is not None:
        return train.labels, torch.arange(count)[None]
    assert given is not None
    labels = torch.full((count,), -1)
    labels[given.rows] = given.labels
    return labels, given.rows[None]


def _choose(
    output: OutputSpec, known: Tensor, given: GivenLabels | None, every: Tensor, spec: ModuleSpec
) -> tuple[Tensor, Tensor]:
    """Rows of each draw, int64 [D, n], and labels [N] that hold in those rows."""
    if given is not None:
        labels = known.clone()
        labels[given.rows] = given.labels  # They hold even where the data set has others.
        return given.rows[None], labels
    if output.labels_per_class is None:
        return every, known
    count = spec.interface.gives[0]
    return draw_labels(known, count, output.labels_per_class, output.draws, spec.seed), known


def _evaluate(
    fit: Fit, reference: Fit, phi: Tensor, labels: Tensor, used: int, classes: Sequence[str]
) -> OutputEvaluation:
    draws = _confusions(fit, phi, labels, classes)
    return output_evaluation(draws, _confusions(reference, phi, labels, classes)[0], used, classes)


def _confusions(heads: Fit, phi: Tensor, labels: Tensor, classes: Sequence[str]) -> list[Tensor]:
    return [confusion_matrix(labels, row, len(classes)) for row in predict_heads(heads, phi)]


def _of_classes(
    data: LabelledData | None, wanted: Sequence[str], classes: Sequence[str]
) -> tuple[LabelledData, Tensor, Tensor] | None:
    """The examples of some classes, their labels, and the labels of those that are trained on.

    None where there are no such examples.
    """
    if data is None or data.labels is None or not wanted:
        return None
    numbers = torch.tensor([classes.index(name) for name in wanted])
    rows = torch.isin(data.labels.cpu(), numbers).nonzero().flatten()
    labels = data.labels.cpu()[rows]
    if not len(rows):
        return None
    trained = labels[:0] if data.trained is None else labels[torch.isin(rows, data.trained)]
    return LabelledData(Picked(data.examples, rows), labels), labels, trained


def _recalls(confusion: Tensor, classes: Sequence[str], seen: Tensor) -> tuple[ClassRecall, ...]:
    """Of each class that has examples; `seen` are the labels of those that are trained on."""
    counts: list[list[int]] = confusion.tolist()
    return tuple(
        recall_of(i, counts, classes).changed(trained=int((seen == i).sum()))
        for i, row in enumerate(counts)
        if sum(row)
    )
