"""What several processes compute together in tests, and one computes alone to compare."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modkernel.control import Control
from modkernel.errors import ObjectiveError, StoppedError
from modkernel.features.cache import FeatureCache
from modkernel.kernels import make_kernel
from modkernel.modules.stored import read_module
from modkernel.objectives.table import OBJECTIVES, make_objective
from modkernel.pairs.labels import PairLabels
from modkernel.pairs.source import PairSource
from modkernel.spec import (
    BackboneSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)
from modkernel.system.precision import choose_arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training.hidden import train_hidden
from modkernel.training.network import train_network
from modkernel.training.pair_data import PairData
from modkernel.training.parallel.batch_norm import norm_by_whole_batches
from modkernel.training.parallel.gram import whole_gram
from modkernel.training.parallel.ranks import Ranks
from tests.modkernel.helpers.training_examples import FACTS, PREPROCESSING, paired, plans

KERNELS = ("tanh", "gaussian")


def _model() -> nn.Module:
    """Convolutions and batch norms in float64; what is random in it is always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 3, 3, padding=1),
            nn.BatchNorm2d(3, momentum=None),
        ).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter, 0.3)
    return model


def _examples(count: int) -> tuple[Tensor, PairLabels]:
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, 1, 6, 6, dtype=torch.float64, generator=generator)
    return x, PairLabels.from_classes(torch.arange(count) % 3)


def objective(ranks: Ranks, name: str, kernel: str, count: int, folder: str) -> None:
    """Value and gradients, those of the inputs too, and the batch norms' statistics after it."""
    of = make_kernel(KernelSpec(name=kernel, sigma=1.0))
    try:
        value_of = make_objective(ObjectiveSpec(name=name), of)
    except ObjectiveError:
        return  # Undefined for the kernel.
    model, (x, pairs) = _model(), _examples(count)
    norm_by_whole_batches(model, ranks)
    share = ranks.share(count)
    own = x[share].clone().requires_grad_()
    value = value_of(whole_gram(of, model(own), count, ranks), pairs)
    value.backward()
    ranks.sum_gradients(model.parameters())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert own.grad is not None
    statistics = {name: b.double() for name, b in model.named_buffers()}
    numbers = range(share.start, share.stop)
    inputs = {f"x{number}": own.grad[number - share.start] for number in numbers}
    file = Path(folder, f"{name}-{kernel}-{count}-{ranks.rank}-of-{ranks.size}.safetensors")
    save_file({"value": value.detach(), **gradients, **statistics, **inputs}, file)


def all_objectives(ranks: Ranks, folder: str, counts: list[int]) -> None:
    for name, kernel, count in itertools.product(OBJECTIVES, KERNELS, counts):
        objective(ranks, name, kernel, count, folder)


def train(
    ranks: Ranks,
    folder: str,
    *,
    name: str = "weights",
    backbone: str = "resnet18",
    below: str | None = None,
    pairs: str = "classes",
    stop_after: int | None = None,
    checkpoints: str | None = None,
    **recipe: Any,
) -> dict[str, Any]:
    """Train a hidden module and write its weights, as `NAME-RANK-of-SIZE.safetensors`."""
    chain = [read_module(Path(below))] if below else []
    width = 8 if backbone == "resnet18" else 16
    options = Recipe(**{"epochs": 2, "batch_size": 32, **recipe})
    kernel = "relu_avgpool" if backbone == "resnet18" else "relu"
    made = plans(BackboneSpec(name=backbone, width=width), options, 2, kernel)
    spec = made[len(chain)].spec(
        chain[-1].id if chain else PREPROCESSING.id, PREPROCESSING, FACTS, seed=3
    )
    parts = (paired(96), paired(31, 1))
    if pairs == "listed":
        parts = _listed()
    if pairs == "views":
        first, second = (part.examples for part in parts)
        parts = (
            PairData(first, PairSource.from_views(len(first))),
            PairData(second, PairSource.from_views(len(second))),
        )
    asked = itertools.count()
    seen: list[int] = []
    control = Control(
        checkpoints=Path(checkpoints) if checkpoints else None,
        progress=lambda event: seen.append(event["epoch"]),
        # Only the last process is asked to stop: all of them have to.
        stop=lambda: ranks.rank == ranks.size - 1 and next(asked) == stop_after,
    )
    try:
        weights, report = train_hidden(
            spec,
            *parts,
            chain,
            arithmetic=choose_arithmetic("cpu", "float32"),
            control=control,
            cache=FeatureCache(Path(folder, "features"), 1 << 30) if chain else None,
            ranks=ranks,
        )
    except StoppedError:
        return {"stopped": True, "seen": seen}
    save_file(weights, Path(folder, f"{name}-{ranks.rank}-of-{ranks.size}.safetensors"))
    objectives = [line.objective for line in report.history]
    values = [line.validation for line in report.history]
    return {
        "stopped": False,
        "seen": seen,
        "objectives": objectives,
        "values": values,
        "devices": report.devices,
    }


