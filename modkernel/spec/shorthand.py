"""What specs may be written shorter as, or are stored as: turned into what they mean."""

from __future__ import annotations

import unicodedata

from modkernel.spec.shown import shown

SMALLEST_SIDE = 4
"""Pixels of an image's sides, at least."""
MOST_MODULES = 1000
"""Hidden modules that a mere number may ask for: more are a typing error."""


def from_pairs(given: object) -> object:
    """Pairs [name, classes] as a mapping; anything else as it is."""
    pairs = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    ):
        return given
    groups = {composed(name): classes for name, classes in pairs}
    if len(groups) < len(pairs):
        raise ValueError("a group is named more than once: name each once")
    return groups


def from_count(given: object) -> object:
    """A number of hidden modules as so many default ones; anything else as it is."""
    if not isinstance(given, int) or isinstance(given, bool):
        return given
    if not 1 <= given <= MOST_MODULES:
        raise ValueError(f"a network has 1 to {MOST_MODULES} hidden modules, not {shown(given)}")
    return ({},) * given


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): some systems store file names decomposed.

    >>> composed("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def from_sides(given: object) -> object:
    """The size of an image: a side, or [height, width], as '24x16' too; equal sides as one number.

    >>> from_sides("24x16"), from_sides([8, 8])
    ((24, 16), 8)
    """
    sides = given.lower().split("x") if isinstance(given, str) else given
    try:
        numbers = [int(side) for side in (sides if isinstance(sides, list | tuple) else (sides,))]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < SMALLEST_SIDE or isinstance(given, bool):
        raise ValueError(
            f"{shown(given)} is neither a side of {SMALLEST_SIDE} pixels or more nor [height, "
            "width]"
        )
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def from_number(given: object) -> object:
    """A whole number as its digits; anything else as it is."""
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given
