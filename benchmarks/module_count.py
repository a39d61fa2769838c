"""One network cut into 1, 2, 3 and 4 hidden modules: accuracy, time and peak memory of each.

    python -m benchmarks.module_count --path cifar10-jpeg

`--path` is a folder of images, a folder a class (with train/ and test/ inside, those are the
parts). Everything runs through the real flow; a module that is stored already is reused, so a
second call only prints. Prints a Markdown table; memory is the largest resident size that a child
process reached.
"""

from __future__ import annotations

import argparse

from modkernel.flows.servers.prefect_env import prepare_prefect
from modkernel.registry import Settings

prepare_prefect(Settings(), quiet=True)

from modkernel.flows.runtime.results import NetworkResult  # noqa: E402
from modkernel.flows.train_network import train_network  # noqa: E402
from modkernel.spec import (  # noqa: E402
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    NetworkSpec,
    OutputSpec,
    Recipe,
)


def main() -> None:
    """Train all four and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args()
    recipe = Recipe(epochs=given.epochs, learning_rate=0.4, crop_padding=4, flip=True)
    rows = []
    for modules in (1, 2, 3, 4):
        result: NetworkResult = train_network(
            NetworkSpec(
                name=f"modules-{modules}",
                dataset=DatasetSpec(name="image_folder", path=given.path),
                backbone=BackboneSpec(name="resnet18", width=given.width),
                hidden=(HiddenSpec(recipe=recipe, tail="none"),) * modules,
                output=OutputSpec(labels_per_class=1, draws=10),
            )
        )
        hidden = [module for module in result.modules if module.kind == "hidden"]
        memory = max(module.peak_memory_bytes or 0 for module in hidden)
        assert result.evaluation is not None
        rows.append(
            f"| {modules} | {result.evaluation.accuracy_all_labels:.2%} "
            f"| {result.evaluation.accuracy_mean:.2%} "
            f"| {sum(module.seconds for module in hidden):.0f} | {memory / 2**20:.0f} |"
        )
    print("| hidden modules | all labels | 10 labels, mean of 10 | training, s | peak MiB |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
