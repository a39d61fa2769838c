"""Text from data (names of classes, folders, tasks) within Markdown, which also takes HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

_MEANS_SOMETHING = re.compile(r"[\\`*\[\]<>&|$~#!]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown, HTML or formulas read as more than itself; '_' only at the edge of a word."""


def plain(text: str) -> str:
    """Text that is shown as it is, in one line: every sign with a meaning becomes an entity.

    >>> plain("a_b | <b>")
    'a_b &#124; &#60;b&#62;'
    """
    return _MEANS_SOMETHING.sub(lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()))


def link(name: str, version: int | None) -> str:
    """A module's or network's name, as a link to its version's page from any page of MLflow's."""
    if version is None:
        return plain(name)
    # Without the last part MLflow opens the page beside its menu for language models.
    to = f"#/models/{name}/versions/{version}?workflowType=machine_learning"
    return f"[{plain(name)} version {version}]({to})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for MLflow's pages."""
    lines = [_row(head), _row(["---"] * len(head), gap=""), *map(_row, rows)]
    return "\n".join(lines)


def figure(path: str, run_id: str | None) -> str:
    """A picture among the artifacts of a run."""
    return f"![{path}](get-artifact?path={quote(path, safe='')}&run_uuid={run_id})"


def _row(cells: Sequence[str], gap: str = "&emsp;") -> str:
    # MLflow sets columns with nothing between them.
    return f"| {f'{gap} | '.join(cells)} |"
