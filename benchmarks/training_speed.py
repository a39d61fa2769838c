"""Hidden-training step rate of ResNet-18 against a plain loop, in one run.

    python -m benchmarks.training_speed

The plain loop is what one writes first: float32, channels-first, a torch DataLoader that crops,
flips and normalises each image with torchvision's transforms. Same network, batch size, objective,
optimiser and images. Prints steps a second of both and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from modkernel.backbones import build_hidden
from modkernel.data import Resident
from modkernel.kernels import make_kernel
from modkernel.objectives.table import make_objective
from modkernel.pairs.labels import PairLabels
from modkernel.pairs.source import PairSource
from modkernel.plan import plan_hidden
from modkernel.spec import BackboneSpec, DatasetFacts, HiddenSpec, ModuleSpec, Preprocessing, Recipe
from modkernel.system.precision import choose_arithmetic
from modkernel.training import train_hidden
from modkernel.training.hidden import PairData

BATCH = 128
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
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def describe(width: int) -> ModuleSpec:
    """ResNet-18 as one hidden module."""
    hidden = HiddenSpec(recipe=Recipe(epochs=1, batch_size=BATCH, crop_padding=4, flip=True))
    backbone = BackboneSpec(name="resnet18", width=width)
    (plan,) = plan_hidden(backbone, [hidden], PREPROCESSING.shape)
    facts = DatasetFacts(name="random", fingerprint="0" * 64, classes=tuple("0123456789"))
    return plan.spec(PREPROCESSING.id, PREPROCESSING, facts, seed=0)


def plain(spec: ModuleSpec, images: Tensor, labels: Tensor) -> float:
    """Steps a second of the plain loop."""
    assert spec.backbone is not None
    assert spec.hidden is not None
    model = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, spec.seed)
    kernel = make_kernel(spec.interface.kernel)
    objective = make_objective(spec.hidden.objective, kernel)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(Images(images, labels), BATCH, shuffle=True, drop_last=True)
    began, steps = time.perf_counter(), 0
    for x, y in loader:
        z = model(x)
        loss = -objective(kernel.gram(z, z), PairLabels.from_classes(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return steps / (time.perf_counter() - began)


def ours(spec: ModuleSpec, images: Tensor, labels: Tensor) -> float:
    """Steps a second of train_hidden, its validation included."""
    data = PairData(Resident.whole(images), PairSource.from_classes(labels))
    held_out = PairData(Resident.whole(images[:BATCH]), PairSource.from_classes(labels[:BATCH]))
    began = time.perf_counter()
    train_hidden(spec, data, held_out, arithmetic=choose_arithmetic())
    return len(images) // BATCH / (time.perf_counter() - began)


def main() -> None:
    """Alternate the two, after a warm-up of each, and print the medians' ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    count = given.steps * BATCH
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 10
    spec = describe(given.width)
    for run in (plain, ours):
        run(spec, images[:BATCH], labels[:BATCH])
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(given.rounds):
        rates["plain"].append(plain(spec, images, labels))
        rates["ours"].append(ours(spec, images, labels))
    first, second = (statistics.median(rates[name]) for name in ("plain", "ours"))
    arithmetic = choose_arithmetic()
    print(f"plain float32 loop        {first:.3f} steps/s")
    print(f"train_hidden, {arithmetic.name:9s}   {second:.3f} steps/s")
    print(f"ratio                     {second / first:.2f}")


if __name__ == "__main__":
    main()
