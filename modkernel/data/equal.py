"""Training examples that are equal once they are read: nothing can be learnt from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from modkernel.data.class_names import listed
from modkernel.data.findings import Finding, FindingKind
from modkernel.data.sources import RawExamples
from modkernel.errors import DataError

CHUNK = 256
"""Examples that are compared at once; mostly the first few tell."""
CAUSES: dict[FindingKind, str] = {
    "transparency": "what is visible of transparent images, if anything, may have the colour of "
    "the background: set another dataset.background.",
    "range": "the images have more than eight bits, and what differs may lie outside of what is "
    "read: set another dataset.value_range, or save them with eight bits.",
}
"""What may have made examples equal, by the kind of a finding about them."""
UNKNOWN_CAUSE = "look at what was saved or exported; it may be blank, or one example many times."


def likely_cause(findings: Sequence[Finding]) -> str:
    """What may have made the examples of a set equal, by the findings about it."""
    kinds = [finding.kind for finding in findings if finding.kind in CAUSES]
    return CAUSES[kinds[0]] if kinds else UNKNOWN_CAUSE


def refuse_equal(contents: np.ndarray) -> None:
    """Refuse a training part that is one example many times, before it is split.

    Args:
        contents: uint8 [N, 32], hashes of the examples.

    Raises:
        DataError: all are equal.
    """
    if len(contents) > 1 and (contents == contents[0]).all():
        raise _all_are_equal(len(contents), UNKNOWN_CAUSE)


def equal_findings(
    examples: RawExamples, labels: Tensor | None, classes: Sequence[str], cause: str
) -> tuple[Finding, ...]:
    """Refuse training examples that are all equal, and tell of classes that have equal ones alone.

    Args:
        examples: N of them, as training sees them before they are normalised.
        labels: int64 [N] or None.
        classes: names of the classes.
        cause: a sentence on what may have made them equal.

    Raises:
        DataError: all are equal.
    """
    everything = torch.arange(len(examples))
    if len(examples) > 1 and _all_equal(examples, everything):
        raise _all_are_equal(len(examples), cause)
    if labels is None:
        return ()
    rows = [(labels == number).nonzero().flatten() for number in range(len(classes))]
    same = [
        number for number, each in enumerate(rows) if len(each) > 1 and _all_equal(examples, each)
    ]
    if not same:
        return ()
    return (
        Finding(
            kind="equal",
            text=f"The training examples of {len(same)} of {len(classes)} classes are all equal "
            f"once they are read ({listed([classes[number] for number in same])}): {cause}",
            count=sum(len(rows[number]) for number in same),
        ),
    )


def _all_are_equal(count: int, cause: str) -> DataError:
    return DataError(
        f"All {count} training examples are equal once they are read, so there is nothing to "
        f"learn: {cause}"
    )


def _all_equal(examples: RawExamples, rows: Tensor) -> bool:
    first = examples.batch(rows[:1])
    return all(bool((examples.batch(chunk) == first).all()) for chunk in rows.split(CHUNK))
