"""Which proxy objective is best at equal budget: one hidden module each, everything else equal.

    python -m benchmarks.objectives --dataset fashion_mnist --data-root ~/.modkernel/data
    python -m benchmarks.objectives --dataset image_folder --path cifar10-jpeg

Prints a Markdown table: test accuracy of an output module on all labels, and on one label per
class (mean and minimum over random draws), and the end-to-end baseline with the same recipe.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.arguments import training_parser
from modkernel.data import DataPlaces, Dataset, DatasetInfo, describe_dataset, load_dataset
from modkernel.modules.stored import write_module
from modkernel.plan import facts, output_spec, plan_network
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)
from modkernel.system.precision import choose_arithmetic
from modkernel.training import OutputEvaluation, train_end_to_end, train_hidden, train_output
from modkernel.training.inputs import class_pairs
from modkernel.training.output import LabelledData

OBJECTIVES = (
    "raw",
    "nmse",
    "alignment",
    "upper_alignment",
    "contrastive",
    "log_contrastive",
    "pair_correlation",
    "anchor_contrastive",
)


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = training_parser(__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objectives", nargs="*", default=OBJECTIVES)
    return parser.parse_args()


def network(given: argparse.Namespace, objective: str, temperature: float | None) -> NetworkSpec:
    """The network that every row trains, with one objective."""
    return NetworkSpec(
        name="objectives",
        dataset=DatasetSpec(name=given.dataset, path=given.path),
        backbone=BackboneSpec(name=given.backbone, width=given.width),
        hidden=(
            HiddenSpec(
                objective=ObjectiveSpec(name=objective, temperature=temperature),
                recipe=Recipe(
                    epochs=given.epochs,
                    learning_rate=given.learning_rate,
                    crop_padding=given.crop,
                    flip=True,
                ),
            ),
        ),
        output=OutputSpec(labels_per_class=1, draws=given.draws),
        seed=given.seed,
    )


def modular(spec: NetworkSpec, info: DatasetInfo, data: Dataset) -> OutputEvaluation:
    """Train the hidden module and the output module, and evaluate."""
    arithmetic = choose_arithmetic()
    (plan,) = plan_network(spec, info)
    hidden = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), spec.seed)
    assert spec.output is not None
    weights, _ = train_hidden(hidden, *class_pairs(data), arithmetic=arithmetic)
    with tempfile.TemporaryDirectory() as folder:
        stored = write_module(Path(folder, "hidden"), hidden, weights)
        _, output = train_output(
            output_spec(spec.output, hidden, stored.id, info, spec.seed),
            LabelledData(data.train.examples, data.train.labels),
            LabelledData(data.test.examples, data.test.labels),
            [stored],
            arithmetic=arithmetic,
        )
    assert output.evaluation is not None
    return output.evaluation


def main() -> None:
    """Print the table, a row as soon as it is known."""
    given = arguments()
    places = DataPlaces(root=given.data_root, cache=given.cache)
    first = network(given, "raw", None)
    data = load_dataset(first.dataset, places)
    info = describe_dataset(first.dataset, places)
    print("| objective | all labels | 1 label a class: mean | min |", flush=True)
    print("|---|---|---|---|", flush=True)
    for text in given.objectives:
        name, _, temperature = text.partition("@")
        spec = network(given, name, float(temperature) if temperature else None)
        found = modular(spec, info, data)
        print(
            f"| `{text}` | {found.accuracy_all_labels:.2%} | {found.accuracy_mean:.2%} "
            f"| {found.accuracy_min:.2%} |",
            flush=True,
        )
    report = train_end_to_end(first, data, arithmetic=choose_arithmetic())
    assert report.evaluation is not None
    print(f"| end to end | {report.evaluation.accuracy:.2%} | | |")


if __name__ == "__main__":
    main()
