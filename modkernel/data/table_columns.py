"""From the columns of a table, numbers and categories, to vectors, and back to the columns' names.

A number keeps its column's name. A column of categories becomes one column of 0 and 1 for each,
called 'column=category'. So the names alone say how rows are encoded: they are stored with a
module, and a row of another table is encoded by them in prediction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from modkernel.data.class_names import listed
from modkernel.data.findings import Finding, FindingKind
from modkernel.errors import DataError
from modkernel.spec.shorthand import composed

MOST_CATEGORIES = 100
"""Different texts of a column up to which they are categories, and not names or prose."""
SIGNS_OF_MISSING = 3
"""Different texts beside numbers up to which these texts stand for missing values, as '?' does."""
ENOUGH_NUMBERS = 10
"""Different numbers that a column of text has to hold for being one of numbers."""

MOST_WHOLE = 2**63 - 1
"""The largest number of int64."""

Table = Any
"""A `pyarrow.Table`."""


def encoded_names(table: Table) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """How the rows of a training table are encoded, as the names of the encoded columns.

    Categories are sorted. Left out, and told, are columns of dates, of too many texts, of types
    that are no numbers, without a value, and whole numbers that only count the rows.

    Args:
        table: without the label column.

    Raises:
        DataError: no column is left.
    """
    names: list[str] = []
    unused: list[str] = []
    categories: list[str] = []
    texts: list[str] = []
    empty: list[str] = []
    sources: dict[str, str] = {}
    for name, column in _columns(table):
        reason = _unfit(column)
        if reason is None and _is_text(column):
            found = _categories(column)
            signs = _signs_of_missing(found)
            if signs:
                texts.append(f"'{name}' ({', '.join(repr(sign) for sign in signs)})")
                names.append(name)
            elif len(found) > MOST_CATEGORIES or 2 * len(found) > len(column):
                reason = f"{len(found)} different texts in {len(column)} rows"
            else:
                categories.append(f"'{name}' ({listed(list(found))})")
                encoded = [f"{name}={category}" for category in found]
                names += encoded
                sources |= dict.fromkeys(encoded, name)
                missing = len(column) - sum(found.values())
                if missing:
                    empty.append(f"'{name}' ({missing})")
        elif reason is None:
            names.append(name)
        if reason is not None:
            unused.append(f"'{name}' ({reason})")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"The table has a column '{twice[0]}' beside one whose values would be called so: give "
            "one of the two another name."
        )
    there = dict(_columns(table))
    for name, source in sources.items():
        read_from, _ = _source(name, there)
        if read_from != source:  # 'a=b=c' is taken for a category of 'a', and is one of 'a=b'.
            raise DataError(
                f"The table has the columns '{read_from}' and '{source}', and '{name}' may be a "
                "value of either: give one of the two another name."
            )
    if not names:
        raise DataError(
            f"No column of the table can be an input: {listed(unused)}. Give columns of numbers, "
            "or of text with few different values."
        )
    return tuple(names), (
        *_finding("skipped", unused, "column(s) are not used"),
        *_finding(
            "encoded", categories, "column(s) hold categories, one column of 0 and 1 for each"
        ),
        *_finding("missing values", texts, "column(s) hold texts among numbers, taken for missing"),
        *_finding(
            "missing values", empty, "column(s) of categories have rows without one, 0 in all"
        ),
    )


def encode(table: Table, names: Sequence[str]) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """The rows of a table as float64 [N, d], NaN for missing numbers.

    Args:
        table: has the columns that the names tell, in any order; others are not read.
        names: of the encoded columns.

    Raises:
        DataError: a column is missing or there twice, or holds no numbers where these are needed.
    """
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise DataError(f"The table has two columns '{twice[0]}': give each a name of its own.")
    columns = dict(_columns(table))
    known: dict[str, set[str]] = {}
    rows = np.empty((len(table), len(names)))
    for i, name in enumerate(names):
        source, category = _source(name, columns)
        if category is None:
            rows[:, i] = _numbers(columns[source], source)
        else:
            if source not in known:
                columns[source] = _as_text(columns[source])
            known.setdefault(source, set()).add(category)
            rows[:, i] = _equal(columns[source], category)
    unseen = []
    for source, categories in known.items():
        others = {k: v for k, v in _categories(columns[source]).items() if k not in categories}
        if others:
            unseen.append(f"'{source}' ({listed(list(others))}: {sum(others.values())} rows)")
    text = "column(s) have categories that the training part has not, 0 in all of its columns"
    return rows, _finding("encoded", unseen, text)


def texts_for_numbers(table: Table, names: Sequence[str]) -> tuple[Finding, ...]:
    """What stands in a table for `encode` where numbers are needed, and so is missing.

    Raises:
        DataError: as of `encode`.
    """
    columns, found = dict(_columns(table)), []
    for name in names:
        source, category = _source(name, columns)
        if category is None and _is_text(columns[source]):
            counts = _categories(columns[source])
            others = {text: n for text, n in counts.items() if np.isnan(_number(text))}
            if others:
                told = listed([repr(text) for text in others])
                found.append(f"'{source}' ({told}: {sum(others.values())} rows)")
    return _finding(
        "missing values", found, "column(s) hold texts among numbers, taken for missing"
    )


def of_categories(names: Sequence[str]) -> set[str]:
    """What the columns of categories may be called, by the names of the encoded columns."""
    before = {name[:place] for name in names for place, sign in enumerate(name) if sign == "="}
    return before - set(names)


class LabelTexts(NamedTuple):
    """Labels of N rows.

    Attributes:
        texts: [N], '' for none.
        classes: the different ones in order, numbers by their size.
        whole: int64 [M], the labels that there are, if they are whole numbers that fit.
    """

    texts: np.ndarray
    classes: tuple[str, ...]
    whole: np.ndarray | None


def label_texts(column: Any, what: str) -> LabelTexts:
    """The labels of a column.

    Raises:
        DataError: the column holds neither text nor whole numbers.
    """
    from pyarrow import types

    column = _plain(column)
    values = column.to_pylist()
    if types.is_floating(column.type) or types.is_decimal(column.type):
        numbers = [None if v is None or v != v else v for v in values]
        values = [v for v in numbers if v is not None]
        fraction = next((v for v in values if not math.isfinite(v) or v != int(v)), None)
        if fraction is not None:
            raise DataError(
                f"{what} holds numbers with fractions or infinite ones, such as {fraction}: labels "
                "are text or whole numbers."
            )
        values = [None if v is None else int(v) for v in numbers]
    elif not (
        _is_text(column)
        or types.is_null(column.type)
        or types.is_integer(column.type)
        or types.is_boolean(column.type)
    ):
        raise DataError(f"{what} has type {column.type}: labels are text or whole numbers.")
    values = [composed(value) if isinstance(value, str) else value for value in values]
    there = [value for value in values if value is not None and value != ""]
    texts = np.array(["" if value is None else str(value) for value in values], dtype=np.str_)
    whole = bool(there) and type(there[0]) is int and max(map(abs, there)) <= MOST_WHOLE
    return LabelTexts(
        texts,
        tuple(map(str, sorted(set(there)))),
        np.array(there, dtype=np.int64) if whole else None,
    )


def label_column(table: Table, label: str | None, what: str) -> tuple[Any, Table]:
    """The label column of a table, and the table without it.

    Raises:
        DataError: none is named, it has no such column, or it has two columns of one name.
    """
    names = table.column_names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{what} has two columns '{twice[0]}': give each a name of its own.")
    if label not in names:
        wrong = "needs the name of its" if label is None else f"has no column '{label}', the"
        raise DataError(
            f"{what} {wrong} label column: set dataset.label in a spec file (or --label of "
            f"'modkernel data check') to one of {listed(names)}. In a CSV file the first row names "
            "the columns."
        )
    return table.column(label), table.drop_columns([label])


def _columns(table: Table) -> Iterator[tuple[str, Any]]:
    """The columns by name; lists of numbers of one length as a column for each place."""
    for name in table.column_names:
        column = _plain(table.column(name))
        places = _places(column)
        if places is None:
            yield name, column
        else:
            yield from ((f"{name}[{i}]", place) for i, place in enumerate(places))


def _plain(column: Any) -> Any:
    """One array, without a dictionary."""
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def _places(column: Any) -> list[Any] | None:
    """A column for each place of a column of lists that are all of one length, none missing."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    flat = column.flatten()
    if column.null_count or not len(column) or len(flat) % len(column) or not _is_number(flat):
        return None
    size = len(flat) // len(column)
    if not types.is_fixed_size_list(kind):
        sizes = column.value_lengths().to_numpy(zero_copy_only=False)
        if (sizes != size).any():
            return None
    rows = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), size)
    return [pa.array(np.ascontiguousarray(rows[:, i])) for i in range(size)]


