"""Whole torch networks as backbones: traced, and cut wherever a single tensor passes.

The names of the blocks are torchvision's names of a network's nodes (see
`torchvision.models.feature_extraction`): the path of a module, or of the module in whose code
something is computed and the name of that. A block is named by the shortest path that it ends.
"""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from modkernel.backbones.block import Block
from modkernel.errors import SpecError
from modkernel.spec import Shape

Make = Callable[[], nn.Module]
"""Builds a network with fresh weights."""


@dataclass(frozen=True)
class Traced:
    """A network that was traced: what it computes, in order, and what it computes that with."""

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
    cleaned = fx.GraphModule(network, graph).graph
    cleaned.eliminate_dead_code()
    return Traced(name, network, cleaned)


def whole_blocks(traced: Traced, make: Make) -> list[Block]:
    """The finest blocks that a traced network can be cut into.

    Args:
        traced: the network.
        make: builds it again, for a block with weights of its own.
    """
    blocks = []
    start = next(node for node in traced.graph.nodes if node.op == "placeholder")
    for (name, *others), end in _ends(traced.graph):
        cut = partial(_cut, traced, start, end)
        blocks.append(
            Block(
                name,
                partial(_built, cut, make),
                # Of a network of one level ('conv1', 'layer1', …), a stage is a child.
                stage=name.partition(".")[0],
                skeleton=partial(_built, cut, None),
                also=tuple(others),
            )
        )
        start = end
    return blocks


class _Tracer(fx.Tracer):
    """Goes into every module but torch's own and those of torchvision.ops, as torchvision does."""

    def __init__(self) -> None:
        from torchvision import ops  # Takes as long as torch itself, and few networks are traced.

        functions: Any = (math, ops)
        super().__init__(autowrap_modules=functions)
        found = vars(ops).values()
        self.leaves = tuple(
            one for one in found if isinstance(one, type) and issubclass(one, nn.Module)
        )

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        def of_examples(network: nn.Module, x: Any) -> Any:
            return root_fn(network, x)  # All else that it may be given has its default.

        return super().create_args_for_root(of_examples, is_module)


def _names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Of each node that computes something, in order."""
    seen: Counter[str] = Counter()
    names = {}
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
        names[node] = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
    return names


def _ends(graph: fx.Graph) -> Iterator[tuple[list[str], fx.Node]]:
    """The nodes after which nothing before is needed, each with the paths that it ends."""
    nodes, names = list(graph.nodes), _names(graph)
    place = {node: position for position, node in enumerate(nodes)}
    last_use = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    last = {path: node for node, full in names.items() for path in _paths(full)}
    needed: set[fx.Node] = set()
    for position, node in enumerate(nodes):
        needed = {one for one in needed if last_use[one] > position}
        # Parameters are at hand everywhere.
        if node.op in ("get_attr", "output"):
            continue
        alone = node in names and not needed and last_use[node] > position
        if alone and not _gives_several(node):
            yield [path for path in _paths(names[node]) if last[path] is node], node
        needed.add(node)


def _gives_several(node: fx.Node) -> bool:
    """Whether it gives a tuple, as 'chunk' does: no network takes the first example by itself."""
    return any(
        user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users
    )


def _paths(name: str) -> list[str]:
    """'a', 'a.b' and 'a.b.c' of 'a.b.c'."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _built(
    cut: Callable[[nn.Module | None], nn.Module], make: Make | None, takes: Shape
) -> nn.Module:
    return cut(None if make is None else make())


def _cut(traced: Traced, start: fx.Node, end: fx.Node, network: nn.Module | None) -> fx.GraphModule:
    """What comes after one node up to another, with the weights of a network.

    Args:
        traced: the network as it was traced.
        start: what the block takes.
        end: what the block gives.
        network: whose weights it gets; a copy of the traced one's if left out.
    """
    graph = fx.Graph()
    copied = {start: graph.placeholder("x")}

    def at_hand(node: fx.Node) -> fx.Node:
        if node not in copied:  # A parameter, of which others have copies of their own.
            copied[node] = graph.node_copy(node)
        return copied[node]

    nodes = list(traced.graph.nodes)
    for node in nodes[nodes.index(start) + 1 : nodes.index(end) + 1]:
        if node.op not in ("get_attr", "placeholder"):
            copied[node] = graph.node_copy(node, at_hand)
    graph.output(copied[end])
    root = traced.network if network is None else network
    for name, value in traced.constants.items():
        if not hasattr(root, name):
            setattr(root, name, value)
    block = fx.GraphModule(root, graph, class_name="Block")
    stored = traced.network.state_dict().keys()
    for name, _ in list(block.named_buffers()):
        owner, _, field = name.rpartition(".")
        if name not in stored:
            # fx makes every tensor that it meets a part of the state dict.
            block.get_submodule(owner)._non_persistent_buffers_set.add(field)
    return copy.deepcopy(block) if network is None else block.train()


def on_meta(make: Make) -> nn.Module | None:
    """A network that takes no memory; none where it cannot be built so, or not be loaded into."""
    try:
        with torch.device("meta"):
            network = make()
    except NotImplementedError:  # Of one whose code looks at its weights.
        return None
    stored = network.state_dict().keys()
    return network if all(name in stored for name, _ in network.named_buffers()) else None
