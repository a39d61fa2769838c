"""Train the output module on frozen features, on few labels or on all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from modkernel.errors import ClassError, SpecError
from modkernel.kernels import make_kernel
from modkernel.labels import check_label_budget, draw_labels
from modkernel.seeding import generator_for
from modkernel.spec import ModuleSpec
from modkernel.stored import StoredModule
from modkernel.training.evaluation import confusion_matrix, evaluation_from
from modkernel.training.features import (
    MEMORY_LIMIT,
    Examples,
    compute_features,
    frozen_upstream,
)
from modkernel.training.heads import Fit, fit_heads, predict_heads
from modkernel.training.loop import UNWATCHED, Control
from modkernel.training.precision import Arithmetic
from modkernel.training.report import OutputEvaluation, TrainReport


@dataclass(frozen=True)
class LabelledData:
    """Raw examples and their classes, int64 [N]."""

    examples: Examples
    labels: Tensor


class Front(nn.Module):
    """A frozen chain and the features that an output module takes: raw [B, ...] -> φ [B, d]."""

    centres: Tensor | None

    def __init__(self, chain: nn.Module, spec: ModuleSpec, centres: Tensor | None) -> None:
        super().__init__()
        self.chain, self.kernel = chain, make_kernel(spec.interface.kernel)
        self.register_buffer("centres", centres)

    def forward(self, raw: Tensor) -> Tensor:
        """Features in float32."""
        return self.kernel.front(self.chain(raw).float(), self.centres)


def _draw_centres(
    chain: nn.Module, spec: ModuleSpec, examples: Examples, arithmetic: Arithmetic
) -> Tensor | None:
    """Outputs of the chain for some training examples, where the kernel has no finite features."""
    if make_kernel(spec.interface.kernel).has_features:
        return None
    generator = generator_for(spec.seed, "centres")
    picks = torch.randperm(len(examples), generator=generator)[: spec.interface.kernel.centres]
    (raw,) = examples.batches([picks], arithmetic.device)
    with torch.no_grad(), arithmetic.autocast():
        centres: Tensor = chain(arithmetic.arrange(raw))
        return centres.float()


def train_output(
    spec: ModuleSpec,
    train: LabelledData,
    test: LabelledData,
    upstream: Sequence[StoredModule],
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
    folder: Path | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[dict[str, Tensor], TrainReport]:
    """Train the output module that `spec` describes, and evaluate it and its label draws.

    All draws are fitted at once. The weights kept are those of the last epoch: choosing an epoch
    would take more labels than the budget. A module on every label is fitted beside them, as the
    reference that the report's `accuracy_all_labels` gives.

    Args:
        spec: of kind `output`.
        train: training examples and labels; only the drawn labels are used.
        test: test examples and labels.
        upstream: the stored hidden modules, first to last.
        arithmetic: device and number format.
        control: progress and stop. There is no checkpoint: this takes seconds.
        folder: for features that memory does not hold.
        memory_limit: bytes of features kept in memory.

    Returns:
        The module's state dict on the CPU (`weight` [C, d], `bias` [C] and, for a gaussian kernel,
        `centres` [M, ...]), and the report.

    Raises:
        InterfaceError: `upstream` is not the chain that the spec names.
        LabelBudgetError: more labels per class than there are.
        NonFiniteError, StoppedError: see `minimise`.
        SettingsError: see `compute_features`.
    """
    if spec.kind != "output" or spec.output is None or spec.classes is None:
        raise SpecError("train_output takes the spec of an output module: use train_hidden.")
    if len(spec.classes) < 2:
        raise ClassError("An output module tells classes apart: give at least two of them.")
    output, classes = spec.output, len(spec.classes)
    counts = torch.bincount(train.labels, minlength=classes).tolist()
    check_label_budget(counts, spec.classes, output.labels_per_class or 1)

    chain = arithmetic.place(frozen_upstream(spec, upstream))
    centres = _draw_centres(chain, spec, train.examples, arithmetic)
    front = Front(chain, spec, centres).eval()
    phi, phi_test = (
        compute_features(
            front,
            data.examples,
            arithmetic,
            folder=None if folder is None else folder / part,
            memory_limit=memory_limit,
            stop=control.stop,
        ).values
        for part, data in (("train", train), ("test", test))
    )
    began = time.perf_counter()
    labels = train.labels.to(phi.device)
    every = torch.arange(len(labels))[None]
    unsaved = replace(control, checkpoints=None)
    if output.labels_per_class is None:
        chosen = every
        fit = everything = fit_heads(phi, labels, every, classes, output, spec.seed, unsaved)
    else:
        chosen = draw_labels(
            train.labels, classes, output.labels_per_class, output.draws, spec.seed
        )
        fit = fit_heads(phi, labels, chosen, classes, output, spec.seed, unsaved)
        reference = Control(stop=control.stop)
        everything = fit_heads(phi, labels, every, classes, output, spec.seed, reference)

    report = TrainReport(
        recipe_digest=spec.digest(),
        history=fit.history,
        best_epoch=len(fit.history),
        seconds=time.perf_counter() - began,
        device=str(arithmetic.device),
        precision=arithmetic.name,
        examples=chosen.shape[1],
        parameters=fit.weight[0].numel() + fit.bias[0].numel(),
        evaluation=_evaluate(fit, everything, phi_test, test.labels, chosen.shape[1], classes),
    )
    weights = {"weight": fit.weight[0], "bias": fit.bias[0]}
    if centres is not None:
        weights["centres"] = centres
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}, report


def _evaluate(
    fit: Fit, everything: Fit, phi: Tensor, labels: Tensor, used: int, classes: int
) -> OutputEvaluation:
    truth = labels.to(phi.device)
    predicted = predict_heads(fit, phi)
    accuracies = (predicted == truth).double().mean(1).tolist()
    stored = evaluation_from(confusion_matrix(labels, predicted[0], classes))
    reference = (predict_heads(everything, phi)[0] == truth).double().mean().item()
    return OutputEvaluation(
        accuracy=stored.accuracy,
        accuracy_all_labels=reference,
        labels=used,
        draws=len(accuracies),
        accuracy_mean=sum(accuracies) / len(accuracies),
        accuracy_min=min(accuracies),
        accuracy_max=max(accuracies),
        confusion=stored.confusion,
        per_class=stored.per_class,
    )
