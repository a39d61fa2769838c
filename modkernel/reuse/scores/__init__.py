"""How good a stored module is to build on for a task: scores of its features, without training."""

from modkernel.reuse.scores.contrast import anchor_contrastive, contrastive, log_contrastive
from modkernel.reuse.scores.leep_nce import leep, nce
from modkernel.reuse.scores.neighbours import knn
from modkernel.reuse.scores.resampling import bootstrap
from modkernel.reuse.scores.ridge import head_accuracy, head_confusion, ridge_head
from modkernel.reuse.scores.table import DEFAULT_SCORE, SCORES, Score
from modkernel.reuse.scores.tasks import reusability, score_tasks

__all__ = [
    "DEFAULT_SCORE",
    "SCORES",
    "Score",
    "anchor_contrastive",
    "bootstrap",
    "contrastive",
    "head_accuracy",
    "head_confusion",
    "knn",
    "leep",
    "log_contrastive",
    "nce",
    "reusability",
    "ridge_head",
    "score_tasks",
]
