"""Modules of a network that was trained elsewhere: its weights, cut and stored as ours are."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from modkernel.backbones import build_skeleton, traced_network
from modkernel.backbones.cut import cut
from modkernel.backbones.whole import same_as_traced
from modkernel.errors import SpecError, WeightsError
from modkernel.kernels import fitting
from modkernel.modules.stored import StoredModule, write_module
from modkernel.spec import (
    BackboneSpec,
    DatasetFacts,
    HiddenSpec,
    ImportedModuleSpec,
    Interface,
    KernelSpec,
    Origin,
    Preprocessing,
    Shape,
)

ELSEWHERE = DatasetFacts(name="elsewhere", fingerprint="elsewhere", classes=())
"""What is known of the data that such a network was trained on."""
NAMED = 8
"""Tensors that an error names; the others are counted."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
"""Endings of files that are pickles as a rule."""
CONVERSION = (
    "import sys, torch; from safetensors.torch import save_file; "
    "save_file({k: v.clone() for k, v in torch.load(sys.argv[1], weights_only=True).items()}, "
    "sys.argv[2])"
)
"""What makes safetensors of a state dict that torch has pickled; the files are its arguments."""
_COUNTER = "num_batches_tracked"
"""Of batch norms: counted in training alone, and left out by old versions of torch."""


@dataclass(frozen=True)
class ImportedNetwork:
    """Modules of a network from elsewhere.

    Attributes:
        modules: first to last, in the folders `hidden-1`, `hidden-2`, ….
        left_out: tensors of the file that none of them has, such as the classifier's.
        parameters: how many numbers of each module are trained.
    """

    modules: tuple[StoredModule, ...]
    left_out: tuple[str, ...]
    parameters: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        path: where it is.
        sha256: of the whole file.
        tensors: by name.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]


def read_weights(path: Path) -> Weights:
    """Read a file of safetensors; nothing is unpickled.

    Raises:
        WeightsError: it is missing, or something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"Cannot read the weights {path}: {error.strerror or error}. Name a safetensors file."
        ) from error
    if path.suffix.lower() in PICKLES or content.startswith(b"PK\x03\x04"):  # as torch writes it
        raise _pickled(path)
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        # Of safetensors, too, one file in 32 begins with the byte that a bare pickle begins with.
        if content.startswith(b"\x80"):
            raise _pickled(path) from None
        raise WeightsError(
            f"{path} is not a safetensors file of weights: {error}. Have it made again by "
            "safetensors' save_file, of whole numbers and floats of 16 to 64 bits."
        ) from error
    return Weights(path, hashlib.sha256(content).hexdigest(), tensors)


def _pickled(path: Path) -> WeightsError:
    converted = path.with_name(f"{path.stem}.converted.safetensors")
    command = shlex.join(["python", "-c", CONVERSION, str(path), str(converted)])
    return WeightsError(
        f"{path} is a pickle, which can run any code when it is read, so it is not: where you "
        f"trust whoever made it, convert it with {command}"
    )


def write_network(
    folder: Path,
    backbone: BackboneSpec,
    weights: Weights,
    ends: Sequence[str],
    preprocessing: Preprocessing,
    licence: str,
) -> ImportedNetwork:
    """Cut a network into modules with the weights of a file, each on the one before it.

    Args:
        folder: gets a folder a module; nothing is written before all is checked.
        backbone: builds the network.
        weights: of the network; what comes after the last cut may be missing.
        ends: the block that each module ends with, in order.
        preprocessing: of the network's images.
        licence: of the weights.

    Raises:
        CutError: no such block, or out of order.
        SpecError: the network cannot be built or traced, or not all of it is seen in the trace.
        InterfaceError: it does not take such images.
        WeightsError: tensors that are missing, too many, of another shape, or not finite.
    """
    if not ends:
        raise SpecError("No block is named to cut the network at: give at least one.")
    parts = list(_parts(backbone, ends, preprocessing.shape))
    used = {plain_name(key): value for part in parts for key, value in part.tensors.items()}
    left_out = _check(backbone, weights, used)
    of_it = {name: weights.tensors[name] for name in used if name in weights.tensors}
    if not same_as_traced(*traced_network(backbone), of_it, preprocessing.shape):
        raise SpecError(
            f"Network '{backbone.name}' computes something else than what could be traced of it, "
            "so its modules would not be the network's: write a function that returns its Blocks."
        )
    origin = Origin(weights_sha256=weights.sha256, licence=licence)
    upstream, stored = preprocessing.id, []
    for number, part in enumerate(parts, start=1):
        kernel = fitting(KernelSpec(name="auto"), part.gives)
        spec = ImportedModuleSpec(
            interface=Interface(
                upstream=upstream, takes=part.takes, gives=part.gives, kernel=kernel
            ),
            dataset=ELSEWHERE,
            seed=0,
            preprocessing=preprocessing,
            backbone=backbone,
            blocks=part.blocks,
            origin=origin,
        )
        values = {key: _value(key, like, weights) for key, like in part.tensors.items()}
        stored.append(write_module(folder / f"hidden-{number}", spec, values))
        upstream = stored[-1].id
    return ImportedNetwork(tuple(stored), left_out, tuple(part.parameters for part in parts))


def plain_name(key: str) -> str:
    """The name that a tensor of a whole network's block has in the network."""
    return key.partition(".")[2]


