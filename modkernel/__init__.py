"""modkernel: networks built from separately trained modules, compared by kernels on pairs.

The core: torch, torchvision, numpy, pydantic and safetensors are all that it needs. `registry`
stores what it trains, `flows` runs it. The names below are imported when they are first used, so
that a program that wants one of them does not wait for all of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modkernel.data import DataPlaces, describe_dataset, load_dataset
    from modkernel.errors import ModkernelError
    from modkernel.kernels import make_kernel
    from modkernel.modules.network import Network
    from modkernel.modules.stored import StoredModule, read_module, write_module
    from modkernel.objectives.table import make_objective
    from modkernel.pairs.source import PairSource
    from modkernel.reuse.moments import ClassMoments
    from modkernel.reuse.scores import SCORES, reusability
    from modkernel.reuse.task import Task, parse_task
    from modkernel.spec import DatasetSpec, ModuleSpec, NetworkSpec
    from modkernel.training import evaluate, train_end_to_end, train_hidden, train_output

__all__ = [
    "SCORES",
    "ClassMoments",
    "DataPlaces",
    "DatasetSpec",
    "ModkernelError",
    "ModuleSpec",
    "Network",
    "NetworkSpec",
    "PairSource",
    "StoredModule",
    "Task",
    "describe_dataset",
    "evaluate",
    "load_dataset",
    "make_kernel",
    "make_objective",
    "parse_task",
    "read_module",
    "reusability",
    "train_end_to_end",
    "train_hidden",
    "train_output",
    "write_module",
]

_HOMES = {
    "ClassMoments": "moments",
    "DataPlaces": "data",
    "DatasetSpec": "spec",
    "ModkernelError": "errors",
    "ModuleSpec": "spec",
    "Network": "assemble",
    "NetworkSpec": "spec",
    "PairSource": "pairs",
    "SCORES": "scores",
    "StoredModule": "stored",
    "Task": "task",
    "describe_dataset": "data",
    "evaluate": "training",
    "load_dataset": "data",
    "make_kernel": "kernels",
    "make_objective": "objectives",
    "parse_task": "task",
    "read_module": "stored",
    "reusability": "scores",
    "train_end_to_end": "training",
    "train_hidden": "training",
    "train_output": "training",
    "write_module": "stored",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modkernel' has no attribute '{name}'")
    return getattr(import_module(f"modkernel.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
