"""What a study will do, resolved before anything is trained."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, cycle

from modkernel.data import DatasetInfo
from modkernel.errors import InterfaceError, SpecError
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_labelled
from modkernel.flows.plans.steps import Below
from modkernel.flows.study.spec import StudySpec
from modkernel.plan import check_hidden, facts, plan_hidden
from modkernel.registry import Registry
from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.reuse.moments import check_size
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import BackboneSpec, DatasetSpec, ModuleSpec

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

    part: int
    """Which of the plan's data sets it is of."""
    name: str
    """Unique in the study, fit for a registered name: 'cat-dog'."""
    task: Task
    dataset: DatasetSpec
    module: ModuleSpec
    examples: int
    """That the module is trained on."""


@dataclass(frozen=True)
class StudyPart:
    """A data set of all classes of its tasks, that every module is evaluated on."""

    union: DatasetSpec
    info: DatasetInfo
    """Of `union`."""
    tasks: tuple[Task, ...]

    @property
    def title(self) -> str:
        """Its name, and what is done to its images: 'digits (images resized to 8, channels 1)'."""
        size, channels = self.union.image_size, self.union.channels
        done = ([] if size is None else [f"images resized to {_size_text(size)}"]) + (
            [] if channels is None else [f"channels {channels}"]
        )
        return f"{self.info.name} ({', '.join(done)})" if done else self.info.name


@dataclass(frozen=True)
class StudyPlan:
    """A study's tasks, in the order of the data sets that they are of."""

    spec: StudySpec
    tasks: tuple[StudyTask, ...]
    parts: tuple[StudyPart, ...]

    def module_name(self, task: StudyTask) -> str:
        """Registered name of a task's module."""
        return f"{self.spec.name}.{task.name}"

    def ground_truth(self, task: StudyTask, part: int, module_id: str) -> GroundTruthSpec:
        """What the ground truth of a task's module on a data set is asked for."""
        return GroundTruthSpec(
            module_id=module_id,
            fingerprint=self.parts[part].info.fingerprint,
            own=task.task if part == task.part else None,
            targets=self.parts[part].tasks,
            output=self.spec.output,
            seed=self.spec.seed,
        )


def plan_study(registry: Registry, spec: StudySpec) -> StudyPlan:
    """Resolve a study, and check that all of it can be trained.

    Raises:
        SpecError: less than three tasks, or one that stands twice.
        ClassError: a task that the data set's classes do not allow.
        InterfaceError: data sets whose examples differ in shape.
        DataError, CutError, InterfaceError, ObjectiveError: see `check_hidden`
            and `plan_hidden`.
        MomentsError: the modules have more features than moments of all classes are stored of.
    """
    asked = [(spec.dataset, spec.tasks), *((one.dataset, one.tasks) for one in spec.others)]
    parts = tuple(_part(registry, dataset, tasks) for dataset, tasks in asked)
    _check_shapes(parts)
    tasks = [(number, task) for number, part in enumerate(parts) for task in part.tasks]
    if len(tasks) < FEWEST_TASKS:
        raise SpecError(
            f"A study ranks the modules of the other tasks for each task, so it needs at least "
            f"{FEWEST_TASKS} tasks, got {len(tasks)}: add tasks, or use data with more classes."
        )
    titles = _titles([dataset.name for dataset, _ in asked])
    of_data = [titles[number] for number, _ in tasks] if spec.others else None
    names = names_of(spec.name, [task for _, task in tasks], of_data)
    backbones = cycle(spec.shelf or (spec.backbone,))
    classes = max(len(part.info.classes) for part in parts)
    planned = tuple(
        _plan_task(registry, spec, asked[number][0], number, name, task, backbone, classes)
        for name, (number, task), backbone in zip(names, tasks, backbones, strict=False)
    )
    return StudyPlan(spec, planned, parts)


def _titles(names: Sequence[str]) -> list[str]:
    """Names of data sets, each once: those of a name that is there twice are numbered."""
    return [
        name if names.count(name) == 1 else f"{name}{number}"
        for number, name in enumerate(names, start=1)
    ]


