"""What a module's spec says of its data."""

from __future__ import annotations

from pydantic import Field

from modkernel.spec.base import Spec


class DatasetFacts(Spec):
    """Which data a module was trained on."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    pairs_fingerprint: str | None = None
    labels_fingerprint: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Of the file of labels that an output module was trained on.",
    )

    def saw_validation(self, name: str, fingerprint: str) -> bool:
        """Whether a hidden module was trained on validation examples of a data set.

        A list of pairs is over training and validation examples. A choice of a set's classes has
        another fingerprint and the same examples, so the set's name is enough.
        """
        return self.pairs_fingerprint is not None and (
            self.fingerprint == fingerprint or self.name == name
        )
