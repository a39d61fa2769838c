"""Which blocks of a backbone stand on a hidden module while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile, takewhile

from modkernel.backbones.build import Placed, is_whole
from modkernel.errors import InterfaceError, UnknownNameError
from modkernel.spec import BackboneSpec, Projection, Tail

AUTO_BLOCKS = 3
"""Blocks with weights that an automatic tail has at most: a ResNet's first stage has so many
stages after it, and a deep backbone without stages would else train each module with all of it."""


def resolve_tail(
    tail: Tail,
    backbone: BackboneSpec,
    last_block: str,
    course: Sequence[Placed],
) -> Tail:
    """A tail as what is stored has it: names of blocks, a projection, or 'none'.

    'auto' is the first block of each later stage, in order, `AUTO_BLOCKS` with weights at most; a
    block without a stage is a stage of its own. Where such a block does not take what comes before
    it, the blocks on the way to it are in the tail too, and where no stage follows, the blocks that
    follow are. Of a whole network it has none that flatten, nor the classifier.

    Args:
        tail: as it was asked for.
        backbone: what the module is cut from.
        last_block: of the module.
        course: the backbone's blocks, the module's among them.

    Raises:
        UnknownNameError: a block that the backbone does not have.
        InterfaceError: a block that does not take what the one before it gives.
    """
    if tail == "none" or isinstance(tail, Projection):
        return tail
    module, *later = dropwhile(lambda one: one.name != last_block, course)
    if isinstance(tail, tuple):
        return _named(tail, backbone, module, course)
    if isinstance(tail, int):
        return _names(later[:tail])
    return _names(_automatic(backbone, module, later))


def _automatic(backbone: BackboneSpec, module: Placed, later: Sequence[Placed]) -> list[Placed]:
    if is_whole(backbone):
        later = _without_classifier(module, later)
    later = _to_weights(later)
    firsts = [
        place
        for place, (before, one) in enumerate(zip([module, *later], later, strict=False))
        if one.stage is None or one.stage != before.stage
    ]
    tail: list[Placed] = []
    place, gives = 0, module.gives
    while place < len(later) and sum(one.weights for one in tail) < AUTO_BLOCKS:
        first = next((first for first in firsts if first >= place), None)
        if first is None and firsts:
            break
        # The very next block always fits: what is before it is as in the backbone.
        if first is not None and later[first].takes == gives:
            place = first
        tail.append(later[place])
        gives, place = later[place].gives, place + 1
    return _to_weights(tail)


def _to_weights(blocks: Sequence[Placed]) -> list[Placed]:
    """Up to the last block that has weights."""
    count = max((place for place, one in enumerate(blocks, start=1) if one.weights), default=0)
    return list(blocks[:count])


def _without_classifier(module: Placed, later: Sequence[Placed]) -> list[Placed]:
    kept = _to_weights(later)[:-1]
    return list(takewhile(lambda one: len(one.gives) >= len(module.gives), kept))


def _named(
    tail: Sequence[str], backbone: BackboneSpec, module: Placed, course: Sequence[Placed]
) -> tuple[str, ...]:
    known = {name: one for one in course for name in (*one.also, one.name)}
    before, gives = module.name, module.gives
    found = []
    for name in tail:
        if name not in known:
            raise UnknownNameError(
                f"block of backbone '{backbone.name}'", name, [one.name for one in course]
            )
        block = known[name]
        if block.takes != gives:
            raise InterfaceError(
                f"Block '{block.name}' takes {list(block.takes)}, and gets {list(gives)} from "
                f"'{before}': name blocks of which each takes what the one before it gives, or a "
                "number of following blocks."
            )
        before, gives = block.name, block.gives
        found.append(block.name)
    return tuple(found)


def _names(blocks: Sequence[Placed]) -> Tail:
    return tuple(one.name for one in blocks) or "none"
