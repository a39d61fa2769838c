"""Where the pairs of hidden modules come from, as one field of a spec says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from modkernel.spec import ObjectiveSpec

VIEWS = "views"
"""Word of the field for random views."""
LABELS = "labels"
"""Word of the field, after 'views+', for the data set's own labels."""
VIEW_TEMPERATURE = 0.2
"""Of `anchor_contrastive` on views, where the spec names none: one example's views differ in more
than two examples of a class do, so a temperature of 0.1 looks at too few of the others."""


class PairsFrom(NamedTuple):
    """Sources of pairs: random views of one example, class labels, a file."""

    views: bool
    labels: bool
    file: str | None

    @property
    def fact(self) -> Literal["views", "views+labels"] | None:
        """What a module's spec says of it beside the file's fingerprint; none without views."""
        if not self.views:
            return None
        return "views+labels" if self.labels else "views"


def pairs_from(given: str | None) -> PairsFrom:
    """Sources of the pairs that a spec's `pairs` names.

    >>> pairs_from(None)
    PairsFrom(views=False, labels=True, file=None)
    >>> pairs_from("views+same.csv")
    PairsFrom(views=True, labels=False, file='same.csv')
    """
    if given is None:
        return PairsFrom(False, True, None)
    word, _, more = given.partition("+")
    if word.strip() != VIEWS:
        return PairsFrom(False, False, given)
    more = more.strip()
    return PairsFrom(True, more == LABELS, None if more in ("", LABELS) else more)


def with_file(given: str | None, file: str | None) -> str | None:
    """The same sources with another path of their file, where they have one."""
    found = pairs_from(given)
    if found.file is None or file is None:
        return given
    return f"{VIEWS}+{file}" if found.views else file


def view_objective(objective: ObjectiveSpec, views: bool) -> ObjectiveSpec:
    """The objective with the temperature of views, where they are compared and it names none."""
    if not views or objective.temperature is not None or objective.name != "anchor_contrastive":
        return objective
    return objective.changed(temperature=VIEW_TEMPERATURE)
