"""Stitches between networks of three seeds: test accuracy beside their parents, and the guard.

    OMP_NUM_THREADS=1 python -m benchmarks.stitch --data-root ~/.modkernel/data

LeNet-5 on Fashion-MNIST, two hidden modules cut after its convolutions, one epoch each. Prints a
Markdown table with a row for each pair of neighbouring seeds: the second module of one network on
the first module of the other, fitted to unlabelled images; then the same on a first module that was
trained on noise. Accuracies are of ridge output modules on the test part, with all labels, and with
ten a class (mean of 20 draws). What was trained stays in --folder and is not trained again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arguments import HOME
from modkernel.data import DataPlaces, Dataset, Resident, load_dataset
from modkernel.data.label_budget import draw_labels
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_chain, make_extractor
from modkernel.modules.stored import StoredModule, read_module, write_module
from modkernel.pairs.source import PairSource
from modkernel.plan import facts, plan_network
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenModuleSpec,
    HiddenSpec,
    Interface,
    NetworkSpec,
    OutputSpec,
    Recipe,
    StitchModuleSpec,
    StitchSpec,
)
from modkernel.system.precision import choose_arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training.heads import fit_ridge, predict_heads
from modkernel.training.hidden import train_hidden
from modkernel.training.network import train_network
from modkernel.training.pair_data import PairData
from modkernel.training.stitch import fit_stitch
from modkernel.training.stitch_guard import judge_stitch

PER_CLASS, DRAWS = 10, 20
NOISE = 20_000
"""Images of noise that a module is trained on, of ten patterns."""
CPU = choose_arithmetic("cpu")


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=HOME / "data")
    parser.add_argument("--cache", type=Path, default=HOME / "cache")
    parser.add_argument("--folder", type=Path, default=Path("stitch-benchmark"))
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--examples", type=int, default=2000)
    return parser.parse_args()


def network(seed: int) -> NetworkSpec:
    """LeNet-5 as two hidden modules."""
    recipe = Recipe(epochs=1)
    return NetworkSpec(
        name=f"seed-{seed}",
        dataset=DatasetSpec(name="fashion_mnist"),
        backbone=BackboneSpec(name="lenet5"),
        hidden=tuple(HiddenSpec(until=end, recipe=recipe, tail="none") for end in ("conv2", "fc2")),
        output=None,
        seed=seed,
    )


def noise_trained(data: Dataset, folder: Path) -> StoredModule:
    """The first module of such a network, trained on ten patterns of noise in more noise."""
    if not folder.exists():
        generator = generator_for("noise")
        labels = torch.randint(0, 10, (NOISE,), generator=generator)
        patterns = torch.rand(10, 1, 28, 28, generator=generator) * 127
        noise = torch.rand(NOISE, 1, 28, 28, generator=generator) * 127
        images = (patterns[labels] + noise).to(torch.uint8)
        train, held_out = (
            PairData(Resident.whole(images[rows]), PairSource.from_classes(labels[rows]))
            for rows in (slice(2000, None), slice(2000))
        )
        info = data.info()
        plan = plan_network(network(7), info)[0]
        spec = plan.spec(data.preprocessing.id, data.preprocessing, facts(info), 7)
        weights, _ = train_hidden(spec, train, held_out, arithmetic=CPU)
        write_module(folder, spec, weights)
    return read_module(folder)


def stitched(
    lower: StoredModule, upper: Sequence[StoredModule], data: Dataset, folder: Path, examples: int
) -> tuple[StoredModule, float]:
    """A stitch of the last of `upper` on a first module, and the seconds of its fit."""
    spec = upper[-1].spec
    assert isinstance(spec, HiddenModuleSpec)
    wanted = StitchModuleSpec(
        interface=Interface(
            upstream=lower.id,
            takes=lower.spec.interface.gives,
            gives=spec.interface.gives,
            kernel=spec.interface.kernel,
        ),
        dataset=facts(data.info()),
        seed=0,
        preprocessing=lower.spec.preprocessing,
        upper=spec,
        upper_id=upper[-1].id,
        stitch=StitchSpec(examples=examples),
    )
    began = time.perf_counter()
    weights, _ = fit_stitch(wanted, data.train.examples, [lower], upper, arithmetic=CPU)
    return write_module(folder, wanted, weights), time.perf_counter() - began


def accuracies(chain: Sequence[StoredModule], data: Dataset) -> tuple[float, float]:
    """On the test part, with all labels and with ten a class."""
    train, labels, truth = data.train.examples, data.train.labels, data.test.labels
    assert labels is not None
    assert truth is not None
    frozen = CPU.place(frozen_chain(chain))
    extractor = make_extractor(frozen, chain[-1].spec.interface.kernel, train, 0, CPU)
    phi, seen = (
        compute_features(extractor, part.examples, CPU).values for part in (data.train, data.test)
    )

    def share(chosen: Tensor, ridge: float) -> float:
        fit = fit_ridge(phi, labels, chosen, 10, OutputSpec(method="ridge", ridge=ridge))
        return float((predict_heads(fit, seen) == truth).double().mean())

    few = draw_labels(labels, 10, PER_CLASS, DRAWS, 0)
    return share(torch.arange(len(labels))[None], 1e-5), share(few, 1e-3)


def main() -> None:
    """Print the table, a row as soon as it is known."""
    given = arguments()
    places = DataPlaces(root=given.data_root, cache=given.cache)
    data = load_dataset(DatasetSpec(name="fashion_mnist"), places)
    chains = {
        seed: list(
            train_network(network(seed), given.folder / str(seed), places, device="cpu").modules
        )
        for seed in given.seeds
    }
    noise = noise_trained(data, given.folder / "noise")
    known = {seed: accuracies(chain, data) for seed, chain in chains.items()}
    head = ["LOWER of", "UPPER of", "LOWER's network", "UPPER's network", "LOWER alone", "stitch"]
    head += ["fit, s", "guard: kept", "LOWER alone, untrained", "says"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    seeds = list(given.seeds)
    rows = [*pairwise([*seeds, seeds[0]]), (None, seeds[0])]
    for low, up in rows:
        lower, upper = (noise if low is None else chains[low][0]), chains[up]
        folder = given.folder / f"{up}-on-{low}-{given.examples}"
        stitch, seconds = stitched(lower, upper, data, folder, given.examples)
        figures = judge_stitch([lower], upper, stitch, data, CPU)
        cells = [
            "noise" if low is None else f"seed {low}",
            f"seed {up}",
            "" if low is None else shown(known[low]),
            shown(known[up]),
            shown(accuracies([lower], data)),
            shown(accuracies([lower, stitch], data)),
            f"{seconds:.1f}",
            f"{figures.kept:.1%}",
            f"{figures.lower:.1%}, {figures.untrained:.1%}",
            "refused" if figures.objection else "worth it",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def shown(pair: tuple[float, float]) -> str:
    """With all labels / with few."""
    return " / ".join(f"{value:.2%}" for value in pair)


if __name__ == "__main__":
    main()
