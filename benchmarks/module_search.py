"""A searched network against the default spec on the same training time: accuracy and cost.

    python -m benchmarks.module_search [--dataset digits|fashion] [--data-root FOLDER]

The search is that of examples/search_*.yaml. The default spec (examples/digits.yaml and
fashion_lenet5.yaml) is trained as it is, and again with as many epochs as take, by the seconds of
an epoch of the first time, what all candidates of the search took together. Everything runs
through the real flows, one child at a time with all cores, in a home that is gone afterwards.
Prints two Markdown tables: test accuracy, and what the search cost.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.setting import temporary_home
from modkernel.flows.servers.prefect_env import prepare_prefect
from modkernel.flows.specs.read import read_spec
from modkernel.spec import NetworkSpec

if TYPE_CHECKING:
    from modkernel.flows.runtime.results import NetworkResult
    from modkernel.flows.search.result import SearchResult

EXAMPLES = Path(__file__).parent.parent / "examples"
SPECS = {
    "digits": ("search_digits.yaml", "digits.yaml"),
    "fashion": ("search_fashion.yaml", "fashion_lenet5.yaml"),
}


def main() -> None:
    """Search, train the default spec twice, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=SPECS, default="digits")
    parser.add_argument("--data-root", type=Path, help="Folder of torchvision's data sets.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    extra = {"MODKERNEL_CPU_SLOTS": "1"}
    if given.data_root is not None:
        extra["MODKERNEL_DATA_ROOT"] = str(given.data_root.resolve())
    with temporary_home(**extra) as settings:
        prepare_prefect(settings, quiet=True)
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
        search, default = (EXAMPLES / name for name in SPECS[given.dataset])
        compare(search, default, given.seed)


def compare(search_file: Path, default_file: Path, seed: int) -> None:
    """Run all three and print what they gave."""
    from modkernel.flows.search.spec import SearchSpec
    from modkernel.flows.search_modules import search_modules
    from modkernel.flows.train_network import train_network

    wanted = read_spec(search_file, SearchSpec).changed(seed=seed)
    default = read_spec(default_file).changed(seed=seed)
    found = search_modules(wanted)
    plain = train_network(default)
    longer = with_epochs(default, affordable(plain, found.training_seconds))
    trained = train_network(longer)
    print("| network | hidden modules' training, s | all labels | 10 labels, mean | least |")
    print("|---|---|---|---|---|")
    row("searched", found.training_seconds, found.network)
    row(f"default, {epochs(default)} epochs a module", seconds(plain), plain)
    row(f"default, {epochs(longer)} epochs a module", seconds(trained), trained)
    print()
    cost(found)


def affordable(network: NetworkResult, budget: float) -> int:
    """How many epochs of every hidden module take a budget of seconds."""
    from modkernel.flows.runtime.shared import open_registry

    registry = open_registry()
    reports = [
        registry.modules.report(registry.modules.resolve(module.id))
        for module in network.modules
        if module.kind == "hidden"
    ]
    epoch = sum(median(line.seconds for line in report.history) for report in reports)
    return max(1, round(budget / epoch))


def with_epochs(spec: NetworkSpec, count: int) -> NetworkSpec:
    """The same network, every hidden module trained for so many epochs."""
    hidden = tuple(
        one.model_copy(update={"recipe": one.recipe.changed(epochs=count)}) for one in spec.hidden
    )
    return spec.changed(hidden=hidden)


def epochs(spec: NetworkSpec) -> int:
    """Of the first hidden module."""
    return spec.hidden[0].recipe.epochs


def seconds(network: NetworkResult) -> float:
    """Spent training the hidden modules."""
    return sum(module.seconds for module in network.modules if module.kind == "hidden")


def row(name: str, training: float, network: NetworkResult) -> None:
    """One line of the first table."""
    value = network.evaluation
    assert value is not None
    print(
        f"| {name} | {training:.1f} | {value.accuracy_all_labels:.2%} "
        f"| {value.accuracy_mean:.2%} | {value.accuracy_min:.2%} |"
    )


def cost(found: SearchResult) -> None:
    """The second table: each stage's candidates, the time they took, the score of the best."""
    print("| stage | candidates | training, s | best | its held-out accuracy |")
    print("|---|---|---|---|---|")
    for stage in sorted({one.stage for one in found.candidates}):
        rows = [one for one in found.candidates if one.stage == stage]
        best = max(rows, key=lambda one: one.score or 0.0)
        spent = sum(one.module.seconds for one in rows if one.module is not None)
        print(
            f"| {stage} | {len(rows)} | {spent:.1f} | {best.description} | {best.score or 0:.2%} |"
        )
    print(
        f"| sum | {len(found.candidates)} modules | {found.training_seconds:.1f} | | |\n"
        f"| product | {found.networks} networks | {found.networks_seconds:.0f} (estimated) | | |"
    )


if __name__ == "__main__":
    main()
