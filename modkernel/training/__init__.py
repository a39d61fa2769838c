"""Training: hidden modules from pairs, output modules from labels, and the end-to-end baseline."""

from typing import TYPE_CHECKING

from modkernel.system.lazy import lazy_names

if TYPE_CHECKING:
    # Imported when first used: what reads reports alone does not wait for torch.
    from modkernel.training.end_to_end import train_end_to_end as train_end_to_end
    from modkernel.training.evaluation import Evaluation as Evaluation
    from modkernel.training.evaluation import evaluate as evaluate
    from modkernel.training.hidden import train_hidden as train_hidden
    from modkernel.training.network import TrainedNetwork as TrainedNetwork
    from modkernel.training.network import train_network as train_network
    from modkernel.training.output import train_output as train_output
    from modkernel.training.report import EpochLine as EpochLine
    from modkernel.training.report import OutputEvaluation as OutputEvaluation
    from modkernel.training.report import TrainReport as TrainReport
    from modkernel.training.together import train_together as train_together

__all__, __getattr__ = lazy_names(__name__, __file__)
