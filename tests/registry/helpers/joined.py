"""A network whose output module stands on several modules side by side."""

from __future__ import annotations

from modkernel.modules.stored import StoredModule
from modkernel.registry import NetworkRecord, Registry
from tests.modkernel.helpers.stored_examples import store_joined_output
from tests.registry.helpers.examples import EVALUATION, Examples, store_one

WEIGHTS = (1.0, 2.0, 0.5)
NAMES = ("a.hidden-1", "a.hidden-2", "b.hidden-2", "c.hidden-1", "net.output")


def joined(examples: Examples) -> tuple[StoredModule, ...]:
    """Two modules on one, a third by itself, and an output module on these three."""
    first, alone = examples.first(), examples.first(seed=2)
    one, two = examples.second(first), examples.second(first, seed=1)
    output, _ = store_joined_output(examples.folder / "joined", (one, two, alone), WEIGHTS)
    return first, one, two, alone, output


def store_joined(registry: Registry, examples: Examples) -> NetworkRecord:
    """Store these modules under `NAMES`, and the network 'net' of them."""
    stored = joined(examples)
    records = [store_one(registry, *one) for one in zip(stored, NAMES, strict=True)]
    return registry.networks.add("net", [record.id for record in records], EVALUATION)
