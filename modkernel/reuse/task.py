"""Tasks: a choice or a grouping of a data set's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from modkernel.data.class_names import how_to_join, listed
from modkernel.errors import ClassError
from modkernel.spec import DatasetSpec, Groups, Spec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Task", "parse_task"]


class Task(Spec, title="Task"):
    """Which classes are to be told apart: two sides or more, each of one class or of several.

    >>> task = Task(groups={"animal": ("cat", "dog"), "vehicle": ("truck",)})
    >>> task.name
    'animal-vehicle'
    >>> task.assign(("cat", "ship", "dog", "truck")).tolist()
    [0, -1, 0, 1]

    Raises:
        ClassError: fewer than two sides, a side without classes, or a class that is named twice.
    """

    groups: Groups = Field(
        description='Classes by the name of their side: {"animal": ["cat", "dog"], '
        '"vehicle": ["truck"]}.'
    )

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if len(self.groups) < 2:
            raise ClassError(
                f"A task needs at least two sides to tell apart, got {len(self.groups)}: write "
                "'cat, dog' or 'animal=cat+dog, vehicle=truck+ship'."
            )
        for side, members in self.groups.items():
            if not members or not side or not all(members):
                raise ClassError(
                    f"Side '{side}' of a task has no classes, or one without a name: name one "
                    "or more, or leave the side out."
                )
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise ClassError(
                f"Class '{twice[0]}' is named more than once in a task: a class belongs to one "
                "side at most."
            )
        return self

    @classmethod
    def of_classes(cls, names: Iterable[str]) -> Task:
        """The task that tells the named classes from one another.

        Raises:
            ClassError: fewer than two classes, or one that is named twice.
        """
        names = tuple(names)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ClassError(f"Class '{twice[0]}' is named more than once: name each class once.")
        return cls(groups={name: (name,) for name in names})

    @property
    def name(self) -> str:
        """Names of the sides, joined: 'cat-dog', 'animal-vehicle'."""
        return "-".join(self.groups)

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes of all sides, in order."""
        return tuple(name for members in self.groups.values() for name in members)

    def assign(self, classes: Sequence[str]) -> Tensor:
        """Side of each of a data set's classes.

        Args:
            classes: of the data set, in the order of its labels.

        Returns:
            int64 [C]; -1 for a class that the task leaves out.

        Raises:
            ClassError: the task names a class that the data set does not have.
        """
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise ClassError(
                f"Task '{self.name}' names class '{unknown[0]}', which the data set does not have: "
                f"choose from {listed(classes)}.{how_to_join(unknown[0])}"
            )
        import torch  # What reads tasks alone does not wait for it.

        side_of = {
            name: side for side, members in enumerate(self.groups.values()) for name in members
        }
        return torch.tensor([side_of.get(name, -1) for name in classes], dtype=torch.int64)

    def dataset(self, base: DatasetSpec) -> DatasetSpec:
        """The data set `base` narrowed to this task; its classes are the task's sides.

        Raises:
            ClassError: `base` names its classes or groups, and lacks one that the task names.
        """
        named = base.classes or (None if base.groups is None else tuple(base.groups))
        if named is not None:
            self.assign(named)
        sides = {
            side: tuple(
                name
                for member in members
                for name in (base.groups[member] if base.groups is not None else (member,))
            )
            for side, members in self.groups.items()
        }
        plain = all(members == (side,) for side, members in sides.items())
        return base.model_copy(
            update={"classes": tuple(sides), "groups": None}
            if plain
            else {"classes": None, "groups": sides}
        )


def parse_task(text: str) -> Task:
    """Read a task as it is typed: 'cat, dog' or 'animal=cat+dog+deer, vehicle=truck+ship'.

    Sides are separated by ','. The name of a side ends with '=', and its classes are joined by
    '+'. A side without '=' is a class, whatever signs it holds, as 'T-shirt/top' and 'C++' do.

    >>> parse_task("animal=cat+dog, truck").groups
    {'animal': ('cat', 'dog'), 'truck': ('truck',)}

    Raises:
        ClassError: fewer than two sides, an empty name, or a name that is used twice.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        side, named, joined = part.partition("=")
        side = side.strip()
        members = tuple(name.strip() for name in joined.split("+")) if named else (side,)
        if not side or not all(members):
            raise ClassError(
                f"Cannot read '{part.strip()}' in task '{text}': write 'cat, dog' or "
                "'animal=cat+dog, vehicle=truck+ship'."
            )
        if side in groups:
            raise ClassError(f"Task '{text}' has two sides named '{side}': name each once.")
        groups[side] = members
    return Task(groups=groups)
