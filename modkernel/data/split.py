"""Choose classes and share the examples out into training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from modkernel.data.class_names import how_to_join, listed
from modkernel.data.findings import Finding
from modkernel.data.pool import Pool, Unread, take
from modkernel.errors import ClassError, DataError
from modkernel.spec import DatasetSpec


@dataclass(frozen=True, eq=False)
class Arranged:
    """The chosen examples in the order train, validation, test; `counts` has the three lengths.

    `findings` are those of the pool and of the split, `columns` those of the pool.
    """

    classes: tuple[str, ...]
    ids: list[str]
    labels: Tensor | None
    examples: Unread
    counts: tuple[int, int, int]
    findings: tuple[Finding, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[slice, slice, slice]:
        """Where the training, validation and test examples stand."""
        train, validation, test = self.counts
        end = train + validation
        return slice(0, train), slice(train, end), slice(end, end + test)


def arrange(pool: Pool, spec: DatasetSpec) -> Arranged:
    """Apply the choice of classes and the seeded, stratified split of a spec.

    Every class is split by its own random permutation, seeded by the split's seed and the class's
    name. So the same example falls into the same split whichever other classes are chosen and
    however they are grouped, and a module that was trained on all classes never saw the test
    examples of a subset. Each split keeps the source's order.

    A set without labels is split as one class, and gets no test split unless it has a test part:
    there would be nothing to test on.

    Raises:
        ClassError: unknown, repeated or fewer than two classes, an empty group or fewer than two
            groups, or a class with too few examples.
        DataError: too few examples without labels.
    """
    classes, labels = _choose(pool, _wanted(spec))
    parts: dict[str, list[Tensor]] = {"training": [], "validation": [], "test": []}
    shares: dict[str, float] = {}
    if pool.test is None and labels is not None:
        shares["test"] = spec.test_fraction
    if pool.validation is None:
        shares["validation"] = spec.validation_fraction
    for stratum, rows in _strata(pool, classes, labels):
        if len(rows) <= len(shares):
            _refuse(stratum, len(rows), tuple(shares))
        rows = rows[torch.randperm(len(rows), generator=_generator(spec.split_seed, stratum))]
        for left, (name, fraction) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
            # Each split still to be filled, the training split among them, gets an example.
            size = min(max(1, round(fraction * len(rows))), len(rows) - left)
            parts[name].append(rows[:size])
            rows = rows[size:]
        parts["training"].append(rows)
    for name, given in (("validation", pool.validation), ("test", pool.test)):
        if given is not None:
            parts[name].append(given if labels is None else given[labels[given] >= 0])
    ordered = [_in_order(part) for part in parts.values()]
    rows = torch.cat(ordered)
    if spec.groups is not None and labels is not None:
        classes, labels = _join(spec.groups, labels)
    return Arranged(
        classes=classes,
        ids=[pool.ids[i] for i in rows.tolist()],
        labels=None if labels is None else labels[rows],
        examples=take(pool.examples, rows),
        counts=(len(ordered[0]), len(ordered[1]), len(ordered[2])),
        findings=pool.findings,
        columns=pool.columns,
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


def _strata(
    pool: Pool, classes: tuple[str, ...], labels: Tensor | None
) -> Iterator[tuple[str | None, Tensor]]:
    if labels is None:
        yield None, pool.train
        return
    for number, name in enumerate(classes):
        yield name, pool.train[labels[pool.train] == number]


def _refuse(stratum: str | None, count: int, shares: tuple[str, ...]) -> NoReturn:
    need = (
        f"at least {len(shares) + 1} are needed, one for each of {', '.join(('training', *shares))}"
    )
    if stratum is None:
        raise DataError(f"The training part has {count} examples: {need}. Add examples.")
    raise ClassError(
        f"Class '{stratum}' has {count} in the training part: {need}. Add examples of it or leave "
        "the class out."
    )


def _generator(seed: int, stratum: str | None) -> torch.Generator:
    digest = hashlib.sha256(f"split:{seed}:{stratum or ''}".encode(errors="surrogateescape"))
    # The CPU generator uses 32 bits of its seed.
    return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:4]))


def _in_order(rows: list[Tensor]) -> Tensor:
    return torch.cat((torch.empty(0, dtype=torch.int64), *rows)).sort().values
