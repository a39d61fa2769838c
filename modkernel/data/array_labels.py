"""From labels of any kind to positions in the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from modkernel.data.array_examples import Array, to_numpy
from modkernel.data.class_names import listed
from modkernel.data.findings import Finding
from modkernel.errors import ClassError, DataError
from modkernel.spec.shorthand import composed

Labels = Array | Sequence[str] | Sequence[int]


def label_values(y: Labels, what: str, count: int) -> np.ndarray:
    """Labels as an array [N] of integers, booleans or text.

    Raises:
        DataError: another type or shape, or text that is none.
    """
    values = to_numpy(y, what)
    if values.dtype.kind not in "iubUS":
        raise DataError(f"{what} has type {values.dtype}: {_remedy(values)}.")
    if values.ndim != 1 or len(values) != count:
        raise DataError(
            f"{what} has shape {list(values.shape)}, and there are {count} examples: give one "
            f"label for each example{_flatten(values)}."
        )
    try:
        if values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8")
        if values.dtype.kind == "U":
            "".join(values.tolist()).encode()
            distinct, inverse = np.unique(values, return_inverse=True)
            values = np.array([composed(name) for name in distinct.tolist()])[inverse]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} has the label {error.object!r}, whose bytes are no UTF-8 text: save the "
            "labels as text (numpy's type U) or integers."
        ) from None
    except ValueError:
        raise DataError(
            f"{what} has a label with characters that are no text: save the labels again as text "
            "or integers."
        ) from None
    return values


def class_names(values: np.ndarray, unlabelled: str | None) -> tuple[str, ...]:
    """The different labels, sorted, as text, without those that stand for no label."""
    names = (str(value) for value in np.unique(values))
    return tuple(name for name in names if name not in ("", unlabelled))


def numbered(
    values: np.ndarray, names: tuple[str, ...], positions: bool, unlabelled: str | None, what: str
) -> Tensor:
    """Labels as int64 positions in `names`, -1 for none; integers are positions if so stated.

    Raises:
        ClassError: a label is none of the classes.
    """
    distinct, inverse = np.unique(values, return_inverse=True)
    place = {name: i for i, name in enumerate(names)}
    numbers = []
    for value in distinct:
        number = place.get(str(value))
        if str(value) in ("", unlabelled):
            number = -1
        elif positions and values.dtype.kind in "iu":
            number = int(value) if 0 <= value < len(names) else None
        if number is None:
            raise ClassError(
                f"{what} has the label '{value}', which is none of the {len(names)} classes: "
                f"{listed(names)}.{_no_label(value)}"
            )
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.int64)[torch.from_numpy(inverse)]


def negative_labels(values: np.ndarray, unlabelled: str | None, what: str) -> tuple[Finding, ...]:
    """A finding about integer labels below 0 beside others, unless they are -1 and 1 alone."""
    if values.dtype.kind != "i" or set(np.unique(values).tolist()) == {-1, 1}:
        return ()
    below = values[(values < 0) & (values.astype(str) != str(unlabelled))]
    if not len(below) or values.max() < 0:
        return ()
    names = listed([f"'{value}'" for value in np.unique(below)])
    text = (
        f"{len(below)} of the {len(values)} labels of {what} are below 0 ({names}), and each such "
        f"value is learnt as a class of its own. If one stands for 'no label', set "
        f"dataset.unlabelled: {below.min()}."
    )
    return (Finding(kind="unlabelled", text=text, count=len(below)),)


def _remedy(values: np.ndarray) -> str:
    if values.dtype.kind != "f":
        return "labels are integers or strings"
    if values.ndim == 2 and values.shape[1] > 1:
        return "labels are integers or strings, one an example, such as y.argmax(1)"
    if np.array_equal(values, np.rint(values)):
        return "labels are integers or strings, such as y.astype(int)"
    return "labels are integers or strings, and numbers with fractions, or NaN, name no class"


def _flatten(values: np.ndarray) -> str:
    if values.ndim != 2:
        return ""
    return ", such as y.ravel()" if values.shape[1] == 1 else ", such as y.argmax(1)"


def _no_label(value: object) -> str:
    try:
        below = int(str(value)) < 0
    except ValueError:
        return ""
    return f" If it stands for 'no label', set dataset.unlabelled: {value}." if below else ""
