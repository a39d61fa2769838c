"""How error messages name the classes of a data set."""

from __future__ import annotations

from collections.abc import Sequence

LISTED = 20
"""How many names an error lists."""


def listed(names: Sequence[str]) -> str:
    """The first names, and whether there are more.

    >>> listed(["cat", "dog"])
    'cat, dog'
    """
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def how_to_join(name: str) -> str:
    """A hint for an unknown class whose name looks like several, joined; else nothing.

    >>> how_to_join("cat+dog")
    " To join classes, write 'NAME=cat+dog'."
    """
    return f" To join classes, write 'NAME={name}'." if "+" in name else ""
