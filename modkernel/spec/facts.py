"""What a module's spec says of its data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modkernel.spec.base import Spec


class DatasetFacts(Spec):
    """Which data a module was trained on."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    pairs_fingerprint: str | None = None
    pairs: Literal["views", "views+labels"] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Of a hidden module that compared random views: alone, and with the pairs of "
        "a file where that has a fingerprint, or with those of the data set's labels.",
    )
    unlabelled_fingerprint: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Of the set's examples without a label: a hidden module compared their views, "
        "an output module's labels were spread over them, or its file of labels may name them.",
    )
    labels_fingerprint: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Of the file of labels that an output module was trained on.",
    )

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of all examples that took part: the set's, and those without a label."""
        aside = self.unlabelled_fingerprint
        return (self.fingerprint,) if aside is None else (self.fingerprint, aside)

    @property
    def saw_labels(self) -> bool:
        """Whether any label, or any pair that a person listed, had a part in the training."""
        return self.pairs != "views" or self.pairs_fingerprint is not None

    @property
    def over_validation(self) -> bool:
        """Whether training was on the training and the validation examples together."""
        listed = self.pairs_fingerprint is not None and self.pairs is None
        return listed or self.labels_fingerprint is not None

    def saw_validation(self, name: str, fingerprint: str) -> bool:
        """Whether a hidden module was trained on validation examples of a data set.

        A list of pairs, without views, is over training and validation examples. A choice of a
        set's classes has another fingerprint and the same examples, so the set's name is enough.
        """
        return self.over_validation and (self.fingerprint == fingerprint or self.name == name)
