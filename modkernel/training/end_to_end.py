"""The baseline: the same network trained as a whole, by backpropagation of the cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modkernel.backbones import build_hidden
from modkernel.control import UNWATCHED, Control
from modkernel.data import Dataset, DatasetInfo
from modkernel.data.augment import draw_moves, moved
from modkernel.data.label_budget import check_output, check_tested
from modkernel.data.sources import ExampleSource
from modkernel.errors import DataError, ObjectiveError, SpecError
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.preprocess import Normalise
from modkernel.plan import HiddenPlan, facts, plan_network
from modkernel.spec import (
    FORMAT_VERSION,
    BackboneSpec,
    DatasetFacts,
    KernelSpec,
    NetworkSpec,
    OutputSpec,
    Recipe,
    Spec,
)
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import seeded
from modkernel.training.evaluation import evaluate, single_evaluation
from modkernel.training.loop import minimise
from modkernel.training.replay import can_replay
from modkernel.training.report import TrainReport


class BaselineKey(Spec):
    """Everything that decides a baseline's training; its digest is the baseline's recipe digest.

    Where the network is cut plays no part, nor does anything of a module that only its own training
    uses.
    """

    format: int = FORMAT_VERSION
    kind: str = "baseline"
    dataset: DatasetFacts
    backbone: BackboneSpec
    blocks: tuple[str, ...]
    kernel: KernelSpec
    recipe: Recipe
    seed: int


def baseline_key(spec: NetworkSpec, info: DatasetInfo) -> BaselineKey:
    """The key of a network's baseline.

    Raises:
        DataError: the data set has no class labels, or nothing to test on.
        SpecError: a module that starts from a stored one.
        ObjectiveError: the last kernel has no finite features to train a linear classifier on.
        CutError: the backbone cannot be cut as the spec says.
        UnknownNameError: a backbone or kernel that is not in its table.
        InterfaceError: the backbone or a kernel does not take the data's shape.
    """
    check_output(OutputSpec(), info)
    check_tested(info)
    plans = _plan(spec, info)
    last = plans[-1]
    kernel = last.hidden.kernel
    if not make_kernel(kernel).has_features:
        raise ObjectiveError(
            f"Kernel '{kernel.name}' has no finite features, so the network cannot be trained end "
            "to end: use relu_avgpool, relu, tanh or sigmoid in the last hidden module."
        )
    return BaselineKey(
        dataset=facts(info),
        backbone=last.backbone,
        blocks=_blocks(plans),
        kernel=kernel,
        recipe=last.hidden.recipe,
        seed=spec.seed,
    )


def _plan(spec: NetworkSpec, info: DatasetInfo) -> tuple[HiddenPlan, ...]:
    """The hidden modules; a baseline has no pairs, and its classifier is no output module."""
    if any(module.start_from for module in spec.hidden):
        raise SpecError(
            "A baseline is trained from fresh weights: leave 'start_from' out of its modules."
        )
    hidden = tuple(one.changed(tail="none") for one in spec.hidden)
    return plan_network(spec.changed(hidden=hidden, output=None, pairs=None), info)


def _blocks(plans: Sequence[HiddenPlan]) -> tuple[str, ...]:
    return tuple(block for plan in plans for block in plan.blocks)


class Whole(nn.Module):
    """All blocks of the hidden modules and a linear classifier on the last one's features."""

    def __init__(self, hidden: nn.Sequential, kernel: Kernel, linear: nn.Linear) -> None:
        super().__init__()
        self.hidden, self.kernel, self.linear = hidden, kernel, linear

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
    hidden = build_hidden(plans[-1].backbone, _blocks(plans), plans[0].takes, spec.seed)
    kernel = make_kernel(plans[-1].hidden.kernel)
    width = kernel.features(torch.zeros(1, *plans[-1].gives)).shape[1]
    with seeded(spec.seed, "classifier"):
        return Whole(hidden, kernel, nn.Linear(width, len(info.classes)))


