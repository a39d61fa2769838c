"""Tables with a label column: Parquet, CSV and Arrow files, all read by pyarrow."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modkernel.data.array_labels import negative_labels
from modkernel.data.array_pool import Part, make_pool
from modkernel.data.arrays import check_memory, found_file, stamped_source
from modkernel.data.csv_file import encoding_of, table_separator
from modkernel.data.file_kinds import TABLES
from modkernel.data.places import DataPlaces
from modkernel.data.pool import Pool, Source
from modkernel.data.table_columns import (
    Table,
    encode,
    encoded_names,
    label_column,
    label_texts,
)
from modkernel.errors import DataError, ModkernelError
from modkernel.spec import DatasetSpec

HEAD = 1 << 16
"""Bytes at the beginning of a CSV file that tell its form."""
CELL = 8
"""Bytes of each value of an encoded table: a few bytes of text may become a hundred values."""
TO_POINT = (r"^(\s*[-+]?\d+),(\d+\s*)$", r"\1.\2")
"""From a number with a decimal comma to one with a point."""
CSV = (".csv", ".tsv", ".gz")
"""How the names of tables end whose columns have no types."""
WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0*)?", re.ASCII)
"""A whole number as everybody writes it, or as a number with a point."""
COMMA_DECIMAL = re.compile(r"(^|;)\s*-?\d+,\d+\s*(;|$)", re.MULTILINE)
POINT_DECIMAL = re.compile(r"(^|;)\s*-?\d+\.\d+\s*(;|$)", re.MULTILINE)


def open_table(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Find the table at `spec.path`, one row an example, whose column `spec.label` is the label.

    Raises:
        DataError: no such file, one of another type, or no label column is named.
    """
    path = found_file(spec, "table", TABLES)
    return stamped_source([path], partial(_read_pool, path, spec))


def read_table(path: Path, texts: Iterable[str] = ()) -> Table:
    """The table of a file, by its suffix.

    Args:
        path: the file.
        texts: columns that a CSV file is to have as they are written, whatever they look like;
            of the others, the type is that of all values that the file has.

    Raises:
        DataError: it cannot be read, or pyarrow is missing.
    """
    return _checked(lambda: _read(path, texts), path)


def arrow_table(files: Sequence[Path], path: Path) -> Table:
    """One table of files in Arrow's stream format; `path` names them in errors.

    Raises:
        DataError: they cannot be read, or pyarrow is missing.
    """

    def read() -> Table:
        import pyarrow

        return pyarrow.concat_tables([_read(file) for file in files])

    return _checked(read, path)


def _checked(read: Callable[[], Table], path: Path) -> Table:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"Reading {path} needs the package 'pyarrow' ({error}): pip install it, or save the "
            "table as arrays (.npz)."
        ) from None
    try:
        table = read()
        # What is damaged inside would end the process once it is used.
        table.validate(full=True)
    except ModkernelError:
        raise
    # Damaged files raise almost anything, of gzip, zlib and codecs too.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"Cannot read table {path}: {reason}. Save it again.") from None
    if not len(table):
        raise DataError(f"{path} has no rows: add examples.")
    return table


def table_pool(what: str, parts: dict[str, Table], spec: DatasetSpec) -> Pool:
    """The pool of tables by part ('train', perhaps 'val' and 'test'); `what` names them in errors.

    Raises:
        DataError: no label column is named or there, or a table cannot be encoded.
        ClassError: a part has a class that the training part has not.
    """
    inputs, labels = {}, {}
    for part, table in parts.items():
        column, inputs[part] = label_column(table, spec.label, what)
        labels[part] = label_texts(column, f"Column '{spec.label}' of {what}")
    names, findings = encoded_names(inputs["train"])
    check_memory(Path(what), CELL * len(names) * sum(map(len, inputs.values())))
    encoded = {}
    for part, table in inputs.items():
        rows, noticed = encode(table, names)
        encoded[part] = Part(rows, labels[part].texts)
        findings += noticed
    classes = tuple(name for name in labels["train"].classes if name != spec.unlabelled)
    if labels["train"].whole is not None:
        label = f"column '{spec.label}'"
        findings += negative_labels(labels["train"].whole, spec.unlabelled, label)
    return make_pool(what, encoded, classes, spec.unlabelled, findings, names)


