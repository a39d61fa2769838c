"""What joining the modules of a study gives: the choice of a few, all of them, and the best one.

    modkernel study examples/study_cifar10.yaml
    python -m benchmarks.joins examples/study_cifar10.yaml

The modules are those of the study, in the home of the settings. Asked are all classes of the data
set at once, then each of the study's tasks with its own module left out. Modules are chosen as
`modkernel advise --together` does; the figures are balanced accuracies on all test examples, of an
output module in closed form on the measured training examples (900 a class).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from modkernel.data import Dataset, load_dataset
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_chain, make_extractor
from modkernel.features.measure import MeasuredFeatures, measure, measured_features
from modkernel.flows.specs.read import read_spec
from modkernel.flows.study.plan import plan_study
from modkernel.flows.study.spec import StudySpec
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.backends import feature_cache
from modkernel.reuse.joint import Sample, choose, joint_moments
from modkernel.reuse.scores import head_confusion, ridge_head
from modkernel.reuse.task import Task
from modkernel.system.precision import choose_arithmetic
from modkernel.training.evaluation import evaluation_from

MOST = 6
RIDGE = 1e-5
"""As of the study's own ground truth."""


class Shelf:
    """Measured and test features of modules on one data set."""

    def __init__(self, registry: Registry, records: Sequence[ModuleRecord], data: Dataset) -> None:
        self.data, self.names = data, [record.name for record in records]
        self.measured: list[MeasuredFeatures] = []
        self.test: list[Tensor] = []
        cache, arithmetic = feature_cache(registry.settings), choose_arithmetic("cpu")
        for record in records:
            chain = [registry.modules.fetch(one) for one in registry.modules.chain(record)]
            found = measured_features(cache, record.id, data.fingerprint)
            if found is None:
                measure(chain, data, arithmetic, cache=cache)
                found = measured_features(cache, record.id, data.fingerprint)
            assert found is not None, "raise MODKERNEL_FEATURE_CACHE_BYTES"
            self.measured.append(found)
            extractor = make_extractor(
                frozen_chain(chain), chain[-1].spec.interface.kernel, data.train.examples, 0,
                arithmetic,
            )  # fmt: skip
            self.test.append(compute_features(extractor, data.test.examples, arithmetic).values)

    def sample(self, task: Task) -> Sample:
        side, first = task.assign(self.data.classes), self.measured[0]
        return Sample.of(side[first.train_labels], side[first.validation_labels], 10**9)

    def chosen(self, task: Task, among: Sequence[int], most: int) -> list[int]:
        """Which modules of some are joined for a task, in order."""

        def read(place: int) -> tuple[Tensor, Tensor]:
            found = self.measured[among[place]]
            return found.train, found.validation

        steps = choose(read, len(among), self.sample(task), most).steps
        return [among[step.place] for step in steps]

    def accuracy(self, task: Task, places: Sequence[int]) -> float:
        """Balanced test accuracy of some modules side by side."""
        sample = self.sample(task)
        parts = [self.measured[place].train[sample.train] for place in places]
        moments = joint_moments(parts, sample.train_sides, task.groups, self.data.fingerprint)
        weight, bias = ridge_head(moments, RIDGE)
        assert self.data.test.labels is not None
        answers = task.assign(self.data.classes)[self.data.test.labels]
        joint = torch.cat([self.test[place] for place in places], 1)
        return evaluation_from(head_confusion(weight, bias, joint, answers)).balanced_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="its spec file; the study must have run")
    spec = read_spec(parser.parse_args().study, StudySpec)
    with Registry.open(Settings()) as registry:
        plan = plan_study(registry, spec)
        tasks = [task for task in plan.tasks if task.part == 0]
        found = [registry.modules.find_ready(task.module.digest()) for task in tasks]
        records = [record for record in found if record is not None]
        if len(records) < len(tasks):
            raise SystemExit("Modules of the study are missing: run 'modkernel study' with it.")
        data = load_dataset(spec.dataset, registry.settings.places)
        shelf = Shelf(registry, records, data)
        all_of_them = list(range(len(records)))

        task = Task.of_classes(data.classes)
        began = time.perf_counter()
        chosen = shelf.chosen(task, all_of_them, MOST)
        print(f"{len(task.groups)} classes, chosen in {time.perf_counter() - began:.1f} s")
        print("| modules | balanced test accuracy |\n|---|---|")
        single = max(shelf.accuracy(task, [place]) for place in all_of_them)
        print(f"| the best single one, by the test examples themselves | {single:.2%} |")
        for count in range(1, len(chosen) + 1):
            names = " + ".join(shelf.names[place] for place in chosen[:count])
            print(f"| {names} | {shelf.accuracy(task, chosen[:count]):.2%} |")
        print(f"| all {len(records)} | {shelf.accuracy(task, all_of_them):.2%} |")

        gains = []
        print("\n| task, its own module left out | best one | best two |\n|---|---|---|")
        for own, each in enumerate(tasks):
            others = [place for place in all_of_them if place != own]
            two = shelf.chosen(each.task, others, 2)
            one, both = (shelf.accuracy(each.task, some) for some in (two[:1], two))
            gains.append(both - one)
            print(f"| {each.name} | {one:.2%} | {both:.2%} |")
        mean = 100 * statistics.mean(gains)
        print(f"\nThe best two over the best one: {mean:+.2f} points on average")


if __name__ == "__main__":
    main()
