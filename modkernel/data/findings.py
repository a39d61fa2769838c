"""What was noticed about a data set that does not stop its use, and that a person should know."""

from __future__ import annotations

from typing import Literal

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


class Finding(Spec):
    """One thing that was noticed: told when a run starts, and by `modkernel data check`."""

    kind: FindingKind
    text: str
    """A sentence or two, with the number, an example, and what to do if it is not meant."""
    count: int
    """Of the examples, files or columns that it is about."""
