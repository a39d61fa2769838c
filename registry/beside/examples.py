"""Which examples stored modules were trained on: digests by the data set's fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import delete, select

from modkernel.data import ExampleDigests
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql.tables import ExamplesRow
from modkernel.spec import DatasetFacts

FROM_BUNDLE = "bundle:"
"""Before the fingerprint in the key of what a bundle says of data that nobody has read here."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Which of N examples some modules have seen.

    Attributes:
        trained: bool [N], those that one was trained on.
        validated: bool [N], others that one was validated on: its best epoch was chosen by them.
        by: the modules that have seen any.
        unknown: the modules of which it is not known.
    """

    trained: np.ndarray
    validated: np.ndarray
    by: tuple[ModuleRecord, ...] = ()
    unknown: tuple[ModuleRecord, ...] = ()


@dataclass(frozen=True)
class SeenExamples:
    """Remembered digests. Every method raises StoreError where the database fails."""

    backends: Backends

    def remember(self, digests: ExampleDigests, from_bundle: bool = False) -> None:
        """Keep the training and the validation examples of a data set; those kept once stay.

        Those without a label are kept as a set of their own: all are trained on.

        Args:
            digests: of a data set.
            from_bundle: a bundle says so, and no check can tell whether it is true: they serve
                where there are none, until somebody who has read the data has others kept.
        """
        own, theirs = digests.fingerprint, FROM_BUNDLE + digests.fingerprint
        key, serving = (theirs, (own, theirs)) if from_bundle else (own, (own,))
        if self._has(*serving):
            return
        row = ExamplesRow(
            fingerprint=key,
            training=_packed(digests.train),
            validation=_packed(digests.validation),
        )
        with self.backends.wait_for_claim(own).renewed() as claim, claim.unless_lost():
            if not self._has(*serving):
                with self.backends.under(claim).writing() as session:
                    session.execute(delete(ExamplesRow).where(ExamplesRow.fingerprint == theirs))
                    session.add(row)

    def has(self, fingerprint: str) -> bool:
        """Whether the examples of a data set are remembered, by whoever has read it here."""
        return self._has(fingerprint)

    def _has(self, *keys: str) -> bool:
        with self.backends.database.reading() as session:
            query = select(ExamplesRow.fingerprint).where(ExamplesRow.fingerprint.in_(keys))
            return session.scalar(query.limit(1)) is not None

    def seen(self, modules: Sequence[ModuleRecord], fingerprint: str, examples: np.ndarray) -> Seen:
        """Which test examples of a data set were trained or validated on by modules.

        Those that were trained on this very data set have seen none, and cost nothing.

        Args:
            modules: such as a chain.
            fingerprint: of the data set.
            examples: digests of its test examples, int64 [N].
        """
        trained, validated = np.zeros(len(examples), bool), np.zeros(len(examples), bool)
        by, unknown = [], []
        for module, facts in ((one, facts) for one in modules for facts in one.spec.learnt_from):
            if facts.fingerprint == fingerprint:
                continue
            found = self.of(facts)
            if found is None:
                unknown.append(module)
                continue
            fitted, chosen_by = (np.isin(examples, each) for each in found)
            if fitted.any() or chosen_by.any():
                by.append(module)
            trained |= fitted
            validated |= chosen_by
        return Seen(trained, validated & ~trained, tuple(by), tuple(unknown))

    def of(self, facts: DatasetFacts) -> tuple[np.ndarray, np.ndarray] | None:
        """Digests of what a module was trained on and of what it was validated on, int64 each.

        Examples without a label that took part by their views were trained on. A file of pairs
        (without views) or of labels is over the training and the validation examples: all of them
        may have been trained on. None where it is not known.
        """
        found = [self.digests(fingerprint) for fingerprint in facts.fingerprints]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        training = np.concatenate([one for one, _ in known])
        validation = known[0][1]
        if not facts.over_validation:
            return training, validation
        return np.concatenate((training, validation)), validation[:0]

    def digests(self, fingerprint: str) -> tuple[np.ndarray, np.ndarray] | None:
        """What is remembered of a data set: its training and its validation part, int64 each."""
        with self.backends.database.reading() as session:
            for key in (fingerprint, FROM_BUNDLE + fingerprint):
                if (row := session.get(ExamplesRow, key)) is not None:
                    return _unpacked(row.training), _unpacked(row.validation)
        return None


def _packed(digests: np.ndarray) -> bytes:
    """Sorted, so that neither the order nor the number of equal examples can be had back."""
    return np.unique(digests).astype("<i8").tobytes()


def _unpacked(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<i8").astype(np.int64)
