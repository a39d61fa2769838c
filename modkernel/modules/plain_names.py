"""The tensors of a network under names that say nothing of modules: those of plain torch code.

A backbone that is cut into modules has its names as if it were whole, and a ResNet those of
`torchvision.models.resnet`, so that torchvision's own class, or one written by hand, loads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from modkernel.backbones import is_whole
from modkernel.backbones.resnet import RESNETS
from modkernel.modules.network import Network
from modkernel.modules.preprocess import Normalise
from modkernel.spec import AnyHiddenSpec

MAP, COPY = "map.linear.", "upper."
"""What a stitch's keys begin with."""
OUTPUT = "fc"
"""What the output module's tensors begin with, as the last layer of torchvision's networks."""
_RESNET = (
    (re.compile(r"^stem\.(conv|bn)\."), r"\g<1>1."),
    (re.compile(r"\.body\."), "."),
    (re.compile(r"\.shortcut\.conv\."), ".downsample.0."),
    (re.compile(r"\.shortcut\.bn\."), ".downsample.1."),
)


def plain_tensors(network: Network) -> dict[str, Tensor]:
    """A network's live tensors by plain names, in the order in which an example meets them.

    `mean` and `std` are the preprocessing's (of vectors `low` and `high` too, where there are
    bounds), then come the blocks of the backbone, and `fc.weight`, `fc.bias` (`fc.centres` under a
    gaussian kernel) of the output module. Blocks of several backbones, and of modules side by side,
    begin with `hidden-K.`; of several preprocessings each begins with `input-K.`. So do those of a
    network with a stitch, where `map` is what comes before the copied blocks, and those of a
    backbone that has one of these names itself.
    """
    named: dict[str, Tensor] = {}
    for number, preprocess in enumerate(network.preprocess, start=1):
        assert isinstance(preprocess, Normalise)
        prefix = f"input-{number}." if len(network.preprocess) > 1 else ""
        named |= {f"{prefix}mean": preprocess.mean, f"{prefix}std": preprocess.std}
        if preprocess.spec.bounds is not None:
            named |= {f"{prefix}low": preprocess.low, f"{prefix}high": preprocess.high}
    specs = [s.spec for s in network.stored if s.spec.kind != "output"]
    blocks = [block for spec in specs for block in spec.blocks]
    one_backbone = len({spec.backbone.digest() for spec in specs}) <= 1
    is_chain = not any(
        stored.spec.interface.joins or stored.spec.kind == "stitch" for stored in network.stored
    )
    hidden = [
        {name: tensors[key] for key, name in _of_blocks(spec, tuple(tensors))}
        for spec, tensors in zip(specs, (m.state_dict() for m in network.hidden), strict=True)
    ]
    output = {} if network.output is None else network.output.state_dict()
    last = {f"{OUTPUT}.{key}": tensor for key, tensor in output.items()}
    taken = [*named, *last, *(name for tensors in hidden for name in tensors)]
    whole = is_chain and one_backbone and len(set(blocks)) == len(blocks)
    whole = whole and len(set(taken)) == len(taken)
    for number, tensors in enumerate(hidden, start=1):
        prefix = "" if whole else f"hidden-{number}."
        named |= {prefix + name: tensor for name, tensor in tensors.items()}
    return named | last


def _of_blocks(spec: AnyHiddenSpec, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Keys of a hidden module's state dict, each with its plain name."""
    blocks = {block.replace(".", "_"): block for block in spec.blocks}
    for key in keys:
        if spec.kind == "stitch" and key.startswith(MAP):
            yield key, f"map.{key.removeprefix(MAP)}"
            continue
        child, _, rest = key.removeprefix(COPY if spec.kind == "stitch" else "").partition(".")
        # A whole network's blocks have its names already.
        name = rest if is_whole(spec.backbone) else f"{blocks[child]}.{rest}"
        if spec.backbone.name in RESNETS:
            for pattern, plain in _RESNET:
                name = pattern.sub(plain, name)
        yield key, name