def _unfit(column: Any) -> str | None:
    """Why a column can be no input, or None."""
    from pyarrow import types

    if column.null_count == len(column):
        return "without a value"
    if types.is_integer(column.type):
        values = column.to_numpy(zero_copy_only=False)
        counts = len(values) > 1 and not column.null_count and (np.diff(values) == 1).all()
        return "counts the rows" if counts else None
    if _is_number(column) or _is_text(column):
        return None
    if types.is_temporal(column.type):
        return f"{column.type}: write what matters of a date as numbers, such as its month"
    return f"of type {column.type}"


def _is_number(column: Any) -> bool:
    from pyarrow import types

    kind = column.type
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(test(kind) for test in tests)


def _is_text(column: Any) -> bool:
    from pyarrow import types

    return any(
        test(column.type) for test in (types.is_string, types.is_large_string, types.is_string_view)
    )


def _as_text(column: Any) -> Any:
    """A column of categories as text, where a file's reader took all that it has for numbers."""
    import pyarrow as pa

    if _is_text(column):
        return column
    values = column.to_pylist()
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _categories(column: Any) -> dict[str, int]:
    """The different texts, sorted, with the number of rows of each; empty ones are missing."""
    counts = Counter(column.to_pylist())
    return {text: counts[text] for text in sorted(t for t in counts if t)}


