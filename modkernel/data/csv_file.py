"""The rows of CSV files, with their numbers for messages."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from modkernel.errors import DataError


def csv_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, with their numbers, counted from 1.

    Args:
        path: the file, UTF-8, with or without a byte order mark.
        kind: what it is called in messages, such as 'pair file'.

    Raises:
        DataError: it cannot be read, or is no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, fields in enumerate(csv.reader(file), start=1):
                stripped = [field.strip() for field in fields]
                if any(stripped):
                    yield number, stripped
    except OSError as error:
        raise DataError(f"Cannot read {kind} {path}: {error.strerror}.") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read {kind} {path} as CSV: {error}. Save it as UTF-8 text with commas."
        ) from None
