"""Linear classifiers on fixed features, several label draws at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modkernel.control import UNWATCHED, Control
from modkernel.spec import OutputSpec
from modkernel.training.loop import minimise
from modkernel.training.report import EpochLine


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


def fit_by_gradient(
    phi: Tensor, labels: Tensor, chosen: Tensor, classes: int, spec: OutputSpec, seed: int,
    control: Control = UNWATCHED,
) -> Fit:  # fmt: skip
    """Fit heads by stochastic gradient on the loss that `spec.method` names.

    Args:
        phi: float32 [N, d].
        labels: int64 [N], on the device of `phi`.
        chosen: int64 [D, n], the labelled examples of each draw.
        classes: C.
        spec: method, recipe, least number of steps.
        seed: of the order of the examples.
        control: progress and stop.
    """
    draws, count = chosen.shape
    chosen = chosen.to(phi.device)
    heads = Heads(draws, phi.shape[1], classes).to(phi.device)
    loss_of = LOSSES[spec.method]
    size = min(spec.recipe.batch_size, count)
    passes = math.ceil(spec.minimum_steps / spec.recipe.epochs / math.ceil(count / size))

    def batches(generator: torch.Generator) -> list[Tensor]:
        return [
            batch
            for _ in range(max(1, passes))
            for batch in torch.randperm(count, generator=generator).split(size)
        ]

    def rows(positions: Tensor) -> Tensor:
        return chosen[:, positions.to(phi.device, non_blocking=True)]

    def load(order: Sequence[Tensor], _: int) -> Iterator[Tensor]:
        for positions in order:
            yield phi[rows(positions)]

    def loss(batch: Tensor, positions: Tensor, _: torch.Generator) -> Tensor:
        each = loss_of(heads(batch).flatten(0, 1), labels[rows(positions)].flatten())
        # Summed over draws, so that a draw's gradient does not depend on how many there are.
        return each.view(draws, -1).mean(1).sum()

    def each_draw(event: Mapping[str, Any]) -> None:
        control.progress({**event, "objective": event["objective"] / draws})

    result = minimise(
        heads,
        loss,
        batches=batches,
        load=load,
        recipe=spec.recipe,
        seed=seed,
        control=replace(control, progress=each_draw),
    )
    history = tuple(
        line.model_copy(update={"objective": line.objective / draws}) for line in result.history
    )
    return Fit(result.weights["weight"], result.weights["bias"], history, result.seconds)


def fit_ridge(phi: Tensor, labels: Tensor, chosen: Tensor, classes: int, spec: OutputSpec) -> Fit:
    """Fit heads in closed form: ridge regression on one-hot targets with a free intercept.

    W = argmin Σ‖W(φ - mean φ) - (y - mean y)‖² + ridge·n·‖W‖², solved in float64 in the
    smaller of its two equivalent forms, d x d or n x n.

    Args and shapes as in `fit_by_gradient`.
    """
    weights, biases = [], []
    for rows in chosen.to(phi.device):
        x = phi[rows].double()
        y = F.one_hot(labels[rows], classes).double()
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


@torch.no_grad()
def predict_heads(fit: Fit, phi: Tensor) -> Tensor:
    """Predicted classes [D, N] of all heads on shared features [N, d].

    They lie on the heads' device, wherever the features do.
    """
    parts = [
        (part.to(fit.weight.device) @ fit.weight.transpose(1, 2) + fit.bias[:, None]).argmax(2)
        for part in phi.split(4096)
    ]
    return torch.cat(parts, dim=1)
