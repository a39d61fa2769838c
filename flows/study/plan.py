"""What a study will do, resolved before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from modkernel.data import DatasetInfo
from modkernel.errors import SpecError
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_labelled
from modkernel.flows.plans.steps import Below
from modkernel.flows.study.spec import StudySpec
from modkernel.plan import check_hidden, facts, plan_hidden
from modkernel.registry import Registry
from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.reuse.moments import check_size
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import DatasetSpec, ModuleSpec

PAPER_CLASSES = ("deer", "horse", "cat", "dog", "automobile", "truck")
"""All pairs of these classes of CIFAR-10 are the paper's 15 tasks."""
DEFAULT_CLASSES = 6
"""Of data without these, so many first classes are paired."""
FEWEST_TASKS = 3
"""Each task ranks the modules of the others, which must be two at least."""
LONGEST_NAME = 100
"""Characters of a registered name."""


@dataclass(frozen=True)
class StudyTask:
    """One task, its data and the module that is trained for it."""

    name: str
    """Unique in the study, fit for a registered name: 'cat-dog'."""
    task: Task
    dataset: DatasetSpec
    module: ModuleSpec


@dataclass(frozen=True)
class StudyPlan:
    """A study's tasks, and the data set of all their classes that every module is evaluated on."""

    spec: StudySpec
    tasks: tuple[StudyTask, ...]
    union: DatasetSpec
    info: DatasetInfo
    """Of `union`."""

    def module_name(self, task: StudyTask) -> str:
        """Registered name of a task's module."""
        return f"{self.spec.name}.{task.name}"

    def ground_truth(self, task: StudyTask, module_id: str) -> GroundTruthSpec:
        """What the ground truth of a task's module is asked for, once it has an id."""
        return GroundTruthSpec(
            module_id=module_id,
            fingerprint=self.info.fingerprint,
            own=task.task,
            targets=tuple(other.task for other in self.tasks),
            output=self.spec.output,
            seed=self.spec.seed,
        )


def plan_study(registry: Registry, spec: StudySpec) -> StudyPlan:
    """Resolve a study, and check that all of it can be trained.

    Raises:
        SpecError: less than three tasks, or one that stands twice.
        ClassError: a task that the data set's classes do not allow.
        DataError, CutError, InterfaceError, ObjectiveError: see `check_hidden`
            and `plan_hidden`.
        MomentsError: the modules have more features than moments of all classes are stored of.
    """
    base = datasets.describe(registry, spec.dataset)
    check_labelled(base, "of which a study's tasks are made")
    tasks = _tasks(spec, base)
    used = {name for task in tasks for name in task.classes}
    union = spec.dataset.model_copy(
        update={"classes": tuple(name for name in base.classes if name in used)}
    )
    planned = tuple(
        _plan_task(registry, spec, name, task, len(used))
        for name, task in zip(names_of(spec.name, tasks), tasks, strict=True)
    )
    return StudyPlan(spec, planned, union, datasets.info_of(registry, union))


def default_tasks(classes: Sequence[str]) -> tuple[Task, ...]:
    """All pairs of the paper's classes if the data has them, else of its first six classes."""
    paper = set(PAPER_CLASSES) <= set(classes)
    chosen = PAPER_CLASSES if paper else classes[:DEFAULT_CLASSES]
    return tuple(map(Task.of_classes, combinations(chosen, 2)))


def _tasks(spec: StudySpec, base: DatasetInfo) -> tuple[Task, ...]:
    given = spec.tasks
    tasks = default_tasks(base.classes) if given is None else tuple(map(parse_task, given))
    if len(tasks) < FEWEST_TASKS:
        raise SpecError(
            f"A study ranks the modules of the other tasks for each task, so it needs at least "
            f"{FEWEST_TASKS} tasks, got {len(tasks)}: add tasks, or use data with more classes."
        )
    seen: set[frozenset[frozenset[str]]] = set()
    for task in tasks:
        task.assign(base.classes)  # Refuses a class that the data does not have.
        sides = frozenset(map(frozenset, task.groups.values()))
        if sides in seen:
            raise SpecError(f"Task {task.name} tells apart what another task does: name it once.")
        seen.add(sides)
    return tasks


def names_of(study: str, tasks: Sequence[Task]) -> tuple[str, ...]:
    """Unique names that a registered module may have; class names may hold anything."""
    room = LONGEST_NAME - len(study) - 1
    slugs = [re.sub(r"[^a-z0-9_-]+", "-", task.name.lower()).strip("-_") for task in tasks]
    counts = Counter(slugs)
    return tuple(
        slug
        if slug and counts[slug] == 1 and len(slug) <= room
        else f"{slug[: max(0, room - 9)]}-{task.digest()[:8]}".strip("-_")
        for slug, task in zip(slugs, tasks, strict=True)
    )


def _plan_task(
    registry: Registry, spec: StudySpec, name: str, task: Task, measured_classes: int
) -> StudyTask:
    dataset = task.dataset(spec.dataset)
    info = datasets.info_of(registry, dataset)
    check_hidden((spec.hidden,), info, on_pairs=False, where="hidden")
    below = Below.of_data(info)
    (hidden,) = plan_hidden(spec.backbone, (spec.hidden,), below.gives, where="hidden")
    check_size(measured_classes, hidden.features)
    module = hidden.spec(below.upstream, below.preprocessing, facts(info), spec.seed)
    return StudyTask(name, task, dataset, module)
