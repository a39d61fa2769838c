"""What the command line writes: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from modkernel.registry import ModuleRecord

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]

WIDTH = 120
"""Columns where the output goes to a file or a pipe, which have none of their own."""

PADDING = 3
"""Of a cell, with the line beside it."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Signs that a terminal obeys, but for tabs and ends of lines."""


class _Shown(Console):
    """A console that shows what strings say: what others named, a terminal would obey."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A string without signs that a terminal obeys."""
        return super().render_str(plain(text), **options)


def plain(text: str) -> str:
    """A text with a mark in place of each sign that a terminal obeys."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


# Without markup: names and messages may hold brackets.
out = _Shown(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
err = _Shown(stderr=True, highlight=False, markup=False)


@contextmanager
def told_if_interrupted(what_now: str) -> Iterator[None]:
    """Where Ctrl-C ends the block, say on stderr what is there then and what to do."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"modkernel: Interrupted: {what_now}", soft_wrap=True)
        raise


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))


def write_output(path: Path, content: bytes, option: str) -> None:
    """Write a file that a command was asked for, in one step.

    Args:
        path: Of the file.
        content: All of it.
        option: What names another one.

    Raises:
        SettingsError: It cannot be written.
    """
    from modkernel.errors import SettingsError
    from modkernel.system.files import replace_file

    try:
        replace_file(path, content)
    except OSError as error:
        raise SettingsError(
            f"Cannot write {path}: {error.strerror or error}. Give another {option}."
        ) from None


def brought_in(modules: Iterable[ModuleRecord], new: Collection[str]) -> list[dict[str, Any]]:
    """Modules that came from elsewhere, as JSON has them; `new`: ids of those not there before."""
    return [
        {"id": one.id, "name": one.name, "version": one.version, "new": one.id in new}
        for one in modules
    ]


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    dropped_first: Sequence[str] = (),
) -> None:
    """A table on stdout.

    Args:
        title: Above it.
        columns: Headings; figures stand right, under headings that end in a space.
        rows: A cell for each column.
        dropped_first: Columns that are left out, one after the other, where there is no room.
    """
    rows = [tuple(map(plain, row)) for row in rows]
    shown = _fitting(columns, rows, dropped_first)
    table = Table(title=title, title_justify="left", title_style="bold")
    for position in shown:
        column = columns[position]
        table.add_column(
            column.strip(), justify="right" if column.endswith(" ") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(row[position] for position in shown))
    out.print(table)


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], dropped_first: Sequence[str]
) -> list[int]:
    """Positions of the columns that there is room for."""
    width = {
        position: max(cell_len(cell) for cell in (column.strip(), *(row[position] for row in rows)))
        for position, column in enumerate(columns)
    }
    shown = list(width)
    for column in dropped_first:
        if sum(width[position] + PADDING for position in shown) < out.width:
            break
        shown.remove(columns.index(column))
    return shown


def percent(share: float | None) -> str:
    """0.9712 → 97.12 %."""
    return "" if share is None else f"{100 * share:.2f} %"


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
