"""Which held-out examples stored modules have seen, and so are not tested or judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modkernel.data import ExampleDigests, describe_dataset, example_digests, load_dataset
from modkernel.flows.plans.datasets import note
from modkernel.registry import ModuleRecord, Registry, Seen
from modkernel.registry.advice.shelf import learnt_by
from modkernel.spec import DatasetFacts, DatasetSpec


@dataclass(frozen=True)
class Untested:
    """What a test leaves out.

    Attributes:
        left_out: positions in the test part.
        seen: how many were seen and are tested on all the same, since there are no others.
        unknown: whether it is not known what some module was trained on.
    """

    left_out: tuple[int, ...] = ()
    seen: int = 0
    unknown: bool = False


def untested(
    registry: Registry, chain: Sequence[ModuleRecord], dataset: DatasetSpec, fingerprint: str
) -> Untested:
    """Test examples that modules were trained or validated on; a note says how many they are.

    Modules that were trained on this very data set have seen none of them, at no cost.

    Args:
        registry: remembers what its modules were trained on.
        chain: modules that a network under test has.
        dataset: that is tested on.
        fingerprint: of it, as it was planned on.

    Raises:
        DataError: the data are missing or unfit.
    """
    if all(
        facts.fingerprint == fingerprint for record in chain for facts in record.spec.learnt_from
    ):
        return Untested()
    digests = example_digests(dataset, registry.settings.places)
    count = len(digests.test)
    if digests.fingerprint != fingerprint or not count:
        return Untested()  # The child says that the data have changed.
    seen = registry.examples.seen(chain, fingerprint, digests.test)
    _tell_unknown(seen, "tested")
    rows = (seen.trained | seen.validated).nonzero()[0]
    unknown = bool(seen.unknown)
    if not len(rows):
        return Untested(unknown=unknown)
    if len(rows) == count:
        note(f"{_counted(seen)}: there are no others, so this accuracy is of examples it knows.")
        return Untested(seen=count, unknown=unknown)
    note(f"{_counted(seen)}: they are left out of the test.")
    return Untested(left_out=tuple(rows.tolist()), unknown=unknown)


def trained_on(
    registry: Registry, chain: Sequence[ModuleRecord], dataset: DatasetSpec, fingerprint: str
) -> tuple[int, ...]:
    """Positions in the validation part that modules were trained on; a note says how many.

    Copies of the data's own training examples are among them.

    Args:
        registry: remembers what its modules were trained on.
        chain: modules that are judged on the validation part.
        dataset: that they are judged on.
        fingerprint: of it, as it was planned on.

    Raises:
        DataError: the data are missing or unfit.
    """
    where = registry.settings.places
    digests = example_digests(dataset, where)
    if digests.fingerprint != fingerprint:
        return ()  # The child says that the data have changed.
    count, learnt, shelf = len(digests.validation), learnt_by(chain), registry.advice.shelf
    fitted = np.concatenate((digests.train, shelf.trained_on(learnt, fingerprint)))
    seen = np.isin(digests.validation, fitted)
    seen |= shelf.saw_pairs(learnt, describe_dataset(dataset, where))
    _tell_unknown(registry.examples.seen(chain, fingerprint, digests.validation), "judged")
    rows = tuple(seen.nonzero()[0].tolist())
    if rows:
        note(
            f"{len(rows)} of the {count} validation examples {'was' if len(rows) == 1 else 'were'} "
            "trained on: the stitch is not judged on them."
        )
    return rows


def remember(registry: Registry, dataset: DatasetSpec, facts: DatasetFacts) -> None:
    """Have the registry know which examples a data set trains and validates on.

    What it knows from a bundle alone is read from the data here.

    Args:
        registry: keeps them.
        dataset: that a module is trained on.
        facts: what the module's spec says of it, as it was planned.

    Raises:
        DataError: the data are missing or unfit.
    """
    where = registry.settings.places
    if not registry.examples.has(facts.fingerprint):
        digests = example_digests(dataset, where)
        if digests.fingerprint == facts.fingerprint:
            registry.examples.remember(digests)
    aside = facts.unlabelled_fingerprint
    if aside is not None and not registry.examples.has(aside):
        data = load_dataset(dataset, where, unlabelled=True)
        if data.unlabelled_fingerprint == aside and data.unlabelled is not None:
            assert data.unlabelled.digests is not None  # Its fingerprint is made of them.
            none = np.empty(0, np.int64)
            trained = data.unlabelled.digests.numpy()
            registry.examples.remember(ExampleDigests(aside, trained, none, none))


def _tell_unknown(seen: Seen, what: str) -> None:
    for record in seen.unknown:
        note(
            f"It is not known which examples module {record.short_id} ({record.name}) was trained "
            f"on: it may have seen some of those that are {what} on."
        )


def _counted(seen: Seen) -> str:
    """The beginning of a sentence that says how many were seen, and by which modules."""
    trained, validated = int(seen.trained.sum()), int(seen.validated.sum())
    by = f"module {seen.by[0].short_id} ({seen.by[0].name})"
    if len(seen.by) > 1:
        by += f" and {len(seen.by) - 1} more of its chain"
    done = f"trained on by {by}" if trained else f"validated on by {by}"
    also = f" and {validated} validated on" if trained and validated else ""
    return (
        f"{trained or validated} of the {len(seen.trained)} test examples "
        f"{'was' if (trained or validated) == 1 else 'were'} {done}{also}"
    )
