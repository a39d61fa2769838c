"""Rows of a table, or rows or pictures of arrays, as a stored network takes them for prediction."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from modkernel.data.array_examples import as_examples, to_numpy
from modkernel.data.arrays import check_memory, read_arrays
from modkernel.data.broken import no_file
from modkernel.data.file_kinds import ARRAYS, TABLES
from modkernel.data.findings import Finding
from modkernel.data.images import fit_tensor
from modkernel.data.pixels import MODES
from modkernel.data.table_columns import encode, of_categories, texts_for_numbers
from modkernel.data.tables import CELL, read_table
from modkernel.data.two_values import factor_of
from modkernel.errors import DataError
from modkernel.spec import Preprocessing, Shape


def read_rows(path: Path, takes: Preprocessing) -> tuple[Tensor, tuple[Finding, ...]]:
    """The rows of a table, or the array x of a file of arrays, for prediction.

    Args:
        path: the file. A table has the columns that the network was trained on, in any order;
            others, such as that of the label, are not read.
        takes: of the network; tables are for vectors.

    Returns:
        float32 [N, d], or uint8 [N, C, H, W] of the network's size; and what a person should
        know, such as categories that training had not.

    Raises:
        DataError: the file cannot be read, or does not go with the network.
    """
    name = path.name.lower()
    if not name.endswith((*ARRAYS, *TABLES)):
        raise DataError(
            f"Cannot read {path}: this network takes rows of {takes.shape[0]} numbers, from a file "
            f"of type {', '.join((*ARRAYS, *TABLES))}."
        )
    if not _is_there(path):
        raise DataError(no_file(path))
    if name.endswith(ARRAYS):
        arrays, _ = read_arrays(path)
        if "x" not in arrays:
            raise DataError(f"{path} has no array 'x': give the rows to predict by that name.")
        what = f"x of {path}"
        x = to_numpy(arrays["x"], what)
        factor = factor_of(x, takes, what) if x.ndim > 2 else None
        (rows,), findings = as_examples({what: x}, factor)
        if rows.ndim == 4 and len(takes.shape) == 3 and takes.shape[0] in MODES:
            rows = fit_tensor(rows, takes.shape)
        if tuple(rows.shape[1:]) != takes.shape:
            held, taken = _named(tuple(rows.shape[1:])), _named(takes.shape)
            raise DataError(f"{what} has {held}, and this network takes {taken}: {_remedy(takes)}.")
        return rows, findings
    if takes.columns is None:
        raise DataError(
            f"Cannot read {path}: this network was trained on arrays, whose columns have no names; "
            "give the rows as array x of an .npz file."
        )
    # As in training: a file of few rows may look like numbers, times or nothing where that had not.
    table = read_table(path, of_categories(takes.columns))
    check_memory(path, CELL * len(table) * len(takes.columns))
    encoded, findings = encode(table, takes.columns)
    findings += texts_for_numbers(table, takes.columns)
    return torch.from_numpy(encoded).float(), findings


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        pass  # Reading it tells why it cannot be read.
    return True


def _named(shape: Shape) -> str:
    """What examples of a shape are called."""
    return f"pictures {list(shape)}" if len(shape) == 3 else f"rows of {shape[0]} numbers"


def _remedy(takes: Preprocessing) -> str:
    if len(takes.shape) == 3:
        return "name image files, or files of arrays with pictures as 'x'"
    return "give the columns that it was trained on as 'x', in their order"
