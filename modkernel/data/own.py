"""Sets that a function of your own returns: arrays, or what torchvision calls a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modkernel.data.array_examples import to_numpy
from modkernel.data.array_pool import Part, make_pool
from modkernel.data.arrays import check_memory
from modkernel.data.class_names import listed
from modkernel.data.dataset import RawData
from modkernel.data.places import DataPlaces
from modkernel.data.pool import Pool, Source
from modkernel.errors import ClassError, DataError, ModkernelError
from modkernel.lookup import import_object
from modkernel.spec import DatasetSpec
from modkernel.spec.shorthand import composed

PART_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""The part that each key of a dict of data sets is."""
READ_TWICE = 32
"""Readings of each part's first items that are compared with the ones before."""


def open_own(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Import a loader of your own, `package.module:function`.

    It has no stamp: whether the data behind a function have changed is unknown.

    Raises:
        SpecError: it cannot be imported.
    """
    return Source(None, partial(_call, import_object(spec.name, "data set"), spec))


def _call(function: object, spec: DatasetSpec) -> Pool:
    if not callable(function):
        raise DataError(
            f"'{spec.name}' is not a function: it must be one that takes a DatasetSpec."
        )
    given = _guarded(lambda: function(spec), spec.name)
    if isinstance(given, RawData):
        parts = {"train": Part(given.x_train, given.y_train)}
        for name, x, y in (
            ("val", given.x_val, given.y_val),
            ("test", given.x_test, given.y_test),
        ):
            if x is not None:
                parts[name] = Part(x, y)
            elif y is not None:
                raise DataError(
                    f"'{spec.name}' must have labels for all of its parts or for none: y_{name} "
                    f"needs x_{name}."
                )
        classes = _classes(given, spec.name)
    else:
        sets = _named_sets(given, spec.name)
        classes = _classes(sets["train"], spec.name)
        parts = {}
        for name, found in sets.items():
            own = _classes(found, spec.name)
            part = _read_items(found, name, spec.name)
            parts[name] = part if own in ((), classes) else _by_name(part, own, name, spec)
    return make_pool(f"'{spec.name}'", parts, classes, spec.unlabelled)


def _classes(found: object, loader: str) -> tuple[str, ...]:
    """Names of the classes of a data set, if it has some."""
    given: Any = getattr(found, "classes", None)
    if given is None:
        return ()
    names: tuple[str, ...] = _guarded(
        lambda: tuple(composed(str(name)) for name in given), loader, " at `classes`"
    )
    return names


def _by_name(part: Part, own: tuple[str, ...], name: str, spec: DatasetSpec) -> Part:
    """A part with names for its labels, where these are positions in classes of its own.

    As two folders have them, of which one lacks a class: equal positions are other classes then.
    """
    values = to_numpy(() if part.y is None else part.y, f"the labels of part '{name}'")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        return part
    texts = []
    for value in values.tolist():
        if not (0 <= value < len(own) or str(value) == spec.unlabelled):
            raise ClassError(
                f"Part '{name}' of loader '{spec.name}' has the label {value}, which is no "
                f"position in its classes: {listed(own)}."
            )
        texts.append(str(value) if str(value) == spec.unlabelled else own[value])
    return part._replace(y=np.array(texts))


def _guarded(call: Callable[[], Any], loader: str, at: str = "") -> Any:
    try:
        return call()
    except ModkernelError:
        raise
    except Exception as error:
        raise DataError(
            f"Loader '{loader}' failed{at} with {type(error).__name__}: {error}. Fix it, or what "
            "it reads."
        ) from error


def _named_sets(given: object, loader: str) -> dict[str, Any]:
    """The data sets that a loader returned, by part."""
    if isinstance(given, tuple | list) and len(given) == 2:
        named: Mapping[Any, Any] = {"train": given[0], "test": given[1]}
    elif isinstance(given, Mapping):
        named = given
    else:
        named = {"train": given}
    parts = {PART_NAMES.get(str(key).lower()): found for key, found in named.items()}
    if "train" not in parts or None in parts or len(parts) < len(named):
        keys = ", ".join(repr(key) for key in named)
        raise DataError(
            f"Loader '{loader}' returned a dict with {keys}: its keys are 'train' and perhaps "
            "'validation' and 'test'."
        )
    for found in parts.values():
        if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")) or isinstance(
            found, np.ndarray | str | bytes
        ):
            raise DataError(
                f"Loader '{loader}' returned {type(found).__name__}: it must return "
                "modkernel.data.RawData, or a data set as torchvision's (with a length, and items "
                "(image, label)), or a pair (train, test) or a dict of these."
            )
    return {str(name): found for name, found in parts.items()}


def _read_items(items: Any, part: str, loader: str) -> Part:
    """All (image or array, label) of a data set with a length, stacked."""
    count = _guarded(lambda: len(items), loader, f" at the length of part '{part}'")
    if not count:
        raise DataError(f"Loader '{loader}' returned an empty data set for part '{part}'.")
    first, label = _item(items, 0, part, loader)
    _check_repeats(items, count, part, loader)
    check_memory(Path(loader), first.nbytes * count)
    x = np.empty((count, *first.shape), first.dtype)
    labels = [label]
    x[0] = first
    for i in range(1, count):
        example, label = _item(items, i, part, loader)
        if (example.shape, example.dtype) != (first.shape, first.dtype):
            raise DataError(
                f"Item {i} of part '{part}' of loader '{loader}' has shape {list(example.shape)} "
                f"and type {example.dtype}, item 0 {list(first.shape)} and {first.dtype}: bring "
                "all to one, such as by a transform that resizes."
            )
        x[i] = example
        labels.append(label)
    return Part(x, to_numpy(labels, f"the labels of part '{part}'"))


def _check_repeats(items: Any, count: int, part: str, loader: str) -> None:
    """Refuse a data set whose items are others each time: a flip of chance 0.5 has 32 chances."""
    there = min(count, READ_TWICE)
    seen = [_item(items, i, part, loader)[0] for i in range(there)]
    for turn in range(READ_TWICE):
        again, _ = _item(items, turn % there, part, loader)
        if again.tobytes() != seen[turn % there].tobytes():  # By bytes: NaN is equal to itself.
            raise DataError(
                f"Item {turn % there} of part '{part}' of loader '{loader}' differs from one "
                "reading to the next: leave random transforms out of it; recipe.crop_padding and "
                "recipe.flip do their work in every epoch."
            )


def _item(items: Any, i: int, part: str, loader: str) -> tuple[np.ndarray, Any]:
    at = f" at item {i} of part '{part}'"
    item = _guarded(lambda: items[i], loader, at)
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            f"Loader '{loader}' gave {type(item).__name__}{at}: items are pairs (image, label)."
        )
    x, label = item
    with suppress(AttributeError, ValueError, RuntimeError):  # One-hot labels are refused later.
        label = label.item()
    return to_numpy(x, f"the example{at}"), label
