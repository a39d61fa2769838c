"""The baseline: the same network trained as a whole, by backpropagation of the cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modkernel.backbones import build_hidden
from modkernel.control import UNWATCHED, Control
from modkernel.data import Dataset, DatasetInfo
from modkernel.data.augment import augment
from modkernel.errors import DataError, ObjectiveError
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.preprocess import Normalise
from modkernel.plan import HiddenPlan, check_output, facts, plan_network
from modkernel.spec import (
    FORMAT_VERSION,
    BackboneSpec,
    DatasetFacts,
    HiddenSpec,
    NetworkSpec,
    OutputSpec,
    Spec,
)
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import seeded
from modkernel.training.evaluation import evaluate
from modkernel.training.loop import minimise
from modkernel.training.report import OutputEvaluation, TrainReport


class BaselineKey(Spec):
    """Everything that decides a baseline's training; its digest is the baseline's recipe digest."""

    format: int = FORMAT_VERSION
    kind: str = "end_to_end"
    dataset: DatasetFacts
    backbone: BackboneSpec
    hidden: tuple[HiddenSpec, ...]
    seed: int


def baseline_key(spec: NetworkSpec, info: DatasetInfo) -> BaselineKey:
    """The key of a network's baseline.

    Raises:
        DataError: the data set has no class labels.
        ObjectiveError: the last kernel has no finite features to train a linear classifier on.
        CutError, UnknownNameError, InterfaceError: see `modkernel.plan.plan_hidden`.
    """
    check_output(OutputSpec(), info)
    _plan(spec, info)
    kernel = spec.hidden[-1].kernel
    if not make_kernel(kernel).has_features:
        raise ObjectiveError(
            f"Kernel '{kernel.name}' has no finite features, so the network cannot be trained end "
            "to end: use relu_avgpool, relu, tanh or sigmoid in the last hidden module."
        )
    return BaselineKey(
        dataset=facts(info), backbone=spec.backbone, hidden=spec.hidden, seed=spec.seed
    )


def _plan(spec: NetworkSpec, info: DatasetInfo) -> tuple[HiddenPlan, ...]:
    """The hidden modules; a baseline has no pairs, and its classifier is no output module."""
    return plan_network(spec.model_copy(update={"output": None, "pairs": None}), info)


class Whole(nn.Module):
    """All hidden modules and a linear classifier on the last one's features."""

    def __init__(self, hidden: Sequence[nn.Module], kernel: Kernel, linear: nn.Linear) -> None:
        super().__init__()
        self.hidden, self.kernel, self.linear = nn.Sequential(*hidden), kernel, linear

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of preprocessed examples [B, ...].

        The features are not divided by their norm here, which is what classifiers trained end to
        end usually do and what serves them best.
        """
        assert self.kernel.activate is not None
        logits: Tensor = self.linear(self.kernel.activate(self.hidden(x)).flatten(1))
        return logits


def _build(spec: NetworkSpec, info: DatasetInfo) -> Whole:
    plans = _plan(spec, info)
    hidden = [build_hidden(p.backbone, p.blocks, p.takes, spec.seed) for p in plans]
    kernel = make_kernel(spec.hidden[-1].kernel)
    width = kernel.features(torch.zeros(1, *plans[-1].gives)).shape[1]
    with seeded(spec.seed, "classifier"):
        return Whole(hidden, kernel, nn.Linear(width, len(info.classes)))


def train_end_to_end(
    spec: NetworkSpec,
    data: Dataset,
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
) -> TrainReport:
    """Train the network that `spec` describes as a whole, and evaluate it on the test part.

    The recipe is that of the last hidden module, for as many epochs as one module gets. The
    weights kept are those of the epoch with the best validation accuracy.

    Raises:
        DataError, ObjectiveError, …: see `baseline_key`.
        NonFiniteError, StoppedError: see `minimise`.
    """
    info = data.info()
    key = baseline_key(spec, info)
    labels = data.train.labels
    held_out, test = data.validation.labels, data.test.labels
    if labels is None or held_out is None or test is None:
        raise DataError(f"Data set '{data.name}' has no class labels to train a baseline on.")
    recipe = spec.hidden[-1].recipe
    preprocess = Normalise(info.preprocessing).to(arithmetic.device).eval()
    whole = _build(spec, info)
    arithmetic.place(whole)

    def network(raw: Tensor) -> Tensor:
        return whole(arithmetic.arrange(preprocess(raw)))  # type: ignore[no-any-return]

    def loss(raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        if recipe.augments:
            raw = augment(raw, recipe.crop_padding, recipe.flip, generator)
        with arithmetic.autocast():
            logits = network(raw)
        wanted = labels[indices].to(logits.device, non_blocking=True)
        return F.cross_entropy(logits.float(), wanted)

    def validate() -> float:
        return evaluate(network, data.validation.examples, held_out, arithmetic).accuracy

    def batches(generator: torch.Generator) -> list[Tensor]:
        size = min(recipe.batch_size, len(labels))
        order = torch.randperm(len(labels), generator=generator).split(size)
        return [batch for batch in order if len(batch) == size]

    def load(order: Sequence[Tensor], _: int) -> Iterator[Tensor]:
        return data.train.examples.batches(order, arithmetic.device)

    result = minimise(
        whole,
        loss,
        batches=batches,
        load=load,
        recipe=recipe,
        seed=spec.seed,
        validate=validate,
        control=control,
    )
    whole.eval()
    found = evaluate(network, data.test.examples, test, arithmetic)
    return TrainReport(
        recipe_digest=key.digest(),
        history=result.history,
        best_epoch=result.best_epoch,
        seconds=result.seconds,
        device=str(arithmetic.device),
        precision=arithmetic.name,
        threads=arithmetic.threads,
        examples=len(labels),
        parameters=sum(p.numel() for p in whole.parameters()),
        evaluation=OutputEvaluation(
            accuracy=found.accuracy,
            accuracy_all_labels=found.accuracy,
            labels=len(labels),
            draws=1,
            accuracy_mean=found.accuracy,
            accuracy_min=found.accuracy,
            accuracy_max=found.accuracy,
            confusion=found.confusion,
            per_class=found.per_class,
        ),
    )