def _listed() -> tuple[PairData, PairData]:
    """Pairs of a list, whose batches have unequal numbers of examples."""
    whole = paired(40)
    generator = torch.Generator().manual_seed(1)
    i = torch.randint(40, (70,), generator=generator)
    j = (i + torch.randint(1, 40, (70,), generator=generator)) % 40
    pairs = PairSource.from_pairs(40, i, j, i % 3 == j % 3)
    train, validation = pairs.split(0.2, 0)
    return PairData(whole.examples, train), PairData(whole.examples, validation)


def network(ranks: Ranks, folder: str, late: float = 0.0) -> list[str]:
    """Train a whole network into a folder, and tell the ids of its modules.

    Processes but the first one look `late` seconds later for an output module.
    """
    hidden = HiddenSpec(kernel=KernelSpec(name="relu"), recipe=Recipe(epochs=1, batch_size=200))
    spec = NetworkSpec(
        name="digits",
        backbone=BackboneSpec(name="mlp", width=16, depth=2),
        hidden=(hidden, hidden),
        output=OutputSpec(method="ridge", labels_per_class=2, draws=3),
    )
    is_dir = Path.is_dir

    def look(path: Path) -> bool:
        if path.name == "output" and not ranks.first:
            time.sleep(late)
        return is_dir(path)

    with patch.object(Path, "is_dir", look):
        trained = train_network(spec, folder, device="cpu", ranks=ranks)
    return [module.id for module in trained.modules]


def norms(ranks: Ranks, folder: str, count: int) -> None:
    """Batch norms alone, of which a share may be empty: gradients and statistics."""
    model, (x, _) = _model(), _examples(count)
    norm_by_whole_batches(model, ranks)
    model(x[ranks.share(count)]).pow(3).sum().backward()
    ranks.sum_gradients(model.parameters())
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {name: b.double() for name, b in model.named_buffers()}
    save_file(found, Path(folder, f"norms-{ranks.rank}-of-{ranks.size}.safetensors"))


def few_values(ranks: Ranks, count: int) -> str:
    """What a batch norm says of a batch of so few vectors; nothing where it takes them."""
    model = nn.Sequential(nn.BatchNorm1d(3))
    norm_by_whole_batches(model, ranks)
    try:
        model(torch.randn(count, 3)[ranks.share(count)])
    except ValueError as error:
        return str(error)
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())
    return ""


def draws(ranks: Ranks) -> list[list[float]]:
    """What a dropout draws in two steps, and in the first one again."""
    found = []
    with torch.random.fork_rng():
        for step in (0, 1, 0):
            ranks.seed_draws(generator_for(1, "step", step))
            found.append(torch.rand(3).tolist())
    return found


def listening(ranks: Ranks) -> list[str]:
    """Addresses, in hexadecimal, at which this process listens."""
    own = {os.readlink(f"/proc/self/fd/{number}") for number in _open_files()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.append(fields[1].split(":")[0])
    return found


def _open_files() -> list[str]:
    numbers = os.listdir("/proc/self/fd")
    return [number for number in numbers if os.path.islink(f"/proc/self/fd/{number}")]
