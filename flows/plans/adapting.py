"""Hidden modules that start from the weights of stored ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modkernel.backbones import blocks_of
from modkernel.data import DatasetInfo
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_is_hidden
from modkernel.flows.plans.steps import Below
from modkernel.lookup import trusting
from modkernel.plan import HiddenPlan
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import HiddenSpec, Upstream

Sources = Sequence[ModuleRecord | None]
"""Of each hidden module the stored one that it starts from, or none."""


def sources_of(registry: Registry, hidden: Iterable[HiddenSpec]) -> Sources:
    """The stored modules that hidden modules start from, as their references mean now.

    Raises:
        NotFoundError, AmbiguousError: a reference names none, or several.
    """
    return [
        None if one.start_from is None else registry.modules.resolve(one.start_from)
        for one in hidden
    ]


def adapted(plans: Sequence[HiddenPlan], sources: Sources) -> tuple[HiddenPlan, ...]:
    """Planned modules with what they start from.

    Raises:
        InterfaceError: one is of other blocks or shapes than what it starts from.
        SpecError: less than a block is to be frozen.
    """
    return tuple(
        plan if source is None else plan.starting_from(source.id, source.name, source.spec)
        for plan, source in zip(plans, sources, strict=True)
    )


def below_first(info: DatasetInfo, source: ModuleRecord | None) -> Below:
    """What a first module stands on: the data, prepared as what it starts from has it.

    Raises:
        InterfaceError: the data have another shape than that was made for.
    """
    if source is None or not is_first(source):
        return Below.of_data(info)
    datasets.check_fits(info, source)
    preprocessing = source.spec.preprocessing
    return Below((Upstream(id=preprocessing.id),), preprocessing, preprocessing.shape)


def is_first(record: ModuleRecord) -> bool:
    """Whether a module stands on no other."""
    return record.spec.interface.stands_on == (record.spec.preprocessing.id,)


def block_before(registry: Registry, source: ModuleRecord) -> str | None:
    """The block of a module's backbone that its own come after; none if they are the first.

    Raises:
        SpecError: the backbone is of a package that is not trusted.
    """
    spec = check_is_hidden(source)
    datasets.check_chain_trusted(registry, source)
    with trusting(registry.settings.trusted_packages):
        names = [block.name for block in blocks_of(spec.backbone)]
    place = names.index(spec.blocks[0])
    return names[place - 1] if place else None
