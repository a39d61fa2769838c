"""Frozen chains of stored modules, and the features of their kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from modkernel.data.sources import ExampleSource
from modkernel.errors import InterfaceError
from modkernel.kernels import make_kernel
from modkernel.modules.network import Graph, check_chain
from modkernel.modules.stored import StoredModule
from modkernel.spec import KernelSpec, ModuleSpec
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for


def frozen_chain(modules: Sequence[StoredModule]) -> Graph:
    """Preprocessing and stored modules, frozen: raw examples [B, ...] to the last one's output.

    Raises:
        InterfaceError: they are not the last one and all that it stands on, see `check_chain`.
    """
    check_chain(modules)
    return Graph(modules)


def frozen_upstream(spec: ModuleSpec, modules: Sequence[StoredModule]) -> Graph:
    """Preprocessing and stored modules below the module that `spec` describes, frozen.

    Maps raw examples [B, ...] to what the module takes. Eval mode, no parameter with a gradient.

    Raises:
        InterfaceError: the modules are not in order, or not those that `spec` stands on.
    """
    if not modules:
        if spec.interface.stands_on != (spec.preprocessing.id,):
            raise _other(spec, spec.preprocessing.id)
        return Graph((), spec.interface, spec.preprocessing)
    above = StoredModule("", spec, Path(), "", "")
    missing = {*spec.interface.stands_on} - {one.id for one in modules}
    if missing:
        raise _other(spec, modules[-1].id)
    if modules[0].spec.preprocessing != spec.preprocessing:
        raise InterfaceError(
            "The module's preprocessing differs from that of the chain it is to stand on: "
            "take the preprocessing of the chain's first module."
        )
    check_chain([*modules, above])
    return Graph(modules, spec.interface)


def _other(spec: ModuleSpec, found: str) -> InterfaceError:
    wanted = ", ".join(one[:24] for one in spec.interface.stands_on)
    return InterfaceError(
        f"The module stands on upstream {wanted}, but was given {found[:24]}: pass the whole chain "
        "below it, in order."
    )


class FeatureExtractor(nn.Module):
    """Raw examples [B, ...] -> φ [B, d] of the chain's output, in float32."""

    centres: Tensor | None

    def __init__(self, chain: nn.Module, kernel: KernelSpec, centres: Tensor | None) -> None:
        super().__init__()
        self.chain, self.kernel = chain, make_kernel(kernel)
        self.register_buffer("centres", centres)

    def forward(self, raw: Tensor) -> Tensor:
        """φ of raw examples, in float32 whichever format the chain runs in."""
        return self.kernel.feature_map(self.chain(raw).float(), self.centres)


def make_extractor(
    chain: nn.Module, kernel: KernelSpec, examples: ExampleSource, seed: int, arithmetic: Arithmetic
) -> FeatureExtractor:
    """The feature extractor of a chain that is on the device already.

    Args:
        chain: raw batches [B, ...] to outputs [B, ...], frozen.
        kernel: whose features are taken.
        examples: training examples, of which a gaussian kernel's centres are drawn.
        seed: of that draw.
        arithmetic: device and number format.
    """
    centres = None
    if not make_kernel(kernel).has_features:
        picks = torch.randperm(len(examples), generator=generator_for(seed, "centres"))
        (raw,) = examples.batches([picks[: kernel.centres]], arithmetic.device)
        with torch.no_grad(), arithmetic.autocast():
            centres = chain(arithmetic.arrange(raw)).float()
    return FeatureExtractor(chain, kernel, centres).eval()


def extractor_name(
    extractor: FeatureExtractor, kernel: KernelSpec, seed: int, drawn_from: str = "train"
) -> str:
    """What an extractor is called in a `FeatureKey`; a gaussian one's centres are part of it.

    Args:
        extractor: whose features are cached.
        kernel: that it was made with.
        seed: of the draw.
        drawn_from: the split that the centres are of.
    """
    name = f"features {kernel.digest()} "
    if extractor.centres is None:
        return name
    return f"{name}{seed}" if drawn_from == "train" else f"{name}{seed} of {drawn_from}"
