"""Build the hidden modules of a backbone from the names of their blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from modkernel.backbones.block import Block
from modkernel.backbones.elsewhere import package_in, traced_of_package
from modkernel.backbones.lenet import lenet5
from modkernel.backbones.mlp import mlp
from modkernel.backbones.resnet import RESNETS
from modkernel.backbones.traced import Traced, trace
from modkernel.backbones.whole import Make, whole_blocks
from modkernel.errors import InterfaceError, SpecError
from modkernel.lookup import OWN, import_object, is_import_path, lookup
from modkernel.spec import MOST_BLOCKS, BackboneSpec, Shape
from modkernel.system.seeding import seeded

BACKBONES = {"mlp": mlp, "lenet5": lenet5, **RESNETS}
"""Name to the function that gives the blocks of a `BackboneSpec`, in order."""


def blocks_of(spec: BackboneSpec) -> tuple[Block, ...]:
    """The named blocks of a backbone, in order.

    A name of the form `package.module:function` is the user's own: the function takes the
    `BackboneSpec` (its arguments are in `spec.options`) and returns the blocks; or, of a `whole`
    one, takes the options and returns a network, whose blocks are found by tracing it. So are those
    of `torchvision/NAME` and `timm/NAME`.

    Raises:
        UnknownNameError: no such backbone.
        SpecError: the user's own cannot be imported or fails, or what it returns is not a
            non-empty sequence of blocks with distinct names; or options for a built-in one.
    """
    if is_whole(spec):
        found = tuple(whole_blocks(*traced_network(spec)))
        _check_names(spec.name, [block.name for block in found])
        return found
    if not is_import_path(spec.name):
        function = lookup(BACKBONES, spec.name, "backbone", OWN)
        if spec.options:
            raise SpecError(
                f"Backbone '{spec.name}' takes no options, but got {', '.join(spec.options)}: "
                "use width, depth and activation; options are for your own backbone function."
            )
        return tuple(function(spec))
    function = import_object(spec.name, "backbone")
    try:
        blocks = tuple(islice(function(spec), MOST_BLOCKS + 1))
    except Exception as error:
        raise SpecError(
            f"Backbone '{spec.name}' failed: {type(error).__name__}: {error}. It must be a "
            "function that takes a BackboneSpec and returns a sequence of Blocks."
        ) from error
    if len(blocks) > MOST_BLOCKS:
        raise SpecError(
            f"Backbone '{spec.name}' has more than {MOST_BLOCKS} blocks, the most that there may "
            "be: join some of them into one."
        )
    _check_blocks(spec.name, blocks)
    return blocks


def is_whole(spec: BackboneSpec) -> bool:
    """Whether a backbone is a whole torch network, with its classifier."""
    return spec.whole or package_in(spec.name) is not None


def traced_network(spec: BackboneSpec) -> tuple[Traced, Make]:
    """A backbone that is a whole network, and what builds it again.

    Raises:
        UnknownNameError: its package has no such network.
        SpecError: it cannot be imported, built or traced.
    """
    if package_in(spec.name) is not None:
        return traced_of_package(spec)
    if not is_import_path(spec.name):
        raise SpecError(f"'whole' is for backbones by import path, not for '{spec.name}'.")
    function = import_object(spec.name, "network")

    def make() -> nn.Module:
        try:
            network = function(**spec.options)
        except Exception as error:
            raise SpecError(
                f"Network '{spec.name}' failed: {type(error).__name__}: {error}. It must be a "
                "function that takes the options, if any, and returns a torch module."
            ) from error
        if not isinstance(network, nn.Module):
            raise SpecError(
                f"Network '{spec.name}' gave a {type(network).__name__}: its function must return "
                "a torch module."
            )
        return network

    return trace(spec.name, make()), make


@dataclass(frozen=True)
class Placed:
    """A block as it stands in its backbone.

    Attributes:
        name: of the block.
        also: other names of it.
        stage: that it is part of; none where it is one of its own.
        takes: shape of one example before it.
        gives: shape of one example after it.
        weights: whether it has any that are trained.
    """

    name: str
    also: tuple[str, ...]
    stage: str | None
    takes: Shape
    gives: Shape
    weights: bool


def course_of(backbone: BackboneSpec, takes: Shape, start_after: str | None) -> list[Placed]:
    """The blocks of a backbone after one of them, as an example passes them.

    It ends where a block cannot take what reaches it, such as a map that has become too small.

    Args:
        backbone: whose blocks.
        takes: shape of one example before the first of them.
        start_after: name of the block before the first of them; none begins with the backbone.

    Raises:
        UnknownNameError, SpecError: as of `blocks_of`.
    """
    blocks = blocks_of(backbone)
    if start_after is not None:
        names = [(block.name, *block.also) for block in blocks]
        blocks = blocks[1 + next(n for n, known in enumerate(names) if start_after in known) :]
    placed = []
    with _without_weights(backbone):
        for block in blocks:
            try:
                module, gives = _build_block(_bare(block), takes)
            except (InterfaceError, SpecError):
                break
            weights = any(True for _ in module.parameters())
            placed.append(Placed(block.name, block.also, block.stage, takes, gives, weights))
            takes = gives
    return placed


def build_hidden(
    backbone: BackboneSpec, blocks: tuple[str, ...], takes: Shape, seed: int, use: str = ""
) -> nn.Sequential:
    """Build the named blocks, in order, for inputs of shape `takes`, on the CPU in train mode.

    A block's initial weights depend on the seed and the block's name alone: not on what was built
    before, nor on where the backbone is cut. Global random state is left as it was.

    Args:
        backbone: whose blocks.
        blocks: names of them.
        takes: shape of one example before the first.
        seed: of the initial weights.
        use: goes before each block's name there: copies for another use have other weights.

    Returns:
        A sequence of the blocks; in its keys `_` stands for the `.` of a block's name.

    Raises:
        SpecError: the backbone has no such block (see `blocks_of` too).
        InterfaceError: a block cannot take the shape that reaches it.
    """
    table = {block.name: block for block in blocks_of(backbone)}
    built: OrderedDict[str, nn.Module] = OrderedDict()
    for name in blocks:
        block = lookup(table, name, f"block of backbone '{backbone.name}'")
        with seeded(seed, use + name):
            built[_key(name)], takes = _build_block(block, takes)
    return nn.Sequential(built)


def build_skeleton(
    backbone: BackboneSpec, blocks: tuple[str, ...], takes: Shape
) -> tuple[nn.Sequential, Shape]:
    """The same sequence without initial weights, to load stored ones into, and what it gives.

    Built-in backbones are built on the meta device, which costs no memory and no time. A user's
    own is built for real, since its code may hold more than parameters and stored buffers.

    Raises:
        SpecError: the backbone has no such block.
        InterfaceError: a block cannot take the shape that reaches it.
    """
    table = {block.name: block for block in blocks_of(backbone)}
    built: OrderedDict[str, nn.Module] = OrderedDict()
    with _without_weights(backbone):
        for name in blocks:
            block = lookup(table, name, f"block of backbone '{backbone.name}'")
            built[_key(name)], takes = _build_block(_bare(block), takes)
    return nn.Sequential(built), takes


def output_shape(module: nn.Module, takes: Shape) -> Shape:
    """Shape of one example's output, found by passing one example of zeros in eval mode.

    The module is left as it was: modes, parameters and buffers.

    Raises:
        InterfaceError: the module cannot take the shape, or does not give one tensor [N, …].
    """
    return _tried(module, takes)[0]


def _tried(module: nn.Module, takes: Shape) -> tuple[Shape, bool]:
    """Shape of one example's output, and whether the example is another one afterwards."""
    tensor = next(module.parameters(), None)
    with torch.inference_mode(False):  # In it, nothing tells whether a tensor was altered.
        example = torch.zeros((1, *takes), device=None if tensor is None else tensor.device)
    try:
        with _evaluating(module), torch.no_grad():
            output = module(example)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InterfaceError(
            f"Examples of shape {list(takes)} do not fit the module: {reason} "
            "Give it the shape that it was made for, or choose another image size or backbone."
        ) from error
    if not isinstance(output, Tensor) or output.dim() < 2 or output.shape[0] != 1:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InterfaceError(
            f"A module must give one tensor with an example in each row, but a batch of one "
            f"example gave {found}: return [N, d] or [N, C, H, W]."
        )
    return tuple(output.shape[1:]), example._version > 0