@dataclass(frozen=True, eq=False)
class WholeProblem:
    """Cross-entropy of a whole network on labelled examples; a `Problem`.

    Attributes:
        model: the network after preprocessing, on the device.
        preprocess: raw examples [B, …] to what the model takes, on the device.
        recipe: batch size and augmentation.
        train: raw training examples.
        train_labels: int64 [N], their classes.
        validation: raw validation examples.
        validation_labels: int64 [M], their classes.
        arithmetic: device and number format.
    """

    model: Whole
    preprocess: Normalise
    recipe: Recipe
    train: ExampleSource
    train_labels: Tensor
    validation: ExampleSource
    validation_labels: Tensor
    arithmetic: Arithmetic

    def network(self, raw: Tensor) -> Tensor:
        """Logits [B, C] of raw examples [B, …]."""
        logits: Tensor = self.model(self.arithmetic.arrange(self.preprocess(raw)))
        return logits

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return max(1, len(self.train_labels) // self.recipe.batch_size)

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """A permutation of the examples in batches of one size; what is left over is dropped."""
        count = len(self.train_labels)
        size = min(self.recipe.batch_size, count)
        order = torch.randperm(count, generator=generator).split(size)
        return [batch for batch in order if len(batch) == size]

    def load(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Raw examples [B, …] of each index batch; the same in every epoch."""
        return self.train.batches(order, self.arithmetic.device)

    def loss(self, raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Mean cross-entropy of raw examples [B, …], a scalar."""
        return self.prepared_loss(*self.prepare(raw, indices, generator))

    def prepare(
        self, raw: Tensor, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The examples, how images move (see `moved`), and their classes; on the device."""
        recipe = self.recipe
        moves = draw_moves(len(raw), recipe.crop_padding, recipe.flip, generator)
        given = moves, self.train_labels[indices]
        return raw, *(tensor.to(raw.device, non_blocking=True) for tensor in given)

    def prepared_loss(self, *inputs: Tensor) -> Tensor:
        """Mean cross-entropy of what `prepare` gave, a scalar."""
        raw, moves, wanted = inputs
        if self.recipe.augments:
            raw = moved(raw, moves, self.recipe.crop_padding)
        with self.arithmetic.autocast():
            logits = self.network(raw)
        return F.cross_entropy(logits.float(), wanted)

    @property
    def replayable(self) -> bool:
        """Whether a GPU may replay its steps."""
        return can_replay(self.arithmetic, self.model)

    def validate(self) -> float:
        """Accuracy on the validation part, in [0, 1]."""
        found = evaluate(self.network, self.validation, self.validation_labels, self.arithmetic)
        return found.accuracy


def train_end_to_end(
    spec: NetworkSpec,
    data: Dataset,
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
) -> TrainReport:
    """Train the network that `spec` describes as a whole, and evaluate it on the test part.

    The recipe is that of the last hidden module, for as many epochs as one module gets. The
    network evaluated is that of the epoch with the best validation accuracy.

    Raises:
        DataError: the data set has no class labels.
        ObjectiveError: the last kernel has no finite features to train a linear classifier on.
        CutError: the backbone cannot be cut as the spec says.
        UnknownNameError: a backbone or kernel that is not in its table.
        InterfaceError: the backbone or a kernel does not take the data's shape.
        NonFiniteError: the loss is not finite, see `minimise`.
        StoppedError: `control.stop` said so, see `minimise`.
        ArtifactError: the checkpoint in `control`'s folder is of another network or other data.
    """
    info = data.info()
    key = baseline_key(spec, info)
    labels, validation, test = data.train.labels, data.validation_part(), data.test.labels
    if labels is None or validation.labels is None or test is None:
        raise DataError(f"Data set '{data.name}' has no class labels to train a baseline on.")
    whole = _build(spec, info)
    arithmetic.place(whole)
    problem = WholeProblem(
        model=whole,
        preprocess=Normalise(info.preprocessing).to(arithmetic.device).eval(),
        recipe=spec.hidden[-1].recipe,
        train=data.train.examples,
        train_labels=labels,
        validation=validation.examples,
        validation_labels=validation.labels,
        arithmetic=arithmetic,
    )
    result = minimise(
        problem, recipe=problem.recipe, seed=spec.seed, digest=key.digest(), control=control
    )
    whole.eval()
    found = evaluate(problem.network, data.test.examples, test, arithmetic)
    report = result.report(key.digest(), arithmetic, len(labels), whole)
    return report.changed(evaluation=single_evaluation(found, len(labels), data.classes))