def _read_pool(path: Path, spec: DatasetSpec) -> Pool:
    label = spec.label
    if label is None or not path.name.lower().endswith(CSV):
        return table_pool(str(path), {"train": read_table(path)}, spec)
    table = read_table(path, (label,))
    if table.column_names.count(label) == 1:
        place = table.column_names.index(label)
        table = table.set_column(place, label, _written_labels(table.column(label)))
    return table_pool(str(path), {"train": table}, spec)


def _written_labels(column: Any) -> Any:
    """Labels of a CSV file as they are written there: '01' and '1' are two classes, 'true' is one.

    Where all are whole numbers they are those, in order of size, also written '1.0', as beside a
    missing one. Numbers with fractions stay numbers, which are no labels.
    """
    import pyarrow as pa
    from pyarrow import csv

    missing = set(csv.ConvertOptions().null_values)
    texts = [None if text in missing else text.strip() for text in column.to_pylist()]
    there = [text for text in texts if text is not None]
    try:
        numbers = [float(text) for text in there]
    except ValueError:
        return column
    if all(WHOLE.fullmatch(text) for text in there) and max(map(abs, numbers), default=0) < 2**63:
        whole = [None if text is None else int(text.partition(".")[0]) for text in texts]
        return pa.array(whole, pa.int64())
    if all(number.is_integer() for number in numbers):
        return column
    return pa.array(numbers, pa.float64())


def _read(path: Path, texts: Iterable[str] = ()) -> Table:
    from pyarrow import feather, ipc, parquet

    name = path.name.lower()
    if name.endswith(".parquet"):
        check_memory(path, _unpacked(parquet.ParquetFile(path).metadata))
        return parquet.read_table(path)
    check_memory(path, path.stat().st_size)
    if name.endswith(CSV):
        return _read_csv(path, texts)
    with path.open("rb") as file:
        if file.read(6) != b"ARROW1" and name.endswith(".arrow"):
            file.seek(0)
            with ipc.open_stream(file) as stream:
                return stream.read_all()
    return feather.read_table(path, memory_map=False)


def _unpacked(metadata: Any) -> int:
    groups = range(metadata.num_row_groups)
    return sum(metadata.row_group(i).total_byte_size for i in groups)


def _read_csv(path: Path, texts: Iterable[str]) -> Table:
    import pyarrow as pa
    from pyarrow import compute, csv, types

    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as file:
        head = file.read(HEAD)
    encoding = encoding_of(head)
    text = head.decode(encoding, errors="replace")
    separator = table_separator(text if len(head) < HEAD else text.rpartition("\n")[0] or text)
    comma = separator == ";" and COMMA_DECIMAL.search(text) and not POINT_DECIMAL.search(text)
    try:
        table = csv.read_csv(
            path,
            csv.ReadOptions(encoding="utf8" if encoding.startswith("utf-8") else encoding),
            csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            csv.ConvertOptions(
                decimal_point="," if comma else ".", column_types=dict.fromkeys(texts, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        if "invalid UTF8" in str(error):  # In a column that is read as text whatever it holds.
            raise _no_text(str(path)) from None
        raise
    for name, column in zip(table.column_names, table.columns, strict=True):
        if types.is_binary(column.type) or types.is_large_binary(column.type):
            raise _no_text(f"Column '{name}' of {path}")
        if comma and types.is_string(column.type):  # Beside '?' or '-', numbers are read as text.
            pointed = compute.replace_substring_regex(column, *TO_POINT)
            table = table.set_column(table.column_names.index(name), name, pointed)
    return table


def _no_text(what: str) -> DataError:
    return DataError(
        f"{what} is no UTF-8 text (it is Latin-1, perhaps, as some spreadsheets write): save the "
        "table as UTF-8 text."
    )
