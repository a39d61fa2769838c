"""What specs may be written shorter as, or are stored as: turned into what they mean."""

from __future__ import annotations

MOST_MODULES = 1000
"""Hidden modules that a mere number may ask for: more are a typing error."""


def from_pairs(given: object) -> object:
    """Pairs [name, classes] as a mapping; anything else as it is."""
    if not isinstance(given, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in given
    ):
        return given
    groups = dict(given)
    if len(groups) < len(given):
        raise ValueError("a group is named more than once: name each once")
    return groups


def from_count(given: object) -> object:
    """A number of hidden modules as so many default ones; anything else as it is."""
    if not isinstance(given, int) or isinstance(given, bool):
        return given
    if not 1 <= given <= MOST_MODULES:
        raise ValueError(f"a network has 1 to {MOST_MODULES} hidden modules, not {given}")
    return ({},) * given


def from_number(given: object) -> object:
    """A whole number as its digits; anything else as it is."""
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given
