"""Accuracy on suggested labels against random draws of as many, on features of one module.

    python -m benchmarks.label_advice --dataset fashion_mnist --data-root ~/.modkernel/data
    python -m benchmarks.label_advice --dataset image_folder --path cifar10-jpeg --epochs 5

Prints a Markdown table. `suggested` is what `modkernel labels suggest` chooses, seed 0; beside it
the mean and the least over several seeds. `random` draws that many training examples, as a person
without advice would; `balanced` as many of every class, which nobody can without knowing them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arguments import training_parser
from modkernel.data import DataPlaces, Dataset, load_dataset
from modkernel.data.label_budget import draw_labels
from modkernel.errors import DataError
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_chain, make_extractor
from modkernel.modules.stored import StoredModule, read_module, write_module
from modkernel.plan import facts, plan_network
from modkernel.reuse.label_choice import suggest_labels
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, NetworkSpec, OutputSpec, Recipe
from modkernel.system.precision import choose_arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training import train_hidden
from modkernel.training.heads import fit_heads, predict_heads
from modkernel.training.inputs import class_pairs

METHODS = ("cross_entropy", "ridge")


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = training_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--trained-on", help="classes that the module is trained on, with commas; all by default"
    )
    parser.add_argument(
        "--module", type=Path, help="folder of a stored hidden module, in place of training one"
    )
    parser.add_argument("--budgets", type=int, nargs="*", default=(10, 20, 50))
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5, help="of the suggestion")
    return parser.parse_args()


def hidden_module(given: argparse.Namespace, places: DataPlaces, folder: Path) -> StoredModule:
    """Train one hidden module: ResNet-18, the default objective."""
    classes = None if given.trained_on is None else tuple(given.trained_on.split(","))
    spec = NetworkSpec(
        name="label-advice",
        dataset=DatasetSpec(name=given.dataset, path=given.path, classes=classes),
        backbone=BackboneSpec(name="resnet18", width=given.width),
        hidden=(
            HiddenSpec(
                recipe=Recipe(epochs=given.epochs, learning_rate=given.learning_rate, flip=True)
            ),
        ),
    )
    data = load_dataset(spec.dataset, places)
    info = data.info()
    (plan,) = plan_network(spec, info)
    # The preprocessing is that of all classes: the module is asked about them.
    preprocessing = load_dataset(
        DatasetSpec(name=given.dataset, path=given.path), places
    ).preprocessing
    hidden = plan.spec(preprocessing.id, preprocessing, facts(info), spec.seed)
    weights, _ = train_hidden(hidden, *class_pairs(data), arithmetic=choose_arithmetic())
    return write_module(folder / "hidden", hidden, weights)


def features(module: StoredModule, data: Dataset) -> tuple[Tensor, Tensor]:
    """φ of the training part and of the test part."""
    arithmetic = choose_arithmetic()
    chain = arithmetic.place(frozen_chain([module]))
    part = data.training_part()
    extractor = make_extractor(chain, module.spec.interface.kernel, part.examples, 0, arithmetic)
    train, test = (
        compute_features(extractor, images, arithmetic).values.float().cpu()
        for images in (part.examples, data.test.examples)
    )
    return train, test


def main() -> None:
    """Print the table, a row as soon as it is known."""
    given = arguments()
    places = DataPlaces(root=given.data_root, cache=given.cache)
    with tempfile.TemporaryDirectory() as folder:
        module = (
            hidden_module(given, places, Path(folder))
            if given.module is None
            else read_module(given.module)
        )
        data = load_dataset(DatasetSpec(name=given.dataset, path=given.path), places)
        phi, phi_test = features(module, data)
    labels, truth = data.training_part().labels, data.test.labels
    if labels is None or truth is None:
        raise DataError("This benchmark needs class labels.")
    count = len(data.classes)

    def accuracies(chosen: Tensor, method: str) -> Tensor:
        spec = OutputSpec.model_validate({"method": method})
        fit = fit_heads(phi, labels, chosen, count, spec, 0)
        return (predict_heads(fit, phi_test) == truth).double().mean(1)

    every = torch.arange(len(labels))[None]
    print(f"{data.name}, {len(labels)} examples to choose from, {phi.shape[1]} features. On all")
    print(f"labels: ridge {accuracies(every, 'ridge').item():.2%}.\n")
    print(
        "| budget | output module | suggested | its mean | its least | random: mean | least "
        "| balanced: mean | least | classes met: suggested | random |"
    )
    print(f"|{'---|' * 11}", flush=True)
    for budget in given.budgets:
        began = time.perf_counter()
        suggested = torch.stack([suggest_labels(phi, budget, seed) for seed in range(given.seeds)])
        seconds = (time.perf_counter() - began) / given.seeds
        random = torch.stack(
            [
                torch.randperm(len(phi), generator=generator_for("random labels", draw))[:budget]
                for draw in range(given.draws)
            ]
        )
        balanced = draw_labels(labels, count, max(1, budget // count), given.draws, 0)
        met = [
            sum(len(set(row)) for row in labels[chosen].tolist()) / len(chosen)
            for chosen in (suggested, random)
        ]
        for method in METHODS:
            ours, theirs, fair = (
                accuracies(chosen, method) for chosen in (suggested, random, balanced)
            )
            cells = [ours[0], ours.mean(), ours.min(), theirs.mean(), theirs.min()]
            cells += [fair.mean(), fair.min()]
            figures = " | ".join(f"{float(value):.1%}" for value in cells)
            print(f"| {budget} | {method} | {figures} | {met[0]:.1f} | {met[1]:.1f} |", flush=True)
        print(f"<!-- {seconds:.1f} s a suggestion -->", flush=True)


if __name__ == "__main__":
    main()
