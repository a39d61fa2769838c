"""Hidden-training step rate of ResNet-18 against plain loops, in one run.

    python -m benchmarks.training_speed
    python -m benchmarks.training_speed --device cuda --batches 128 512 --steps 100 --workers 8 \\
        --modes eager graph

`weak` is the plain loop that one writes first: float32, channels-first, a torch DataLoader that
crops, flips and normalises each image with torchvision's transforms. `strong` is what a good
engineer makes of it in an afternoon: bfloat16 where the hardware is faster in it, channels-last,
images, their order and all random numbers on the device, crop and flip of whole batches, fused SGD,
cuDNN's fastest algorithms, and nothing that waits for the device. Same network, batch size,
objective, optimiser and images, and a batch of validation at the end of an epoch. Prints steps and
images a second of each, the ratios, and on request (`--peak`) the share of the device's measured
bfloat16 peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from benchmarks.device_speed import finish, measured_peak, training_operations
from modkernel.backbones import build_hidden
from modkernel.data import Resident
from modkernel.data.augment import moved
from modkernel.kernels import make_kernel
from modkernel.modules.preprocess import Normalise
from modkernel.objectives.table import make_objective
from modkernel.pairs.labels import PairLabels
from modkernel.pairs.source import PairSource
from modkernel.plan import plan_hidden
from modkernel.spec import (
    BackboneSpec,
    DatasetFacts,
    HiddenModuleSpec,
    HiddenSpec,
    Preprocessing,
    Recipe,
)
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training import train_hidden
from modkernel.training.pair_data import PairData

BATCH = 128
CROP = 4
LOOPS = ("weak", "strong")
MODES = ("eager", "graph")
"""How train_hidden takes its steps; on a CPU both are the same."""
PRECISIONS = ("auto", "float32", "bfloat16")
WARM_UP_STEPS = 10
"""At most; the first steps choose algorithms and fill pools of memory."""
PREPROCESSING = Preprocessing(
    shape=(3, 32, 32), dtype="uint8", mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)
)


class Images(TorchDataset[tuple[Tensor, int]]):
    """Images as a torchvision data set gives them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=CROP),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def describe(width: int, batch: int = BATCH, epochs: int = 1) -> HiddenModuleSpec:
    """ResNet-18 as one hidden module."""
    recipe = Recipe(epochs=epochs, batch_size=batch, crop_padding=CROP, flip=True)
    backbone = BackboneSpec(name="resnet18", width=width)
    (plan,) = plan_hidden(backbone, [HiddenSpec(recipe=recipe)], PREPROCESSING.shape)
    facts = DatasetFacts(name="random", fingerprint="0" * 64, classes=tuple("0123456789"))
    return plan.spec(PREPROCESSING.id, PREPROCESSING, facts, seed=0)


