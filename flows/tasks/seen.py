"""Which test examples stored modules have seen, and so are not tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modkernel.data import example_digests
from modkernel.flows.plans.datasets import note
from modkernel.registry import ModuleRecord, Registry, Seen
from modkernel.spec import DatasetSpec


@dataclass(frozen=True)
class Untested:
    """What a test leaves out.

    Attributes:
        left_out: positions in the test part.
        seen: how many were seen and are tested on all the same, since there are no others.
    """

    left_out: tuple[int, ...] = ()
    seen: int = 0


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
    for record in seen.unknown:
        note(
            f"It is not known which examples module {record.short_id} ({record.name}) was trained "
            "on: it may have seen some of those that are tested on."
        )
    rows = (seen.trained | seen.validated).nonzero()[0]
    if not len(rows):
        return Untested()
    if len(rows) == count:
        note(f"{_counted(seen)}: there are no others, so this accuracy is of examples it knows.")
        return Untested(seen=count)
    note(f"{_counted(seen)}: they are left out of the test.")
    return Untested(left_out=tuple(rows.tolist()))


def remember(registry: Registry, dataset: DatasetSpec, fingerprint: str) -> None:
    """Have the registry know which examples a data set trains and validates on.

    Args:
        registry: keeps them.
        dataset: that a module is trained on.
        fingerprint: of it, as it was planned on.

    Raises:
        DataError: the data are missing or unfit.
    """
    if registry.examples.has(fingerprint):
        return
    digests = example_digests(dataset, registry.settings.places)
    if digests.fingerprint == fingerprint:
        registry.examples.remember(digests)


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
