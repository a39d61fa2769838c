"""Hidden modules that are trained together, in one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field

from modkernel.errors import SpecError
from modkernel.spec import HiddenModuleSpec, HiddenSpec, Recipe, TogetherSpec, Upstream
from modkernel.spec.base import Spec

OF_EACH = ("learning_rate", "momentum", "weight_decay")
"""What of their recipes modules that are trained together may each have otherwise."""


class GroupSpec(Spec):
    """Everything that decides the training of modules in one pass; its digest is the group's.

    A module's spec names the module below it by its id, which hashes its weights: that is known
    only when they are final, at once for all of a group. So a module here stands on the digest of
    the spec below it, which says as much before anything is trained. `member` gives the spec that
    is stored: with the id, and with the group's digest, by which a module that was trained together
    is never taken for one that was trained in turn, nor for one of another group.
    """

    modules: tuple[HiddenModuleSpec, ...] = Field(
        min_length=1, description="First to last, each on the digest of the one before it."
    )

    @classmethod
    def of(cls, modules: Sequence[HiddenModuleSpec]) -> Self:
        """The group of modules, whichever upstream the specs above the first one name.

        Raises:
            SpecError: they cannot be trained in one pass, see `check_together`.
        """
        check_together([one.hidden for one in modules])
        standing: list[HiddenModuleSpec] = []
        for one in modules:
            below = one.interface.upstream if not standing else standing[-1].digest()
            interface = one.interface.changed(upstream=below)
            standing.append(one.changed(interface=interface, together=None))
        return cls(modules=tuple(standing))

    def member(self, index: int, upstream: str | tuple[Upstream, ...]) -> HiddenModuleSpec:
        """The stored spec of a module, counted from 0, whose upstream is known.

        Args:
            index: of the module.
            upstream: id of the module below it; the first one keeps what it stands on.
        """
        one = self.modules[index]
        interface = one.interface if index == 0 else one.interface.changed(upstream=upstream)
        known = TogetherSpec(group=self.digest(), position=index + 1, count=len(self.modules))
        return one.changed(interface=interface, together=known)


def check_together(hidden: Sequence[HiddenSpec], where: str = "hidden[{}]") -> None:
    """Check that hidden modules can take the same steps on the same batches.

    Args:
        hidden: first to last.
        where: what the user wrote them in, for messages; {} is the number, from 0.

    Raises:
        SpecError: their recipes differ in more than `OF_EACH`, or one starts from stored weights.
    """
    first = hidden[0].recipe
    for index, one in enumerate(hidden):
        if one.start_from is not None:
            raise SpecError(
                f"{where.format(index)}.start_from: modules that are trained together begin with "
                "fresh weights. Leave it out, or set 'train: in turn'."
            )
        differing = [
            f"{name} ({getattr(one.recipe, name)} and {getattr(first, name)})"
            for name in Recipe.model_fields
            if name not in OF_EACH and getattr(one.recipe, name) != getattr(first, name)
        ]
        if differing:
            raise SpecError(
                f"{where.format(index)}.recipe differs from {where.format(0)}.recipe in "
                f"{', '.join(differing)}, and modules that are trained together take the same "
                "steps on the same batches: give them the same, or set 'train: in turn'. They may "
                f"differ in {', '.join(OF_EACH[:-1])} and {OF_EACH[-1]}."
            )
