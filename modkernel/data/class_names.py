"""How error messages name the classes of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence

from modkernel.errors import ClassError

LISTED = 20
"""How many names an error lists."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Signs that a terminal obeys; other unusual ones may stand in the classes of some languages."""


def refuse_control(classes: Sequence[str], what: str) -> None:
    """Refuse names of classes that no line of text, table or terminal shows as they are.

    Raises:
        ClassError: one has a control character, such as a line end or a tab.
    """
    for name in classes:
        if CONTROL.search(name):
            raise ClassError(
                f"{what} has a class {name!r:.60}, whose name has control characters (line ends, "
                "tabs): rename it."
            )


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