def _check_blocks(backbone: str, blocks: tuple[object, ...]) -> None:
    wrong = [type(block).__name__ for block in blocks if not isinstance(block, Block)]
    if wrong or not blocks:
        found = f"a {wrong[0]} among them" if wrong else "none"
        raise SpecError(
            f"Backbone '{backbone}' must return modkernel Blocks, at least one, but there was "
            f"{found}: return [Block(name, build), …]."
        )
    _check_names(backbone, [block.name for block in blocks if isinstance(block, Block)])


def _check_names(backbone: str, names: Sequence[str]) -> None:
    keys = [_key(name) for name in names]
    if "" in keys or len(set(keys)) < len(keys):
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        found = f"{', '.join(repeated)} more than once" if repeated else "an empty name"
        raise SpecError(
            f"Backbone '{backbone}' must give each block a name of its own ('.' and '_' count as "
            f"the same), but there was {found}: rename the blocks, or a network's layers."
        )


def _build_block(block: Block, takes: Shape) -> tuple[nn.Module, Shape]:
    try:
        module = block.build(takes)
        if not isinstance(module, nn.Module):
            raise InterfaceError(f"it built a {type(module).__name__}, not a torch module.")
        gives, altered = _tried(module, takes)
        # Dropout alters what it takes in train mode alone.
        if altered or any(vars(part).get("inplace") is True for part in module.modules()):
            module.register_forward_pre_hook(_on_a_copy)
        return module, gives
    except InterfaceError as error:
        raise InterfaceError(f"Block '{block.name}': {error}") from error
    except Exception as error:
        raise SpecError(
            f"Block '{block.name}' failed on examples of shape {list(takes)} with "
            f"{type(error).__name__}: {error}. Fix the backbone's code."
        ) from error


def _on_a_copy(block: nn.Module, taken: tuple[Tensor]) -> Tensor:
    """What a block takes is the output of a module, which others read too: it alters a copy."""
    return taken[0].clone()


@contextmanager
def _without_weights(backbone: BackboneSpec) -> Iterator[None]:
    """Inside, blocks are built where they cost least, and leave random state as it was."""
    device = "cpu" if is_import_path(backbone.name) else "meta"
    with torch.device(device), torch.random.fork_rng(devices=[]):
        yield


def _bare(block: Block) -> Block:
    return replace(block, build=block.skeleton or block.build)


def _key(name: str) -> str:
    return name.replace(".", "_")  # torch refuses dots in the names of children


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
