"""CSV files that name examples of a data set: their rows, and which example a name means."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Set
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


def known_id(
    name: str, known: Set[str], folder: Path | None, path: Path, number: int, example: str
) -> str:
    """The id that a name in a file means: itself, or an image's by its absolute path.

    Args:
        name: as it stands in the file.
        known: all ids.
        folder: the image folder, for absolute paths.
        path: the file.
        number: of the row.
        example: an id to show in the message.

    Raises:
        DataError: the data set has no such example.
    """
    if name in known:
        return name
    if folder is not None and Path(name).is_absolute():
        for base in (folder.absolute(), folder.resolve()):
            if Path(name).is_relative_to(base):
                below = Path(name).relative_to(base).as_posix()
                if below in known:
                    return below
    raise DataError(
        f"{path}, row {number}, names the example '{name}', which the data set does not have: "
        f"name examples by their ids, such as '{example}'."
    )
