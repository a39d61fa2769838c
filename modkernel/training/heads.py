"""Linear classifiers on fixed features, several label draws at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modkernel.control import UNWATCHED, Control
from modkernel.spec import OutputSpec
from modkernel.training.loop import minimise
from modkernel.training.report import EpochLine

PREDICTED_TOGETHER = 4096
"""Examples whose classes are predicted at once."""


class Heads(nn.Module):
    """D linear classifiers side by side: [D, B, d] -> [D, B, C]. They start at zero."""

    def __init__(self, draws: int, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(draws, classes, features))
        self.bias = nn.Parameter(torch.zeros(draws, classes))

    def forward(self, phi: Tensor) -> Tensor:
        """Logits of each classifier on its own batch, or on a batch [B, d] that all share."""
        return phi @ self.weight.transpose(1, 2) + self.bias[:, None]


@dataclass(frozen=True)
class Fit:
    """Fitted heads and how they were reached; a closed form has no history."""

    weight: Tensor
    """[D, C, d]."""
    bias: Tensor
    """[D, C]."""
    history: tuple[EpochLine, ...]
    seconds: float


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example: [M, C], int64 [M] -> [M]."""
    return F.cross_entropy(logits, labels, reduction="none")


def hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-class hinge loss of each example, max over wrong classes of [1 + z_wrong - z_right]+.

    Source: Crammer and Singer, JMLR 2001.
    """
    right = logits.gather(1, labels[:, None])
    margins = (1 + logits - right).scatter(1, labels[:, None], 0)
    return margins.clamp_min(0).amax(1)


LOSSES = {"cross_entropy": cross_entropy, "hinge": hinge}
"""Loss of each example by the method's name in `OutputSpec`."""


