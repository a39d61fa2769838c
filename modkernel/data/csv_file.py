"""CSV files as people save them: their encoding, their separator, and their rows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from itertools import islice
from pathlib import Path

from modkernel.errors import DataError
from modkernel.spec.shorthand import composed

SEPARATORS = ("\t", ",", ";")
"""What may stand between fields. A tab is hardly ever part of one, so it is tried first."""
LOOKED_AT = 50
"""Lines that decide which separator a file has."""
MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Encodings by the byte order mark that they begin with."""

Rows = list[tuple[int, list[str]]]
"""Fields of the rows that are not blank, with the rows' numbers, counted from 1."""


def csv_rows(path: Path, kind: str, width: int) -> Rows:
    """The rows of a CSV file that are not blank, with their numbers, counted from 1.

    Text is in Unicode's composed form, whichever it was written in. The separator is a tab, comma
    or semicolon: the first of these by which all of the first rows have `width` fields, else the
    one by which most have.

    Args:
        path: the file: UTF-8, with or without a byte order mark, or UTF-16 with one.
        kind: what it is called in messages, such as 'pair file'.
        width: number of fields that a row should have.

    Raises:
        DataError: it cannot be read, or is no such text.
    """
    text = composed(read_text(path, kind))
    try:
        few = {mark: _parsed(text, mark, LOOKED_AT) for mark in SEPARATORS}
        fitting = {mark: _fitting(rows, width) for mark, rows in few.items()}
        best = max(SEPARATORS, key=fitting.__getitem__) if any(fitting.values()) else ","
        return _parsed(text, best)
    except csv.Error as error:
        raise DataError(
            f"Cannot read {kind} {path} as CSV: {error}. Save it as UTF-8 text with commas."
        ) from None


def read_text(path: Path, kind: str) -> str:
    """The text of a file: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        DataError: it cannot be read, or is no such text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {kind} {path}: {error.strerror}.") from None
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"Cannot read {kind} {path} as CSV: byte {error.start} is no {encoding.upper()} text "
            "(it is Latin-1, perhaps, as some spreadsheets write). Save it as UTF-8 text with "
            "commas."
        ) from None
    if "\0" in text:
        raise DataError(
            f"Cannot read {kind} {path} as CSV: it holds zero bytes, as files that are no text do "
            "(or UTF-16 without a byte order mark). Save it as UTF-8 text with commas."
        )
    return text


def table_separator(text: str) -> str:
    """The separator of a table's first lines: the one that makes equal rows of several fields."""

    def equal_rows(mark: str) -> tuple[int, int]:
        try:
            widths = Counter(len(fields) for _, fields in _parsed(text, mark, LOOKED_AT))
        except csv.Error:
            return (0, 0)
        return max(((rows, width) for width, rows in widths.items() if width > 1), default=(0, 0))

    return max((",", "\t", ";"), key=equal_rows)


def encoding_of(content: bytes) -> str:
    """The encoding that the first bytes of a file tell; UTF-8 if they tell none."""
    return next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")


def _parsed(text: str, separator: str, most: int | None = None) -> Rows:
    rows: Rows = []
    lines = islice(io.StringIO(text, newline=""), most)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    for number, fields in enumerate(reader, start=1):
        stripped = [field.strip() for field in fields]
        if any(stripped):
            rows.append((number, stripped))
    return rows


def _fitting(rows: Rows, width: int) -> int:
    return sum(len(fields) == width for _, fields in rows)
