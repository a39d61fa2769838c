"""Cut a backbone between its blocks into hidden modules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from torch import nn

from modkernel.backbones import Block, blocks_of, is_whole
from modkernel.errors import CutError
from modkernel.spec import BackboneSpec, HiddenSpec


def cut(
    backbone: BackboneSpec,
    hidden: Sequence[HiddenSpec],
    start_after: str | None = None,
    to_end: bool = True,
) -> tuple[tuple[str, ...], ...]:
    """Block names of each hidden module, in order.

    With `until` in every hidden module, each one ends after the block that it names. With `until`
    in none, the blocks are shared out evenly: whole stages (a ResNet's layer1 with its stem,
    layer2, …) if there are enough of them, single blocks otherwise, the earlier modules getting
    one more where it does not divide.

    Args:
        backbone: What to cut.
        hidden: The hidden modules; only `until` is read.
        start_after: Cut only what comes after this block; None begins with the first block.
        to_end: Whether the last module must end at the backbone's last block; False allows to
            train a network's first modules alone. A whole network's last blocks may be left out.

    Raises:
        CutError: an unknown block, ends out of order, a last module that does not reach the last
            block, `until` in some modules only, or more modules than blocks.
        SpecError: the backbone cannot be imported, fails or returns no blocks (`blocks_of`).
    """
    blocks = blocks_of(backbone)
    if start_after is not None:
        blocks = blocks[_position(backbone, blocks, start_after) + 1 :]
        if not blocks:
            raise CutError(
                f"Nothing of backbone '{backbone.name}' is left after its last block "
                f"'{start_after}': begin after an earlier block, or train an output module."
            )
    if not hidden:
        raise CutError("There is no hidden module: give at least one.")
    if len(hidden) > len(blocks):
        raise CutError(
            f"{len(hidden)} hidden modules cannot be cut from {len(blocks)} blocks "
            f"({_names(blocks)}): use {len(blocks)} or fewer, or a deeper backbone."
        )
    ends = [module.until for module in hidden if module.until is not None]
    if not ends:
        return _share_out(blocks, len(hidden))
    if len(ends) < len(hidden):
        raise CutError(
            f"Only {len(ends)} of {len(hidden)} hidden modules say 'until': "
            "give it in all of them, or in none to share the blocks out evenly."
        )
    return _cut_at(backbone, blocks, ends, to_end)


def check_weights(module: nn.Module, blocks: Sequence[str], field: str) -> None:
    """Check that a hidden module of some blocks has something to train.

    Raises:
        CutError: it has no weights; the message begins with the field that asks for it.
    """
    if next(module.parameters(), None) is None:
        these = " to ".join(dict.fromkeys((blocks[0], blocks[-1])))
        raise CutError(
            f"{field}: A module of {these} would have no weights to train: end it after a later "
            "block, or let the module before it or after it have these blocks."
        )


def _share_out(blocks: tuple[Block, ...], count: int) -> tuple[tuple[str, ...], ...]:
    single = [(block.name,) for block in blocks]
    stages = [
        tuple(block.name for block in group)
        for _, group in groupby(blocks, key=lambda block: block.stage or block)
    ]
    groups = stages if count <= len(stages) else single
    size, larger = divmod(len(groups), count)
    shares = []
    for index in range(count):
        taken = size + (index < larger)
        shares.append(tuple(name for group in groups[:taken] for name in group))
        groups = groups[taken:]
    return tuple(shares)


def _cut_at(
    backbone: BackboneSpec, blocks: tuple[Block, ...], ends: list[str], to_end: bool
) -> tuple[tuple[str, ...], ...]:
    names = [block.name for block in blocks]
    positions = [_position(backbone, blocks, end) for end in ends]
    for module, (before, after) in enumerate(pairwise(positions), start=2):
        if after <= before:
            raise CutError(
                f"Hidden module {module} ends at '{names[after]}', which does not come after "
                f"'{names[before]}', where the one before it ends: the order is {_names(blocks)}."
            )
    # A whole network's classifier is of no use to other tasks.
    if to_end and not is_whole(backbone) and positions[-1] != len(blocks) - 1:
        raise CutError(
            f"The last hidden module ends at '{ends[-1]}' and leaves "
            f"{_names(blocks[positions[-1] + 1 :])} to no module: "
            f"let it end at '{names[-1]}', the last block."
        )
    starts = [0, *(position + 1 for position in positions[:-1])]
    return tuple(
        tuple(names[start : end + 1]) for start, end in zip(starts, positions, strict=True)
    )


def _position(backbone: BackboneSpec, blocks: tuple[Block, ...], name: str) -> int:
    for index, block in enumerate(blocks):
        if name == block.name or name in block.also:
            return index
    raise CutError(
        f"Backbone '{backbone.name}' has no block '{name}' to cut at: use one of {_names(blocks)}."
    )


def _names(blocks: Sequence[Block]) -> str:
    return ", ".join(block.name for block in blocks)
