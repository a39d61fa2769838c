"""Small data and specs for tests of training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from modkernel.data import Resident
from modkernel.modules.stored import StoredModule, write_module
from modkernel.pairs.source import PairSource
from modkernel.plan import HiddenPlan, plan_hidden
from modkernel.spec import (
    BackboneSpec,
    DatasetFacts,
    HiddenSpec,
    Interface,
    KernelSpec,
    ModuleSpec,
    OutputModuleSpec,
    OutputSpec,
    Preprocessing,
    Recipe,
)
from modkernel.training.hidden import train_hidden
from modkernel.training.output import LabelledData
from modkernel.training.pair_data import PairData
from tests.modkernel.helpers.devices import FLOAT32

PREPROCESSING = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.5,), std=(0.25,))
FACTS = DatasetFacts(name="made", fingerprint="f" * 64, classes=("a", "b", "c"))
RESNET = BackboneSpec(name="resnet18", width=2)
MLP = BackboneSpec(name="mlp", width=16)


def made_images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy images [count, 1, 8, 8] of three classes, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    patterns = torch.randint(40, 216, (3, 1, 8, 8), generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, 1, 8, 8, generator=generator) * 40
    return (patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels


def labelled(count: int, seed: int = 0) -> LabelledData:
    images, labels = made_images(count, seed)
    return LabelledData(Resident.whole(images), labels)


def paired(count: int, seed: int = 0) -> PairData:
    images, labels = made_images(count, seed)
    return PairData(Resident.whole(images), PairSource.from_classes(labels))


def plans(
    backbone: BackboneSpec, recipe: Recipe, modules: int = 1, kernel: str = "relu_avgpool"
) -> tuple[HiddenPlan, ...]:
    hidden = HiddenSpec(kernel=KernelSpec(name=kernel), recipe=recipe)
    return plan_hidden(backbone, [hidden] * modules, PREPROCESSING.shape)


def trained(folder: Path, recipe: Recipe, modules: int = 1) -> list[StoredModule]:
    """A chain of trained and stored modules."""
    chain: list[StoredModule] = []
    for position, plan in enumerate(plans(RESNET, recipe, modules)):
        upstream = chain[-1].id if chain else PREPROCESSING.id
        spec = plan.spec(upstream, PREPROCESSING, FACTS, seed=0)
        weights, _ = train_hidden(spec, paired(96), paired(30, 1), chain, arithmetic=FLOAT32)
        chain.append(write_module(folder / str(position), spec, weights))
    return chain


def output_spec_on(
    below: StoredModule, output: OutputSpec, kernel: KernelSpec | None = None
) -> ModuleSpec:
    interface = below.spec.interface
    return OutputModuleSpec(
        interface=Interface(
            upstream=below.id,
            takes=interface.gives,
            gives=(3,),
            kernel=kernel or interface.kernel,
        ),
        dataset=FACTS,
        seed=0,
        preprocessing=PREPROCESSING,
        output=output,
        classes=FACTS.classes,
    )
