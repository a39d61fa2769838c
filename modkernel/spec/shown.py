"""Values of a user's file as messages show them: no more than how they begin.

A table that is given for a spec is one text of megabytes to YAML.
"""

from __future__ import annotations

LONGEST = 60
"""Signs of a value that a message shows."""


def clipped(text: str) -> str:
    """A text, or how it begins.

    >>> clipped("x" * 61) == "x" * 60 + "…"
    True
    """
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def shown(value: object) -> str:
    """A value as Python writes it, or how that begins.

    >>> shown("cat"), shown([1, 2])
    ("'cat'", '[1, 2]')
    """
    if isinstance(value, str):
        return repr(clipped(value))
    try:
        return clipped(repr(value))
    except ValueError:  # Python writes no number of thousands of digits.
        return "a number too long to show"