def from_loader(
    images: Tensor, labels: Tensor, batch: int, place: Arithmetic, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the plain loop that one writes first, without end."""
    loader = DataLoader(
        Images(images, labels),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=place.device.type == "cuda",
    )
    while True:
        for x, y in loader:
            yield x.to(place.device, non_blocking=True), y


def on_device(
    images: Tensor, labels: Tensor, batch: int, place: Arithmetic, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the strong loop, cropped and flipped on the device, without end."""
    device = place.device
    preprocess = Normalise(PREPROCESSING).to(device)
    images, labels = images.to(device), labels.to(device)
    while True:
        for rows in torch.randperm(len(images), device=device)[: len(images) // batch * batch].view(
            -1, batch
        ):
            shift = torch.randint(2 * CROP + 1, (2, batch), device=device)
            flip = torch.randint(2, (1, batch), device=device)
            x = preprocess(moved(images[rows], torch.cat((shift, flip)), CROP))
            yield place.arrange(x), labels[rows]


def class_pairs(labels: Tensor) -> PairLabels:
    """All pairs of class labels [B], counted where they lie."""
    same = (labels[:, None] == labels).fill_diagonal_(False)
    known = torch.ones_like(same).fill_diagonal_(False)
    counts = torch.stack((same.sum(), (known & ~same).sum())) / 2
    return PairLabels.of_tensors(same, known, counts)


def plain(
    name: str,
    spec: HiddenModuleSpec,
    images: Tensor,
    labels: Tensor,
    arithmetic: Arithmetic,
    workers: int,
) -> float:
    """Steps a second of an epoch of a plain loop, after its warm-up, with a validation batch."""
    device, batch = arithmetic.device, spec.hidden.recipe.batch_size
    model = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, spec.seed).to(device)
    strong = name == "strong"
    place = arithmetic if strong else Arithmetic(device, torch.float32)
    batches = on_device if strong else from_loader
    if strong:
        arithmetic.place(model)
    kernel = make_kernel(spec.interface.kernel)
    objective = make_objective(spec.hidden.objective, kernel)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=strong
    )
    steps = len(images) // batch
    warm_up = min(WARM_UP_STEPS, steps // 2)
    began = 0.0
    torch.backends.cudnn.benchmark = strong
    feed = batches(images, labels, batch, place, workers)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with place.autocast():
            z = model(x)
        z = z.float()
        pairs = class_pairs(y) if strong else PairLabels.from_classes(y)
        gram = kernel.gram(z, z)
        return -(objective.value(gram, pairs) if strong else objective(gram, pairs))

    for step, (x, y) in zip(range(warm_up + steps), feed, strict=False):
        if step == warm_up:
            finish(device)
            began = time.perf_counter()
        loss = loss_of(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        float(loss_of(*next(feed)))
    finish(device)
    torch.backends.cudnn.benchmark = False
    return steps / (time.perf_counter() - began)


def ours(spec: HiddenModuleSpec, images: Tensor, labels: Tensor, place: Arithmetic) -> float:
    """Steps a second of the last epoch of train_hidden, with a validation batch."""
    batch = spec.hidden.recipe.batch_size
    on_it = images.to(place.device)
    data = PairData(Resident.whole(on_it), PairSource.from_classes(labels))
    held_out = PairData(Resident.whole(on_it[:batch]), PairSource.from_classes(labels[:batch]))
    _, report = train_hidden(spec, data, held_out, arithmetic=place)
    return len(images) // batch / report.history[-1].seconds


def compare(given: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Steps a second of every loop, in turns, and of train_hidden: medians of the rounds."""
    arithmetic = choose_arithmetic(given.device, given.precision)
    generator = torch.Generator().manual_seed(0)
    warm_up = min(WARM_UP_STEPS, given.steps)
    count = (warm_up + given.steps) * batch
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 10
    spec = describe(given.width, batch, epochs=2)  # The first one is the warm-up.
    modes = {
        f"train_hidden {mode}": replace(arithmetic, graphs=mode == "graph") for mode in given.modes
    }
    rates: dict[str, list[float]] = {name: [] for name in (*given.loops, *modes)}
    for _ in range(given.rounds):
        for name in given.loops:
            rates[name].append(plain(name, spec, images, labels, arithmetic, given.workers))
        for name, place in modes.items():
            rates[name].append(ours(spec, images, labels, place))
    steps = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in steps.items():
        print(f"batch {batch}: {name:18s}{rate:9.3f} steps/s {rate * batch:11.1f} images/s")
    for mode in modes:
        for name in given.loops:
            print(f"batch {batch}: {mode} / {name}: {steps[mode] / steps[name]:.2f}", flush=True)
    return {
        "batch": batch,
        "precision": arithmetic.name,
        "steps_per_second": steps,
        "images_per_second": {name: rate * batch for name, rate in steps.items()},
        "all_steps_per_second": rates,
    }


def main() -> None:
    """Compare at every batch size, and write the figures as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[BATCH])
    parser.add_argument("--loops", nargs="*", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--modes", nargs="*", choices=MODES, default=["graph"])
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    parser.add_argument("--peak", type=int, help="side of the matrices that the peak is taken of")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = choose_arithmetic(given.device).device
    spec = describe(given.width)
    network = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, 0)
    found: dict[str, Any] = {
        "width": given.width,
        "steps": given.steps,
        "rounds": given.rounds,
        "workers": given.workers,
        "operations_per_image": training_operations(network, PREPROCESSING.shape),
        "bfloat16_peak": None if given.peak is None else measured_peak(device, given.peak),
        "batches": [],
    }
    print(f"{found['operations_per_image'] / 1e9:.3f} billion operations an image")
    if given.peak is not None:
        print(f"bfloat16 peak: {found['bfloat16_peak'] / 1e12:.2f} TFLOP/s")
    for batch in given.batches:
        found["batches"].append(compare(given, batch))
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
