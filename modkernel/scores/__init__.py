"""How good a stored module is to build on for a task: scores of its features, without training."""

from modkernel.scores.outputs import leep, nce
from modkernel.scores.resample import bootstrap
from modkernel.scores.ridge import head_accuracy, ridge_head
from modkernel.scores.streaming import anchor_contrastive, contrastive, log_contrastive
from modkernel.scores.table import DEFAULT_SCORE, SCORES, Score
from modkernel.scores.tasks import reusability, score_tasks

__all__ = [
    "DEFAULT_SCORE",
    "SCORES",
    "Score",
    "anchor_contrastive",
    "bootstrap",
    "contrastive",
    "head_accuracy",
    "leep",
    "log_contrastive",
    "nce",
    "reusability",
    "ridge_head",
    "score_tasks",
]