@dataclass(frozen=True, eq=False)
class HeadsProblem:
    """The loss of D heads on fixed features, each on its own label draw; a `Problem`.

    Attributes:
        model: the heads, on the device of `phi`.
        phi: float32 [N, d].
        labels: int64 [N], or [D, N] where each draw has its own, on the device of `phi`.
        chosen: int64 [D, n], the labelled examples of each draw, on the device of `phi`.
        loss_of: of each example, (logits [M, C], labels [M]) -> [M].
        batch_size: examples of each draw in a step, at most.
        passes: times that an epoch goes through the n examples.
    """

    model: Heads
    phi: Tensor
    labels: Tensor
    chosen: Tensor
    loss_of: Callable[[Tensor, Tensor], Tensor]
    batch_size: int
    passes: int

    @property
    def steps(self) -> int:
        """Batches of an epoch, in all its passes."""
        return self.passes * math.ceil(self.chosen.shape[1] / self.batch_size)

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Columns of `chosen` for each step of one epoch, int64 [B]."""
        count = self.chosen.shape[1]
        return [
            batch
            for _ in range(self.passes)
            for batch in torch.randperm(count, generator=generator).split(self.batch_size)
        ]

    def load(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Features [D, B, d] of each draw's examples; the same in every epoch."""
        for columns in order:
            yield self.phi[self._rows(columns)]

    def loss(self, raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Sum over the draws of their mean loss on features [D, B, d], a scalar."""
        labels = _labels_at(self.labels, self._rows(indices))
        losses = self.loss_of(self.model(raw).flatten(0, 1), labels.flatten())
        # Summed over draws, so that a draw's gradient does not depend on how many there are.
        return losses.view(len(self.chosen), -1).mean(1).sum()

    def validate(self) -> None:
        """Nothing is held out: every label is trained on."""

    def _rows(self, columns: Tensor) -> Tensor:
        """Examples [D, B] of columns [B] of `chosen`."""
        return self.chosen[:, columns.to(self.phi.device, non_blocking=True)]


def clip_each_draw(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Clip the gradient of each draw's head by its own norm, as if there were no other draw.

    Args:
        parameters: of `Heads`, [D, …].
        largest: norm of a draw's gradient, over all parameters.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    # As `nn.utils.clip_grad_norm_` has it.
    scales = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_max(1)
    for gradient in gradients:
        gradient.mul_(scales.view(-1, *[1] * (gradient.ndim - 1)))


def fit_by_gradient(
    phi: Tensor, labels: Tensor, chosen: Tensor, classes: int, spec: OutputSpec, seed: int,
    control: Control = UNWATCHED,
) -> Fit:  # fmt: skip
    """Fit heads by stochastic gradient on the loss that `spec.method` names.

    Args:
        phi: float32 [N, d].
        labels: int64 [N], or [D, N] where each draw has its own, on the device of `phi`.
        chosen: int64 [D, n], the labelled examples of each draw.
        classes: C.
        spec: method, recipe, least number of steps.
        seed: of the order of the examples.
        control: progress and stop.

    Raises:
        NonFiniteError: the weights are not finite, see `minimise`.
        StoppedError: `control.stop` said so.
    """
    draws, count = chosen.shape
    size = min(spec.recipe.batch_size, count)
    passes = math.ceil(spec.minimum_steps / spec.recipe.epochs / math.ceil(count / size))
    problem = HeadsProblem(
        model=Heads(draws, phi.shape[1], classes).to(phi.device),
        phi=phi,
        labels=labels,
        chosen=chosen.to(phi.device),
        loss_of=LOSSES[spec.method],
        batch_size=size,
        passes=max(1, passes),
    )

    def mean_over_draws(event: Mapping[str, Any]) -> None:
        control.progress({**event, "objective": event["objective"] / draws})

    watched = replace(control, progress=mean_over_draws)
    result = minimise(problem, recipe=spec.recipe, seed=seed, control=watched, clip=clip_each_draw)
    history = tuple(line.changed(objective=line.objective / draws) for line in result.history)
    return Fit(result.weights["weight"], result.weights["bias"], history, result.seconds)


def fit_ridge(phi: Tensor, labels: Tensor, chosen: Tensor, classes: int, spec: OutputSpec) -> Fit:
    """Fit heads in closed form: ridge regression on one-hot targets with a free intercept.

    W = argmin Σ‖W(φ - mean φ) - (y - mean y)‖² + ridge·n·‖W‖², solved in float64 in the
    smaller of its two equivalent forms, d x d or n x n.

    Args and shapes as in `fit_by_gradient`.
    """
    weights, biases = [], []
    chosen = chosen.to(phi.device)
    for rows, known in zip(chosen, _labels_at(labels, chosen), strict=True):
        x = phi[rows].double()
        y = F.one_hot(known, classes).double()
        middle, level = x.mean(0), y.mean(0)
        x, y = x - middle, y - level
        penalty = spec.ridge * len(x)
        if len(x) < x.shape[1]:
            inner = x @ x.T
            inner.diagonal().add_(penalty)
            weight = (x.T @ torch.linalg.solve(inner, y)).T
        else:
            inner = x.T @ x
            inner.diagonal().add_(penalty)
            weight = torch.linalg.solve(inner, x.T @ y).T
        weights.append(weight)
        biases.append(level - weight @ middle)
    return Fit(torch.stack(weights).float(), torch.stack(biases).float(), (), 0.0)


def fit_heads(
    phi: Tensor, labels: Tensor, chosen: Tensor, classes: int, spec: OutputSpec, seed: int,
    control: Control = UNWATCHED,
) -> Fit:  # fmt: skip
    """Fit heads by the method that the spec names; shapes as in `fit_by_gradient`."""
    if spec.method == "ridge":
        return fit_ridge(phi, labels, chosen, classes, spec)
    return fit_by_gradient(phi, labels, chosen, classes, spec, seed, control)


def _labels_at(labels: Tensor, rows: Tensor) -> Tensor:
    """Labels [D, B] of rows [D, B], from those that all draws share, [N], or each one's, [D, N]."""
    return labels.expand(len(rows), -1).gather(1, rows)


@torch.no_grad()
def predict_heads(fit: Fit, phi: Tensor) -> Tensor:
    """Predicted classes [D, N] of all heads on shared features [N, d].

    They lie on the heads' device, wherever the features do.
    """
    parts = [
        (part.to(fit.weight.device) @ fit.weight.transpose(1, 2) + fit.bias[:, None]).argmax(2)
        for part in phi.split(PREDICTED_TOGETHER)
    ]
    return torch.cat(parts, dim=1)