def _signs_of_missing(texts: dict[str, int]) -> list[str]:
    """The texts beside numbers, where a column is one of numbers but for these few."""
    others = [text for text in texts if np.isnan(_number(text))]
    enough = len(texts) - len(others) >= ENOUGH_NUMBERS
    return others if enough and 0 < len(others) <= SIGNS_OF_MISSING else []


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return np.nan


def _numbers(column: Any, name: str) -> np.ndarray:
    if _is_text(column):
        return np.array([_number(text) for text in column.to_pylist()])
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if not _is_number(column):
        raise DataError(f"Column '{name}' has type {column.type}, and numbers are needed.")
    values = column.to_pylist() if column.null_count else column.to_numpy(zero_copy_only=False)
    return np.array(values, dtype=np.float64)


def _equal(column: Any, category: str) -> np.ndarray:
    from pyarrow import compute

    equal = compute.fill_null(compute.equal(column, category), False)
    return np.asarray(equal.to_numpy(zero_copy_only=False), dtype=np.float64)


def _source(name: str, columns: dict[str, Any]) -> tuple[str, str | None]:
    """The column that an encoded one comes from, and its category if it is of one.

    Raises:
        DataError: there is no such column.
    """
    if name in columns:
        return name, None
    for place, sign in enumerate(name):
        if sign == "=" and name[:place] in columns:
            return name[:place], name[place + 1 :]
    raise DataError(
        f"The table has no column for '{name}', which the network was trained on: it has "
        f"{listed(list(columns))}."
    )


def _finding(kind: FindingKind, which: Sequence[str], text: str) -> tuple[Finding, ...]:
    if not which:
        return ()
    return (Finding(kind=kind, text=f"{len(which)} {text}: {listed(which)}.", count=len(which)),)
