"""Several modules side by side: what a module that stands on all of them takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modkernel.errors import InterfaceError
from modkernel.kernels import JOINED, make_kernel
from modkernel.spec import Interface, KernelSpec, ModuleSpec, Preprocessing, Shape

JOINED_KERNEL = KernelSpec(name=JOINED)
"""Of an output module on several modules."""


def make_join(
    interface: Interface, below: Sequence[Interface]
) -> Callable[[Sequence[Tensor]], Tensor]:
    """What lays the outputs h_m [N, …] of several modules side by side, in their order.

    It gives √w_m φ_m(h_m), [N, Σ d_m]: the inner product of two such rows is Σ w_m k_m, the
    weighted sum of the modules' kernels. For a module that takes maps it gives √w_m h_m,
    [N, Σ C_m, H, W].

    Args:
        interface: Of the module that stands on them.
        below: Interfaces of the modules, in the order in which `interface` names them.
    """
    scales = [math.sqrt(one.weight) for one in interface.upstream]
    kernels = [make_kernel(one.kernel) for one in below]
    maps = takes_maps(interface)

    def join(outputs: Sequence[Tensor]) -> Tensor:
        if not maps:
            outputs = [k.features(h) for k, h in zip(kernels, outputs, strict=True)]
        scaled = zip(scales, outputs, strict=True)
        return torch.cat([h if scale == 1 else scale * h for scale, h in scaled], dim=1)

    return join


def takes_maps(interface: Interface) -> bool:
    """Whether a module on several others takes their maps, rather than their features."""
    return len(interface.takes) == 3


def have_equal_maps(below: Sequence[Interface]) -> bool:
    """Whether modules give maps of one height and width, whose channels can lie side by side."""
    shapes = [one.gives for one in below]
    return all(len(shape) == 3 and shape[1:] == shapes[0][1:] for shape in shapes)


def joined_shape(below: Sequence[Interface], maps: bool = False) -> Shape:
    """Shape of what several modules give side by side.

    Args:
        below: Their interfaces.
        maps: Whether it is their maps, rather than their features.

    Raises:
        InterfaceError: the maps are none or of several sizes, or a kernel has no features.
    """
    if maps:
        if not have_equal_maps(below):
            shapes = ", ".join(str(list(one.gives)) for one in below)
            raise InterfaceError(
                f"Outputs of shapes {shapes} are no maps of one height and width: join the "
                "modules' features, which are vectors."
            )
        return sum(one.gives[0] for one in below), *below[0].gives[1:]
    return (sum(map(_features, below)),)


def _features(interface: Interface) -> int:
    """How many features a module has."""
    kernel = make_kernel(interface.kernel)
    if not kernel.has_features:
        raise InterfaceError(
            f"A module under the kernel '{kernel.name}' has no features to lie beside those of "
            "others: join modules of another kernel (tanh, sigmoid, relu, relu_avgpool)."
        )
    return kernel.features(torch.zeros(1, *interface.gives)).shape[1]


def check_join(modules: Sequence[tuple[str, ModuleSpec]]) -> None:
    """Check that modules can stand side by side in one network.

    Args:
        modules: Each with what people call it.

    Raises:
        InterfaceError: one is an output module, is there twice, has no features, or takes other
            raw examples than the first one.
    """
    names = [name for name, _ in modules]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InterfaceError(
            f"{twice} is named twice: a module stands beside others once; give it more weight with "
            "'weights'."
        )
    first, reference = modules[0]
    for name, spec in modules:
        if spec.kind == "output":
            raise InterfaceError(
                f"{name} is an output module: join the hidden modules under it, whose features a "
                "new output module then takes side by side."
            )
        differing = other_examples(reference.preprocessing, spec.preprocessing)
        if differing is not None:
            raise InterfaceError(f"{first} and {name} {differing}")
    if len(modules) > 1:
        joined_shape([spec.interface for _, spec in modules])


def other_examples(one: Preprocessing, other: Preprocessing) -> str | None:
    """How the raw examples of two chains differ, and the remedy; None where both take the same.

    Each chain has its own mean and spread: these may differ.
    """
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        remedy = "join modules of examples of one shape"
        if one.image_fields() and other.image_fields() and one.dtype == other.dtype:
            channels, *sides = one.shape
            remedy += f", or train one on images of {sides[0]} x {sides[1]} pixels and {channels} "
            remedy += "channels (dataset.image_size, dataset.channels)"
        return (
            f"take raw examples of different shapes, {list(one.shape)} {one.dtype} and "
            f"{list(other.shape)} {other.dtype}: {remedy}."
        )
    if one.columns is not None and other.columns is not None and one.columns != other.columns:
        place = next(i for i, pair in enumerate(zip(one.columns, other.columns, strict=True))
                     if len(set(pair)) > 1)  # fmt: skip
        return (
            f"take tables whose column {place + 1} is '{one.columns[place]}' and "
            f"'{other.columns[place]}': join modules of the same columns in the same order."
        )
    if one.reading != other.reading:
        return (
            "read image files in different ways (value_range, background): join modules that were "
            "trained on images that are read alike."
        )
    return None
