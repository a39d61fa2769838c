"""Torch networks as graphs of what they compute, by torch's own tracer."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from modkernel.errors import SpecError

CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Traced:
    """A network that was traced: what it computes, in order, and what it computes that with.

    Nothing in the graph changes a tensor in place, and what depends on the mode still does.
    """

    name: str
    network: nn.Module
    graph: fx.Graph

    @property
    def constants(self) -> dict[str, Any]:
        """Tensors that the network's code makes, which tracing left in the network."""
        return {
            node.target: getattr(self.network, node.target)
            for node in self.graph.nodes
            if node.op == "get_attr" and node.target.startswith("_tensor_constant")
        }


def trace(name: str, network: nn.Module) -> Traced:
    """Trace a network in eval mode, from one batch of examples to one tensor.

    Raises:
        SpecError: it cannot be traced.
    """
    network.eval()  # What it does in training alone, such as heads beside the last one, is no part.
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # Tracing runs the code of any network.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SpecError(
            f"Network '{name}' cannot be traced, so it cannot be cut ({lines[0][:200]}): use a "
            "network whose forward does not depend on its input's values, or write a function that "
            "returns its Blocks."
        ) from error
    _follow_the_mode(graph, network)
    _change_nothing_in_place(graph, network)
    cleaned = fx.GraphModule(network, graph).graph
    cleaned.eliminate_dead_code()
    return Traced(name, network, cleaned)


def node_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """The name of each node that computes something, as torchvision has it, and each once."""
    taken = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    names: dict[fx.Node, str] = {}
    seen: dict[str, int] = {}
    for node in graph.nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        if node.op == "call_module":
            name = str(node.target)
        else:
            what = node.target if isinstance(node.target, str) else node.target.__name__
            stack = node.meta.get("nn_module_stack") or {}
            path = next(reversed(stack), "")
            name = f"{path}.{what}" if path else what
        number = seen.get(name, 0)
        while number and f"{name}_{number}" in taken:  # Of a module whose own name it is.
            number += 1
        seen[name] = number + 1
        names[node] = f"{name}_{number}" if number else name
    return names


def by_mode(training: bool, in_training: Any, in_evaluation: Any) -> Any:
    """A constant that depends on the mode of the network."""
    return in_training if training else in_evaluation


class _Tracer(fx.Tracer):
    """Goes into every module but torch's own and those of torchvision.ops, as torchvision does.

    Nor into batch norms of other kinds, whose statistics are theirs to keep.
    """

    def __init__(self) -> None:
        from torchvision import ops  # Takes as long as torch itself, and few networks are traced.

        functions: Any = (math, ops)
        super().__init__(autowrap_modules=functions)
        found = vars(ops).values()
        self.leaves: tuple[type, ...] = (
            _BatchNorm,
            *(one for one in found if isinstance(one, type) and issubclass(one, nn.Module)),
        )

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        def of_examples(network: nn.Module, x: Any) -> Any:
            return root_fn(network, x)  # All else that it may be given has its default.

        return super().create_args_for_root(of_examples, is_module)


def _follow_the_mode(graph: fx.Graph, network: nn.Module) -> None:
    """Have constants that are others in train mode depend on the mode, as dropout's do."""
    try:
        trained = _Tracer().trace(copy.deepcopy(network).train())
    except Exception:  # A network that needs more than examples for training.
        return
    others = {name: node for node, name in node_names(trained).items()}
    for node, name in node_names(graph).items():
        other = others.get(name)
        if other is None or (other.op, other.target) != (node.op, node.target):
            continue
        with graph.inserting_before(node):
            node.args = _both(graph, node.args, other.args)
            node.kwargs = _both(graph, node.kwargs, other.kwargs)


def _both(graph: fx.Graph, evaluated: Any, trained: Any) -> Any:
    """Arguments of a node, of which the constants that differ are chosen by the mode."""
    if isinstance(evaluated, CONSTANTS) and isinstance(trained, CONSTANTS):
        same = type(evaluated) is type(trained) and evaluated == trained
        return evaluated if same else _chosen(graph, evaluated, trained)
    if type(evaluated) is not type(trained):
        return evaluated
    if isinstance(evaluated, list | tuple) and len(evaluated) == len(trained):
        pairs = zip(evaluated, trained, strict=True)
        return type(evaluated)(_both(graph, one, other) for one, other in pairs)
    if isinstance(evaluated, Mapping) and evaluated.keys() == trained.keys():
        return {key: _both(graph, value, trained[key]) for key, value in evaluated.items()}
    return evaluated


def _chosen(graph: fx.Graph, evaluated: Any, trained: Any) -> fx.Node:
    return graph.call_function(by_mode, (graph.get_attr("training"), trained, evaluated))


def _change_nothing_in_place(graph: fx.Graph, network: nn.Module) -> None:
    """Have each node give a tensor of its own, which later ones take in place of a changed one.

    A cut may lie before any node: what a module gives is others' to read. And what changes its
    input without giving anything that is used would look as if nobody needed it.
    """
    place = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _changes_its_input(node, network):
            continue
        changed = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if isinstance(changed, fx.Node):
            for user in list(changed.users):
                if place.get(user, -1) > place[node]:
                    user.replace_input_with(changed, node)


def _changes_its_input(node: fx.Node, network: nn.Module) -> bool:
    """Whether it did; if it can be had otherwise, it does no more."""
    if node.op == "call_module":
        return getattr(network.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        plain = _plain(str(node.target))
        if plain is not None and hasattr(torch.Tensor, plain):
            node.target = plain
        return plain is not None
    if node.op != "call_function":
        return False
    function: Any = node.target
    name = getattr(function, "__name__", "")
    plain = _plain(name)
    if plain is not None:
        node.target = getattr(torch, plain, getattr(functional, plain, function))
        return True
    given = _given(function, node)
    if given.get("inplace") is not True:
        return False
    first, *others = given.items()
    node.args, node.kwargs = (first[1],), {**dict(others), "inplace": False}
    return True


def _plain(name: str) -> str | None:
    """The name of what changes nothing: 'relu' of 'relu_'."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else None


def _given(function: Any, node: fx.Node) -> dict[str, Any]:
    """A node's arguments by their names; none where the function does not tell them."""
    try:
        return dict(inspect.signature(function).bind(*node.args, **node.kwargs).arguments)
    except (TypeError, ValueError):
        return dict(node.kwargs)
