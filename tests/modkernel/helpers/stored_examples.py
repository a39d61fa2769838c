"""Small modules to store, for tests of storing and assembling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from modkernel.backbones import build_hidden, output_shape
from modkernel.modules.join import JOINED_KERNEL, joined_shape
from modkernel.modules.output import OutputModule
from modkernel.modules.stored import StoredModule, write_module
from modkernel.spec import (
    BackboneSpec,
    DatasetFacts,
    HiddenModuleSpec,
    HiddenSpec,
    Interface,
    KernelSpec,
    ModuleSpec,
    OutputModuleSpec,
    OutputSpec,
    Preprocessing,
    Shape,
    Upstream,
)

PREPROCESSING = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.3,), std=(0.2,))
FACTS = DatasetFacts(name="digits", fingerprint="0" * 64, classes=("0", "1", "2"))
RELU_AVGPOOL = KernelSpec(name="relu_avgpool")
RESNET = BackboneSpec(name="resnet18", width=2)


def hidden_spec(
    blocks: tuple[str, ...],
    takes: Shape,
    gives: Shape,
    upstream: str,
    seed: int = 0,
    backbone: BackboneSpec = RESNET,
) -> ModuleSpec:
    return HiddenModuleSpec(
        interface=Interface(upstream=upstream, takes=takes, gives=gives, kernel=KernelSpec()),
        dataset=FACTS,
        seed=seed,
        preprocessing=PREPROCESSING,
        backbone=backbone,
        blocks=blocks,
        hidden=HiddenSpec(),
    )


def make_hidden(
    blocks: tuple[str, ...],
    takes: Shape,
    upstream: str,
    seed: int = 0,
    backbone: BackboneSpec = RESNET,
) -> tuple[ModuleSpec, nn.Module]:
    """A module with statistics as after some training, and its spec."""
    module = build_hidden(backbone, blocks, takes, seed)
    module(torch.randn(16, *takes, generator=torch.Generator().manual_seed(seed)))
    gives = output_shape(module, takes)
    return hidden_spec(blocks, takes, gives, upstream, seed, backbone), module


def store_hidden(
    folder: Path,
    blocks: tuple[str, ...],
    takes: Shape,
    upstream: str,
    seed: int = 0,
    preprocessing: Preprocessing = PREPROCESSING,
) -> tuple[StoredModule, nn.Module]:
    spec, module = make_hidden(blocks, takes, upstream, seed)
    spec = spec.changed(preprocessing=preprocessing)
    return write_module(folder, spec, module.state_dict()), module.eval()


def store_joined_output(
    folder: Path, below: Sequence[StoredModule], weights: Sequence[float] | None = None
) -> tuple[StoredModule, OutputModule]:
    """An output module on several hidden modules side by side."""
    interface = Interface(
        upstream=[
            Upstream(id=one.id, weight=weight)
            for one, weight in zip(below, weights or [1.0] * len(below), strict=True)
        ],
        takes=joined_shape([one.spec.interface for one in below]),
        gives=(3,),
        kernel=JOINED_KERNEL,
    )
    module = OutputModule(JOINED_KERNEL, interface.takes, 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        module.weight.normal_(generator=generator)
        module.bias.normal_(generator=generator)
    spec = output_spec(interface.takes, below[0].id, JOINED_KERNEL).changed(
        interface=interface, preprocessing=below[0].spec.preprocessing
    )
    return write_module(folder, spec, module.state_dict()), module.eval()


def output_spec(takes: Shape, upstream: str, kernel: KernelSpec) -> ModuleSpec:
    return OutputModuleSpec(
        interface=Interface(upstream=upstream, takes=takes, gives=(3,), kernel=kernel),
        dataset=FACTS,
        seed=0,
        preprocessing=PREPROCESSING,
        output=OutputSpec(),
        classes=FACTS.classes,
    )


def store_output(
    folder: Path,
    takes: Shape,
    upstream: str,
    kernel: KernelSpec = RELU_AVGPOOL,
    centres: Tensor | None = None,
) -> tuple[StoredModule, OutputModule]:
    module = OutputModule(kernel, takes, 3, centres)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        module.weight.normal_(generator=generator)
        module.bias.normal_(generator=generator)
    spec = output_spec(takes, upstream, kernel)
    return write_module(folder, spec, module.state_dict()), module.eval()
