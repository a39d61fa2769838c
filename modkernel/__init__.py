"""modkernel: networks built from separately trained modules, compared by kernels on pairs.

The core: torch, torchvision, numpy, pydantic and safetensors are all that it needs.
`modkernel.registry` stores what it trains, `modkernel.flows` runs it.

>>> import torch
>>> import modkernel
>>> h = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [0.2, 1.0]])
>>> kernel = modkernel.make_kernel(modkernel.KernelSpec(name="relu"))
>>> pairs = modkernel.PairLabels.from_classes(torch.tensor([0, 0, 1, 1]))
>>> objective = modkernel.make_objective(modkernel.ObjectiveSpec(name="pair_correlation"), kernel)
>>> round(objective(kernel.gram(h, h), pairs).item(), 2)
0.98
"""

from typing import TYPE_CHECKING

from modkernel.system.lazy import lazy_names

if TYPE_CHECKING:
    # The public surface, listed here alone. A name is imported when it is first used: a program
    # that wants one of them, such as the command line, does not wait for all of torch.
    from modkernel.control import Control as Control
    from modkernel.data import DataPlaces as DataPlaces
    from modkernel.data import Dataset as Dataset
    from modkernel.data import DatasetInfo as DatasetInfo
    from modkernel.data import RawData as RawData
    from modkernel.data import describe_dataset as describe_dataset
    from modkernel.data import load_dataset as load_dataset
    from modkernel.data import place_dataset as place_dataset
    from modkernel.errors import ModkernelError as ModkernelError
    from modkernel.features.measure import measure as measure
    from modkernel.kernels import Kernel as Kernel
    from modkernel.kernels import make_kernel as make_kernel
    from modkernel.lookup import trusting as trusting
    from modkernel.modules.network import Network as Network
    from modkernel.modules.network import assemble as assemble
    from modkernel.modules.stored import StoredModule as StoredModule
    from modkernel.modules.stored import read_module as read_module
    from modkernel.modules.stored import write_module as write_module
    from modkernel.objectives.table import make_objective as make_objective
    from modkernel.pairs.labels import PairLabels as PairLabels
    from modkernel.pairs.source import PairSource as PairSource
    from modkernel.plan import facts as facts
    from modkernel.plan import output_spec as output_spec
    from modkernel.plan import plan_network as plan_network
    from modkernel.reuse.moments import ClassMoments as ClassMoments
    from modkernel.reuse.scores import SCORES as SCORES
    from modkernel.reuse.scores import reusability as reusability
    from modkernel.reuse.task import Task as Task
    from modkernel.reuse.task import parse_task as parse_task
    from modkernel.spec import BackboneSpec as BackboneSpec
    from modkernel.spec import DatasetSpec as DatasetSpec
    from modkernel.spec import HiddenModuleSpec as HiddenModuleSpec
    from modkernel.spec import HiddenSpec as HiddenSpec
    from modkernel.spec import KernelSpec as KernelSpec
    from modkernel.spec import ModuleSpec as ModuleSpec
    from modkernel.spec import NetworkSpec as NetworkSpec
    from modkernel.spec import ObjectiveSpec as ObjectiveSpec
    from modkernel.spec import OutputModuleSpec as OutputModuleSpec
    from modkernel.spec import OutputSpec as OutputSpec
    from modkernel.spec import Recipe as Recipe
    from modkernel.spec.group import GroupSpec as GroupSpec
    from modkernel.system.precision import Arithmetic as Arithmetic
    from modkernel.system.precision import choose_arithmetic as choose_arithmetic
    from modkernel.training import Evaluation as Evaluation
    from modkernel.training import TrainedNetwork as TrainedNetwork
    from modkernel.training import TrainReport as TrainReport
    from modkernel.training import evaluate as evaluate
    from modkernel.training import train_end_to_end as train_end_to_end
    from modkernel.training import train_hidden as train_hidden
    from modkernel.training import train_network as train_network
    from modkernel.training import train_output as train_output
    from modkernel.training import train_together as train_together
    from modkernel.training.output import LabelledData as LabelledData
    from modkernel.training.pair_data import PairData as PairData

__all__, __getattr__ = lazy_names(__name__, __file__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
