"""What was noticed about a data set that does not stop its use, and that a person should know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from modkernel.spec import Spec

FindingKind = Literal[
    "skipped",
    "unread",
    "unlabelled",
    "copies",
    "contradictions",
    "leak",
    "equal",
    "outliers",
    "missing values",
    "encoded",
    "resized",
    "transparency",
    "range",
    "small",
]
"""What a finding is about, in a word."""


def printable(text: str) -> str:
    r"""Text in one line that any terminal, file or page takes: names of files may hold anything.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Finding(Spec):
    """One thing that was noticed: told when a run starts, and by `modkernel data check`."""

    kind: FindingKind
    text: Annotated[str, AfterValidator(printable)]
    """A sentence or two, with the number, an example, and what to do if it is not meant."""
    count: int
    """Of the examples, files or columns that it is about."""
