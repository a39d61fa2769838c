"""Training on a stored upstream: with its output in the feature cache, and without, in one run.

    python -m benchmarks.feature_cache --dataset fashion_mnist --data-root FOLDER

The last of the modules of a narrow ResNet-18 is trained on the others, from the same seed:
on the upstream's output out of a filled cache, and with the upstream run in every step. Then with
random views of the images: fixed ones out of a filled cache, and fresh ones, for which the
upstream has to run. Prints the seconds in the training loop of each, their ratios, the largest
relative difference of the weights and objectives, and what it costs to fill the cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from modkernel.data import DataPlaces, Dataset, load_dataset
from modkernel.data.sources import ExampleSource
from modkernel.features.cache import FeatureCache
from modkernel.modules.stored import StoredModule, write_module
from modkernel.plan import facts, plan_hidden
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenModuleSpec, HiddenSpec, Recipe
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training import TrainReport, train_hidden
from modkernel.training.inputs import class_pairs

Trained = tuple[dict[str, Tensor], TrainReport]
BATCH = 128
WEIGHTS = ("weight", "bias")


class Recomputed:
    """What a chain gives, computed anew for every batch."""

    def __init__(self, chain: nn.Module, examples: ExampleSource, arithmetic: Arithmetic, **_: Any):
        self.chain, self.examples, self.arithmetic = chain, examples, arithmetic

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, order: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        """One batch of outputs for each index batch."""
        for raw in self.examples.batches(order, device):
            with torch.no_grad(), self.arithmetic.autocast():
                output = self.chain(self.arithmetic.arrange(raw))
            yield output


def train_chain(
    data: Dataset, until: Sequence[str], width: int, arithmetic: Arithmetic, folder: Path
) -> tuple[list[StoredModule], HiddenModuleSpec]:
    """All modules but the last, trained for one epoch each, and the spec of the last."""
    recipe = Recipe(epochs=1, batch_size=BATCH)
    plans = plan_hidden(
        BackboneSpec(name="resnet18", width=width),
        [HiddenSpec(until=block, recipe=recipe, tail="none") for block in until],
        data.preprocessing.shape,
    )
    chain: list[StoredModule] = []
    for plan in plans:
        upstream = chain[-1].id if chain else data.preprocessing.id
        spec = plan.spec(upstream, data.preprocessing, facts(data.info()), 0)
        if plan is plans[-1]:
            break
        weights, _ = train_hidden(spec, *class_pairs(data), chain, arithmetic=arithmetic)
        chain.append(write_module(folder / str(len(chain)), spec, weights))
    return chain, spec


def difference(first: Trained, second: Trained) -> tuple[float, float]:
    """Largest difference of the weights and of the objectives, over the largest of their kind."""
    of_weights = max(
        float((first[0][name] - second[0][name]).abs().max() / first[0][name].abs().max())
        for name in first[0]
        if name.endswith(WEIGHTS)
    )
    lines = zip(first[1].history, second[1].history, strict=True)
    return of_weights, max(abs(a.objective - b.objective) / abs(a.objective) for a, b in lines)


def main() -> None:
    """Measure in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--path", help="folder of dataset image_folder")
    parser.add_argument(
        "--until",
        nargs="+",
        default=["layer2.1", "layer3.1", "layer4.1"],
        help="last block of each module",
    )
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto")
    given = parser.parse_args()
    name = "image_folder" if given.path else given.dataset
    arithmetic = choose_arithmetic(precision=given.precision)
    with tempfile.TemporaryDirectory() as scratch:
        places = DataPlaces(root=given.data_root, cache=Path(scratch, "data"), download=False)
        data = load_dataset(DatasetSpec(name=name, path=given.path), places)
        chain, spec = train_chain(data, given.until, given.width, arithmetic, Path(scratch))
        cache = FeatureCache(Path(scratch, "features"), 100 << 30)

        def train(recipe: Recipe, keep: bool) -> tuple[Trained, float]:
            """The module and the seconds of the whole call."""
            hidden = spec.hidden.changed(recipe=recipe)
            asked = spec.changed(hidden=hidden)
            began = time.perf_counter()
            done = train_hidden(
                asked,
                *class_pairs(data),
                chain,
                arithmetic=arithmetic,
                cache=cache if keep else None,
            )
            return done, time.perf_counter() - began

        def without(recipe: Recipe) -> Trained:
            with patch("modkernel.training.pair_data.compute_features", Recomputed):
                return train(recipe, False)[0]

        plain = Recipe(epochs=given.epochs, batch_size=BATCH)
        fresh = plain.changed(crop_padding=2, flip=True)
        views = fresh.changed(views=given.views)
        report(train, without, plain, "upstream in every step", given.rounds)
        size = sum(path.stat().st_size for path in cache.folder.iterdir())
        print(f"features on disk          {size / 2**20:.0f} MiB, {arithmetic.name}")
        report(train, lambda _: train(fresh, False)[0], views, "fresh views", given.rounds)


def report(
    train: Callable[[Recipe, bool], tuple[Trained, float]],
    without: Callable[[Recipe], Trained],
    recipe: Recipe,
    other: str,
    rounds: int,
) -> None:
    """Fill the cache, train out of it and without it in turns, and print the medians."""
    what = "filled cache" if recipe.views is None else f"{recipe.views} views, filled cache"
    filling, whole = train(recipe, True)
    pairs = [(train(recipe, True)[0], without(recipe)) for _ in range(rounds)]
    seconds, others = (
        statistics.median(done[1].seconds for done in column) for column in zip(*pairs, strict=True)
    )
    kept, compared = pairs[0]
    print(f"{what:25s} {seconds:.1f} s of training")
    print(f"{other:25s} {others:.1f} s of training")
    print(f"ratio                     {others / seconds:.2f}")
    print(f"filling it, once          {whole - filling[1].seconds:.1f} s", flush=True)
    if recipe.views is None:
        of_weights, of_objectives = difference(kept, compared)
        print(f"difference of weights     {of_weights:.1e} of the largest")
        print(f"difference of objectives  {of_objectives:.1e}", flush=True)
    else:
        values = [
            max(line.validation or 0 for line in each[1].history) for each in (kept, compared)
        ]
        print(f"best validation objective {values[0]:.4f} of views, {values[1]:.4f} of fresh ones")


if __name__ == "__main__":
    main()