@dataclass(frozen=True)
class _Part:
    blocks: tuple[str, ...]
    takes: Shape
    gives: Shape
    tensors: dict[str, Tensor]
    """Without values."""
    parameters: int


def _parts(backbone: BackboneSpec, ends: Sequence[str], takes: Shape) -> Iterator[_Part]:
    """The modules to be, whose weights are to come."""
    hidden = [HiddenSpec(until=end) for end in ends]
    for blocks in cut(backbone, hidden, to_end=False):
        skeleton, gives = build_skeleton(backbone, blocks, takes)
        parameters = sum(parameter.numel() for parameter in skeleton.parameters())
        yield _Part(blocks, takes, gives, skeleton.state_dict(), parameters)
        takes = gives


def _check(backbone: BackboneSpec, weights: Weights, used: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Check that a file has the tensors of a network's first modules; those that it has besides."""
    found = weights.tensors
    known = traced_network(backbone)[0].network.state_dict().keys()
    # Whatever a classifier's tensors are called, they begin with its name.
    after = {_root(name) for name in known} - {_root(name) for name in used}
    missing = [name for name in used if name not in found and not name.endswith(f".{_COUNTER}")]
    extra = [name for name in found if name not in known and _root(name) not in after]
    other = [name for name, like in used.items() if name in found and not _fits(found[name], like)]
    wrong = [
        f"{what}: {_listed(names)}"
        for what, names in (
            ("missing", missing),
            ("not of the network", extra),
            ("of another shape or type", [_compared(name, found, used) for name in other]),
        )
        if names
    ]
    if wrong:
        raise WeightsError(
            f"{weights.path} does not hold the weights of '{backbone.name}' up to the last cut "
            f"({'; '.join(wrong)}): name the network that they were saved from."
        )
    # As they will be used: not all types can be asked, and large numbers may not fit.
    endless = [
        name
        for name, like in used.items()
        if name in found and not found[name].to(like.dtype).isfinite().all()
    ]
    if endless:
        raise WeightsError(
            f"{weights.path} has values that are no numbers in {_listed(endless)}: use weights "
            "whose training did not fail."
        )
    return tuple(sorted(found.keys() - used.keys()))


def _root(name: str) -> str:
    return name.partition(".")[0]


def _fits(found: Tensor, like: Tensor) -> bool:
    return found.shape == like.shape and found.is_floating_point() == like.is_floating_point()


def _compared(name: str, found: Mapping[str, Tensor], used: Mapping[str, Tensor]) -> str:
    have, want = (f"{str(t[name].dtype)[6:]} {list(t[name].shape)}" for t in (found, used))
    return f"{name} is {have}, must be {want}"


def _value(key: str, like: Tensor, weights: Weights) -> Tensor:
    """A tensor as a module holds it: half precision becomes float32."""
    found = weights.tensors.get(plain_name(key))
    return torch.zeros(like.shape, dtype=like.dtype) if found is None else found.to(like.dtype)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
