"""Answers as rows of a CSV or Parquet file, written as they come."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from modkernel.reuse.answer import Answer

FILES = (".csv", ".parquet")
"""How the names of files of answers end."""
Write = Callable[[Sequence[str], Sequence["Answer"]], None]
"""Writes answers under their names."""


def check_name(path: Path) -> None:
    """Check that the name says what kind of file it is."""
    if path.suffix.lower() not in FILES:
        raise typer.BadParameter(
            f"{path.name} ends in none of {', '.join(FILES)}", param_hint="--output"
        )


@contextmanager
def answer_file(path: Path, classes: Sequence[str]) -> Iterator[Write]:
    """A file of answers: columns image, label, probability, distance, and p_CLASS for each class.

    It appears whole after the block, and not at all if the block raises.

    Args:
        path: ends as one of `FILES`.
        classes: in the order of their columns.

    Raises:
        DataError: it cannot be written.
    """
    from modkernel.errors import DataError
    from modkernel.system.files import written_whole

    columns = ("image", "label", "probability", "distance", *(f"p_{name}" for name in classes))
    kind = _csv if path.suffix.lower() == ".csv" else _parquet
    try:
        with written_whole(path, durable=True) as temporary, kind(temporary, columns) as write_rows:

            def write(names: Sequence[str], answers: Sequence[Answer]) -> None:
                write_rows([_row(*pair) for pair in zip(names, answers, strict=True)])

            yield write
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror or error}. Name a file in a folder with room "
            "that you may write to."
        ) from error


def _row(name: str, answer: Answer) -> tuple[Any, ...]:
    # The disk's names may be no Unicode.
    shown = os.fsencode(name).decode("utf-8", "replace")
    first = (shown, answer["label"], answer["probability"], answer["distance"])
    return (*first, *answer["probabilities"].values())


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Iterator[Callable[[list[Any]], None]]:
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield writer.writerows


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Callable[[list[Any]], None]]:
    import pyarrow
    from pyarrow import parquet

    texts = (pyarrow.string(), pyarrow.string())
    types = (*texts, *[pyarrow.float64()] * (len(columns) - len(texts)))
    schema = pyarrow.schema(list(zip(columns, types, strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:

        def write(rows: list[Any]) -> None:
            values = zip(*rows, strict=True)
            arrays = [pyarrow.array(c, t) for c, t in zip(values, types, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

        yield write