def _part(registry: Registry, dataset: DatasetSpec, given: tuple[str, ...] | None) -> StudyPart:
    base = datasets.describe(registry, dataset)
    check_labelled(base, "of which a study's tasks are made")
    tasks = _tasks(given, base)
    used = {name for task in tasks for name in task.classes}
    union = dataset.model_copy(
        update={"classes": tuple(name for name in base.classes if name in used)}
    )
    return StudyPart(union, datasets.info_of(registry, union), tasks)


def _check_shapes(parts: Sequence[StudyPart]) -> None:
    first, *others = (part.info for part in parts)
    for other in others:
        found = [one.preprocessing for one in (first, other)]
        if (found[0].shape, found[0].dtype) == (found[1].shape, found[1].dtype):
            continue
        shapes = ["×".join(map(str, one.shape)) for one in found]
        remedy = "give data sets whose examples have one shape"
        if len(found[0].shape) == 3:
            channels, *size = found[0].shape
            remedy = (
                f"for images, set image_size: {_size_text(tuple(size))} and channels: {channels} "
                "in its dataset"
            )
        raise InterfaceError(
            f"Every module of a study is evaluated on every data set, and '{first.name}' has "
            f"examples of shape {shapes[0]}, {found[0].dtype}, '{other.name}' of {shapes[1]}, "
            f"{found[1].dtype}: {remedy}."
        )


def _size_text(size: int | Sequence[int]) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}" if height == width else f"{height}x{width}"


def default_tasks(classes: Sequence[str]) -> tuple[Task, ...]:
    """All pairs of the paper's classes if the data has them, else of its first six classes."""
    paper = set(PAPER_CLASSES) <= set(classes)
    chosen = PAPER_CLASSES if paper else classes[:DEFAULT_CLASSES]
    return tuple(map(Task.of_classes, combinations(chosen, 2)))


def _tasks(given: tuple[str, ...] | None, base: DatasetInfo) -> tuple[Task, ...]:
    tasks = default_tasks(base.classes) if given is None else tuple(map(parse_task, given))
    seen: set[frozenset[frozenset[str]]] = set()
    for task in tasks:
        task.assign(base.classes)  # Refuses a class that the data does not have.
        sides = frozenset(map(frozenset, task.groups.values()))
        if sides in seen:
            raise SpecError(f"Task {task.name} tells apart what another task does: name it once.")
        seen.add(sides)
    return tasks


def names_of(
    study: str, tasks: Sequence[Task], of_data: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Unique names that a registered module may have; class names may hold anything.

    Args:
        study: its name.
        tasks: on one data set, or on several.
        of_data: names of the data set of each, to begin its name with.
    """
    room = LONGEST_NAME - len(study) - 1
    titles = [task.name for task in tasks]
    if of_data is not None:
        titles = [f"{data}-{title}" for data, title in zip(of_data, titles, strict=True)]
    slugs = [re.sub(r"[^a-z0-9_-]+", "-", title.lower()).strip("-_") for title in titles]
    counts = Counter(slugs)
    return tuple(
        slug
        if slug and counts[slug] == 1 and len(slug) <= room
        else f"{slug[: max(0, room - 9)]}-{_digits(task, data)}".strip("-_")
        for slug, task, data in zip(slugs, tasks, of_data or [""] * len(tasks), strict=True)
    )


def _digits(task: Task, data: str) -> str:
    """Eight digits that tell tasks apart whose names are alike."""
    text = task.digest()
    return hashlib.sha256(f"{data} {text}".encode()).hexdigest()[:8] if data else text[:8]


def _plan_task(
    registry: Registry,
    spec: StudySpec,
    base: DatasetSpec,
    part: int,
    name: str,
    task: Task,
    backbone: BackboneSpec,
    measured_classes: int,
) -> StudyTask:
    dataset = task.dataset(base)
    info = datasets.info_of(registry, dataset)
    check_hidden((spec.hidden,), info, where="hidden")
    below = Below.of_data(info)
    (hidden,) = plan_hidden(backbone, (spec.hidden,), below.gives, where="hidden")
    check_size(measured_classes, hidden.features)
    module = hidden.spec(below.upstream, below.preprocessing, facts(info), spec.seed)
    return StudyTask(part, name, task, dataset, module, info.n_train)
