"""Scores from a source network's class probabilities on the target's examples."""

from __future__ import annotations

import torch
from torch import Tensor

from modkernel.errors import ScoreError

__all__ = ["leep", "nce"]


def leep(probabilities: Tensor, labels: Tensor) -> float:
    """mean_i log Σ_z P(y_i | z) θ(x_i)_z, with P from the joint of labels and source classes.

    Source: Nguyen et al., ICML 2020.

    Args:
        probabilities: θ, rows that sum to 1, [N, Z].
        labels: int64 [N], of the target; -1 is left out.

    Raises:
        ScoreError: no examples, or rows that are no probabilities.
    """
    theta, onehot, labels = _prepare(probabilities, labels)
    joint = onehot.T @ theta / len(theta)
    # A source class that is never given has no weight in the sum below.
    given = joint / joint.sum(0).clamp_min(torch.finfo(joint.dtype).tiny)
    return float((theta * given[labels]).sum(1).log().mean())


def nce(probabilities: Tensor, labels: Tensor) -> float:
    """−H(y | z), z the likeliest source class: minus the entropy of the labels that is left.

    Source: Tran, Nguyen, Hassner, ICCV 2019. Arguments and errors as of `leep`.
    """
    theta, onehot, labels = _prepare(probabilities, labels)
    likeliest = theta.argmax(1)
    joint = torch.zeros(onehot.shape[1], theta.shape[1], dtype=theta.dtype, device=theta.device)
    joint.index_put_((labels, likeliest), torch.ones_like(theta[:, 0]), accumulate=True)
    given = joint / joint.sum(0).clamp_min(1)
    return float(given[labels, likeliest].log().mean())


def _prepare(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities [N, Z] and one-hot labels [N, C], float64, and labels [N]."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ScoreError(
            f"Probabilities of shape {list(probabilities.shape)} do not go with labels of shape "
            f"{list(labels.shape)}: give [N, Z] and [N]."
        )
    known = labels >= 0
    theta, labels = probabilities[known].double(), labels[known]
    if not len(theta):
        raise ScoreError("There are no labelled examples to score a network's outputs by.")
    unit = torch.isclose(theta.sum(1), theta.new_ones(()), atol=1e-3)
    if not bool(unit.all()) or bool((theta < 0).any()):
        raise ScoreError(
            "Rows of class probabilities must not be negative and must sum to 1: give the "
            "softmax of the network's outputs."
        )
    onehot = torch.nn.functional.one_hot(labels).double()
    return theta, onehot, labels
