"""Examples that occur more than once: within a part, in two parts, or with two labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from modkernel.data.findings import Finding


def copies_findings(
    digests: Tensor,
    ids: Sequence[str],
    labels: Tensor | None,
    classes: Sequence[str],
    parts: Sequence[slice],
) -> tuple[Finding, ...]:
    """Tell of copies, by what tells examples apart.

    Args:
        digests: int64 [N], equal where the examples are.
        ids: of the examples.
        labels: int64 [N], positions in `classes`; None without labels.
        classes: names of the classes.
        parts: where the training, validation and test examples stand.
    """
    content = digests.numpy()
    if len(np.unique(content)) == len(content):
        return ()
    return (
        *_leaks(content, ids, parts),
        *_contradictions(content, ids, labels, classes),
        *_repeated(content, ids, parts),
    )


def _leaks(content: np.ndarray, ids: Sequence[str], parts: Sequence[slice]) -> Iterator[Finding]:
    """Test examples that stand in another part as well, then validation ones that are trained on.

    The parts are neighbours, so that all of the others come before.
    """
    for part, name, others in (
        (parts[2], "test", "training or validation"),
        (parts[1], "validation", "training"),
    ):
        known, tested = content[: part.start], content[part]
        copied = np.isin(tested, known)
        if not copied.any():
            continue
        row = int(copied.argmax())
        source = int((known == tested[row]).argmax())
        yield Finding(
            kind="leak",
            text=f"{copied.sum()} of {len(tested)} {name} examples are copies of {others} "
            f"ones, such as {ids[part.start + row]} of {ids[source]}: what is measured on them "
            "flatters the network. Take them out of one of the two parts.",
            count=int(copied.sum()),
        )


def _contradictions(
    content: np.ndarray,
    ids: Sequence[str],
    labels: Tensor | None,
    classes: Sequence[str],
) -> Iterator[Finding]:
    if labels is None:
        return
    given = labels.numpy()
    order = np.lexsort((given, content))
    same = (content[order][1:] == content[order][:-1]) & (given[order][1:] != given[order][:-1])
    if not same.any():
        return
    doubtful = np.isin(content, content[order][1:][same])
    one, other = (int(order[int(same.argmax()) + step]) for step in (0, 1))
    yield Finding(
        kind="contradictions",
        text=f"{doubtful.sum()} of {len(given)} examples are equal to one of another class, such "
        f"as {ids[one]} ({classes[given[one]]}) and {ids[other]} ({classes[given[other]]}): keep "
        "each in one class.",
        count=int(doubtful.sum()),
    )


def _repeated(content: np.ndarray, ids: Sequence[str], parts: Sequence[slice]) -> Iterator[Finding]:
    """Examples that repeat an earlier one of their own part, all parts together."""
    total, example = 0, None
    for part in parts:
        values = content[part]
        _, first = np.unique(values, return_index=True)
        total += len(values) - len(first)
        if example is None and len(first) < len(values):
            repeats = np.ones(len(values), dtype=bool)
            repeats[first] = False
            row = int(repeats.argmax())
            original = int((values == values[row]).argmax())
            example = f"{ids[part.start + row]} of {ids[part.start + original]}"
    if example is not None:
        yield Finding(
            kind="copies",
            text=f"{total} of {len(content)} examples repeat an earlier one of the same part, such "
            f"as {example}: they count more than once.",
            count=total,
        )
