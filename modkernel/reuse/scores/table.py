"""The scores, by name. Larger is better for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from modkernel.reuse.scores import contrast, leep_nce, logme, neighbours, pairwise, ridge, spread

__all__ = ["DEFAULT_SCORE", "ON_MOMENTS", "SCORES", "Needs", "Score"]

Needs = Literal["moments", "held_out", "features", "held_out_features", "outputs"]
ON_MOMENTS = ("moments", "held_out")
"""What a score needs that is computed from moments alone."""


@dataclass(frozen=True)
class Score:
    """A row of the table.

    Attributes:
        name: in `SCORES`.
        function: of `TaskStatistics` where it needs moments (held_out: with held-out ones), of
            (features [N, d], labels [N]), of both of training and then of held-out examples
            (held_out_features), or of (class probabilities [N, Z], labels [N]).
        needs: what it is computed from.
        summary: one line for a table.
    """

    name: str
    function: Callable[..., float]
    needs: Needs
    summary: str


_ROWS = (
    Score("logme", logme.logme, "moments", "evidence for a linear model of the labels"),
    Score("h_score", spread.h_score, "moments", "variance between classes, whitened"),
    Score("lda", spread.lda, "moments", "Fisher's ratio: scatter between to within classes"),
    Score("ridge", ridge.ridge, "held_out", "variance that a ridge output module explains"),
    Score("pair_correlation", pairwise.pair_correlation, "moments", "correlation of k with same"),
    Score("upper_alignment", pairwise.upper_alignment, "moments", "the paper's kernel alignment"),
    Score("nmse", pairwise.nmse, "moments", "minus the mean squared error of k off the diagonal"),
    Score("raw", pairwise.raw, "moments", "k of same pairs less k of different pairs"),
    Score("transrate", spread.transrate, "moments", "coding rate of all less that of the classes"),
    Score("bhattacharyya", spread.bhattacharyya, "moments", "distance of Gaussian classes"),
    Score("contrastive", contrast.contrastive, "features", "share of e^k on same pairs"),
    Score("log_contrastive", contrast.log_contrastive, "features", "its logarithm"),
    Score("anchor_contrastive", contrast.anchor_contrastive, "features", "the same by anchor"),
    Score("knn", neighbours.knn, "held_out_features", "held-out examples that neighbours tell"),
    Score("leep", leep_nce.leep, "outputs", "log-likelihood of the labels given source classes"),
    Score("nce", leep_nce.nce, "outputs", "minus the entropy of the labels given source classes"),
)
SCORES: Mapping[str, Score] = {row.name: row for row in _ROWS}
"""Name to score."""
DEFAULT_SCORE = "logme"
"""What modules are ranked by where no score is named.

In `modkernel study` on the JPEG copy of CIFAR-10 (docs/reuse.md): a mean Spearman correlation with
the truth of 0.953, and 0.01 points of accuracy lost, as `h_score` and `lda`; it alone is defined,
and steady, with few examples.
"""
