"""Training: hidden modules from pairs, output modules from labels, and the end-to-end baseline."""

from modkernel.training.end_to_end import train_end_to_end
from modkernel.training.evaluation import Evaluation, evaluate
from modkernel.training.hidden import train_hidden
from modkernel.training.network import TrainedNetwork, train_network
from modkernel.training.output import train_output
from modkernel.training.report import EpochLine, OutputEvaluation, TrainReport

__all__ = [
    "EpochLine",
    "Evaluation",
    "OutputEvaluation",
    "TrainReport",
    "TrainedNetwork",
    "evaluate",
    "train_end_to_end",
    "train_hidden",
    "train_network",
    "train_output",
]
