"""Share the examples of a data set out into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modkernel.data.class_names import listed
from modkernel.data.contents import shares
from modkernel.data.findings import Finding
from modkernel.data.pool import Pool
from modkernel.errors import ClassError, DataError
from modkernel.spec import DatasetSpec

VALIDATED = 2
"""Examples of each class that are validated on, at least, where it has so many: one makes no
pair."""


@dataclass(frozen=True, eq=False)
class Membership:
    """Rows of a pool, int64, that are in each part; `borrowed` are some of those in `train`.

    What is borrowed is validated on as well as trained on: see `Dataset.validation_part`.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    borrowed: Tensor

    @property
    def rows(self) -> Tensor:
        """Rows of all parts, in the order train, validation, test."""
        return torch.cat((self.train, self.validation, self.test))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the training, validation and test examples stand in `rows`."""
        train, validation, test = map(len, (self.train, self.validation, self.test))
        end = train + validation
        return slice(0, train), slice(train, end), slice(end, end + test)


def share_out(pool: Pool, spec: DatasetSpec, hashes: np.ndarray) -> Membership:
    """Decide which part each example of a pool is in.

    The example's own content and the split's seed decide, and nothing else: no other example, nor
    its class, its name or its place. So adding or removing examples moves none of the others,
    whichever classes are chosen and however they are grouped nobody moves either, and equal
    examples are in one part. The shares come out as chance has it. A part that the set itself has
    stays as it is.

    A set without labels gets no test part unless it has one: there would be nothing to test on.

    Args:
        pool: the chosen classes of a set.
        spec: fractions and seed.
        hashes: uint8 [N, 32], of the content of every example of the pool.

    Raises:
        ClassError: a class without a training example.
        DataError: no training example, or a validation part of the set's own that has fewer than
            two classes.
    """
    own = hashes[pool.train.numpy()]
    order = torch.from_numpy(shares(own, spec.split_seed, "validation"))
    tested = torch.zeros(len(own), dtype=torch.bool)
    if pool.test is None and pool.labels is not None:
        tested = torch.from_numpy(shares(own, spec.split_seed, "test")) < spec.test_fraction
    validated = torch.zeros_like(tested)
    if pool.validation is None:
        validated = ~tested & (order < spec.validation_fraction)
    trained = ~tested & ~validated
    found = Membership(
        train=pool.train[trained],
        validation=pool.train[validated] if pool.validation is None else pool.validation,
        test=pool.train[tested] if pool.test is None else pool.test,
        borrowed=pool.train[:0],
    )
    _check(pool, spec, found)
    if pool.labels is None:
        return found
    borrowed = _borrow(pool.labels, found, order[trained], len(pool.classes))
    return Membership(found.train, found.validation, found.test, borrowed)


def _borrow(labels: Tensor, found: Membership, order: Tensor, classes: int) -> Tensor:
    """Of classes with too few validation examples, the training examples next in order."""
    own = torch.bincount(labels[found.validation], minlength=classes)
    lacking = (VALIDATED - own).clamp(min=0).tolist()
    trained = labels[found.train]
    by_order = order.argsort(stable=True)
    taken = [
        by_order[trained[by_order] == number][:count]
        for number, count in enumerate(lacking)
        if count
    ]
    return found.train[torch.cat(taken).sort().values] if taken else found.train[:0]


def _check(pool: Pool, spec: DatasetSpec, found: Membership) -> None:
    """Refuse parts that nothing can be trained or validated on."""
    total = len(pool.rows)
    if not len(found.train):
        raise DataError(
            f"None of the {total} examples is in the training part: add examples, or set another "
            f"{_settings(spec, 'validation')}."
        )
    if pool.labels is None:
        return
    trained = torch.bincount(pool.labels[found.train], minlength=len(pool.classes))
    for name, count in zip(pool.classes, trained.tolist(), strict=True):
        if not count:
            others = int((pool.labels[pool.rows] == pool.classes.index(name)).sum())
            raise ClassError(
                f"Class '{name}' has none of the {len(found.train)} examples of the training part, "
                f"and {others} in the others: add examples of it, leave the class out, or set "
                f"another {_settings(spec, 'validation')}."
            )
    if pool.validation is not None:
        classes = pool.labels[found.validation].unique().tolist()
        if len(classes) < 2:
            has = f"only class '{pool.classes[classes[0]]}'" if classes else "none"
            raise DataError(
                f"{_own(pool, 'validation')} has {len(found.validation)} examples, and of the "
                f"chosen classes ({listed(pool.classes)}) {has}: add examples of the others, or "
                "take that part away, so that one is split off."
            )


def split_findings(pool: Pool, spec: DatasetSpec, found: Membership) -> tuple[Finding, ...]:
    """What a person should know of parts that are small."""
    if pool.labels is None:
        return ()
    findings = []
    if len(found.borrowed):
        few = _names(pool, pool.labels[found.borrowed].unique())
        text = (
            f"{_classes(few, pool)} fewer than {VALIDATED} examples in the validation part, which "
            f"has {len(found.validation)} in all: {len(found.borrowed)} of the {len(found.train)} "
            "training examples are validated on as well, which flatters validation. "
        )
        remedy = _remedy(spec, "validation", pool, pool.validation)
        findings.append(Finding(kind="small", text=text + remedy, count=len(found.borrowed)))
    tested = torch.bincount(pool.labels[found.test], minlength=len(pool.classes))
    absent = _names(pool, (tested == 0).nonzero().flatten())
    if absent:
        text = (
            f"{_classes(absent, pool)} no example in the test part, which has {len(found.test)} in "
            "all: nothing tells how well they are found. "
        )
        remedy = _remedy(spec, "test", pool, pool.test)
        findings.append(Finding(kind="small", text=text + remedy, count=len(absent)))
    return tuple(findings)


def _names(pool: Pool, numbers: Tensor) -> Sequence[str]:
    return [pool.classes[number] for number in numbers.tolist()]


def _classes(some: Sequence[str], pool: Pool) -> str:
    """The beginning of a sentence about some of the classes."""
    return (
        f"{len(some)} of the {len(pool.classes)} classes ({listed(some)}) "
        f"{'has' if len(some) == 1 else 'have'}"
    )


def _own(pool: Pool, part: str) -> str:
    """A part that the set itself has, as the subject of a sentence."""
    place = pool.places.get(part)
    return f"The set's own {part} part" + (f", {place}," if place else "")


def _remedy(spec: DatasetSpec, part: str, pool: Pool, own: Tensor | None) -> str:
    if own is not None:
        place = pool.places.get(part, f"the set's own {part} part")
        return f"Add examples to {place}."
    return f"Add examples, or set another {_settings(spec, part)}."


def _settings(spec: DatasetSpec, part: str) -> str:
    """The settings that decide what is in a part, with their values."""
    fraction = spec.test_fraction if part == "test" else spec.validation_fraction
    return (
        f"dataset.{part}_fraction (it is {fraction:g}) or dataset.split_seed (it is "
        f"{spec.split_seed})"
    )
