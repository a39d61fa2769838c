"""Validation and test parts that a set brings itself: whether they serve for the chosen classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modkernel.data.class_names import listed
from modkernel.data.findings import Finding
from modkernel.data.pool import Pool
from modkernel.errors import DataError


def check_own_parts(
    pool: Pool, classes: Sequence[str], labels: Tensor | None
) -> tuple[Finding, ...]:
    """Refuse a part that nothing can be validated or tested on, and tell of classes that it lacks.

    Args:
        pool: the set.
        classes: that are chosen.
        labels: int64 [N] by `classes`; -1 for a class that is left out.

    Raises:
        DataError: a part without the chosen classes, or a validation part with one of them, which
            has no pair of different classes. The message names its folder.
    """
    findings = []
    for name, rows in (("validation", pool.validation), ("test", pool.test)):
        if rows is None or labels is None:
            continue
        given = labels[rows]
        counts = torch.bincount(given[given >= 0], minlength=len(classes)).tolist()
        there = [each for each, count in zip(classes, counts, strict=True) if count]
        lacking = [each for each, count in zip(classes, counts, strict=True) if not count]
        place = pool.places.get(name, f"the set's own {name} part")
        if not there or (name == "validation" and len(there) < 2):
            only = f"of them only '{there[0]}'" if there else "none of them"
            raise DataError(
                f"The {name} part, {place}, needs examples of the chosen classes "
                f"({listed(classes)}), and has {only}: add others, or take the part away, so that "
                "one is split off."
            )
        if lacking:
            what = "tested" if name == "test" else "validated"
            findings.append(
                Finding(
                    kind="small",
                    text=f"The {name} part, {place}, has no examples of {len(lacking)} of "
                    f"{len(classes)} classes ({listed(lacking)}), on which nothing is {what}.",
                    count=len(lacking),
                )
            )
    return tuple(findings)
