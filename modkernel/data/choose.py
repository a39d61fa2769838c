"""Choose classes of a data set, and join them to groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modkernel.data.class_names import how_to_join, listed
from modkernel.data.pool import Pool
from modkernel.errors import ClassError
from modkernel.spec import DatasetSpec


def choose(pool: Pool, spec: DatasetSpec) -> Pool:
    """The pool with the classes or groups that a spec names, in its order.

    Its parts have the rows of these classes alone; `ids`, `labels` and `examples` are over all
    rows as before, with -1 as the label of those that are left out.

    Raises:
        ClassError: unknown, repeated or fewer than two classes, an empty group or fewer than two
            groups.
    """
    classes, labels = _choose(pool, _wanted(spec))
    if labels is None:
        return pool
    if spec.groups is not None:
        classes, labels = _join(spec.groups, labels)

    def chosen(rows: Tensor) -> Tensor:
        return rows[labels[rows] >= 0]

    return replace(
        pool,
        classes=classes,
        labels=labels,
        train=chosen(pool.train),
        validation=None if pool.validation is None else chosen(pool.validation),
        test=None if pool.test is None else chosen(pool.test),
    )


def _wanted(spec: DatasetSpec) -> Sequence[str] | None:
    """The classes that the spec names, those of a group one after the other."""
    if spec.groups is None:
        return spec.classes
    if len(spec.groups) < 2:
        raise ClassError(
            f"At least two groups are needed to tell examples apart, got {len(spec.groups)}: "
            "write {first: [class, …], second: [class, …]}."
        )
    for name, members in spec.groups.items():
        if not members:
            raise ClassError(f"Group '{name}' has no classes: name one or more, or leave it out.")
    return tuple(name for members in spec.groups.values() for name in members)


def _join(groups: Mapping[str, tuple[str, ...]], labels: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Number the groups in place of their classes; -1 stays."""
    sizes = torch.tensor([len(members) for members in groups.values()])
    group_of = torch.arange(len(groups)).repeat_interleave(sizes)
    return tuple(groups), torch.where(labels < 0, labels, group_of[labels.clamp(min=0)])


def _choose(pool: Pool, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], Tensor | None]:
    """The classes in the order wanted, and labels by that order: -1 for a class left out."""
    if pool.labels is None:
        if wanted is not None:
            raise ClassError("This data set has no labels, so no classes can be chosen from it.")
        return (), None
    names = tuple(pool.classes if wanted is None else wanted)
    shown = listed(pool.classes)
    for name in names:
        if name not in pool.classes:
            raise ClassError(f"There is no class '{name}': choose from {shown}.{how_to_join(name)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ClassError(f"Class '{repeated[0]}' is named more than once: name each class once.")
    if len(names) < 2:
        raise ClassError(
            f"At least two classes are needed to tell examples apart, got {len(names)}: "
            f"choose two or more from {shown}."
        )
    number = torch.full((len(pool.classes),), -1, dtype=torch.int64)
    for new, name in enumerate(names):
        number[pool.classes.index(name)] = new
    return names, number[pool.labels]
