"""Whole torch networks as backbones: traced, and cut wherever a single tensor passes.

The names of the blocks are torchvision's names of a network's nodes (see
`torchvision.models.feature_extraction`): the path of a module, or of the module in whose code
something is computed and the name of that. A block is named by the shortest path that it ends.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn

from modkernel.backbones.block import Block
from modkernel.backbones.traced import Traced, node_names
from modkernel.spec import Shape

Make = Callable[[], nn.Module]
"""Builds a network with fresh weights."""


def whole_blocks(traced: Traced, make: Make) -> list[Block]:
    """The finest blocks that a traced network can be cut into.

    Args:
        traced: the network.
        make: builds it again, for a block with weights of its own.
    """
    blocks = []
    start = next(node for node in traced.graph.nodes if node.op == "placeholder")
    for (name, *others), end in _ends(traced):
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


def same_as_traced(traced: Traced, make: Make, weights: Mapping[str, Tensor], takes: Shape) -> bool:
    """Whether what was traced of a network gives what the network gives, on one random example.

    Tracing sees the calls of torch's functions alone: an assignment to a part of a tensor that is
    not the network's input, say, is not among them.

    Args:
        traced: the network.
        make: builds it again.
        weights: what it gets of them, by name; what it has none of keeps its initial values.
        takes: shape of an example.

    Returns:
        Also true where it cannot be told: of a network that does not take such examples as a whole,
        or gives something else each time.
    """
    start, *_, output = traced.graph.nodes
    (end,) = output.args
    if not isinstance(end, fx.Node):
        return True
    network = make().eval()
    network.load_state_dict(weights, strict=False)
    example = torch.randn(1, *takes, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            theirs, again = network(example), network(example)
        except Exception:  # The code of any network.
            return True
        if not isinstance(theirs, Tensor) or not torch.equal(theirs, again):
            return True
        ours = _cut(traced, start, end, network).eval()(example)
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def _ends(traced: Traced) -> Iterator[tuple[list[str], fx.Node]]:
    """The nodes after which nothing before is needed, each with the paths that it ends."""
    nodes, names = list(traced.graph.nodes), node_names(traced.graph)
    shared = _between_uses(traced)
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
        if alone and position not in shared and not _gives_several(node):
            yield [path for path in _paths(names[node]) if last[path] is node], node
        needed.add(node)


def _between_uses(traced: Traced) -> set[int]:
    """Where in the graph some weights have been used and will be used again.

    Blocks have weights of their own, so a cut there would make several of what is one.
    """
    first: dict[int, int] = {}
    between: set[int] = set()
    for position, node in enumerate(traced.graph.nodes):
        for weights in _weights_of(node, traced.network):
            between.update(range(first.setdefault(id(weights), position), position))
    return between


def _weights_of(node: fx.Node, network: nn.Module) -> Iterator[nn.Parameter]:
    if node.op == "call_module":
        yield from network.get_submodule(str(node.target)).parameters()
    for parameter in node.all_input_nodes:
        if parameter.op == "get_attr" and parameter.target != "training":
            owner, _, field = str(parameter.target).rpartition(".")
            value = getattr(network.get_submodule(owner), field)
            if isinstance(value, nn.Parameter):
                yield value


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
    for module in block.modules():
        if "inplace" in vars(module):  # As in the graph: what the block takes is others' to read.
            vars(module)["inplace"] = False
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
