"""The spec of a stitch, and what of it is refused before anything is computed."""

from __future__ import annotations

from modkernel.data import DatasetInfo
from modkernel.errors import DataError, InterfaceError
from modkernel.flows.plans.checks import check_is_hidden
from modkernel.modules.stitch import check_map
from modkernel.plan import facts
from modkernel.registry import ModuleRecord
from modkernel.spec import Interface, StitchModuleSpec, StitchSpec
from modkernel.training.stitch import FEWEST


def check_parents(lower: ModuleRecord, upper: ModuleRecord) -> None:
    """Check that one stored module can be set on another one.

    Raises:
        InterfaceError: an output module, a stitch as UPPER, UPPER on the data itself or on LOWER
            already, or no map between the two shapes.
    """
    check_is_hidden(lower)
    spec = check_is_hidden(upper)
    shown = f"Module {upper.short_id} ({upper.name})"
    if spec.kind == "stitch":
        raise InterfaceError(
            f"{shown} is a stitch itself: name the module that it has a copy of, "
            f"{spec.upper_id[:12]}."
        )
    if spec.interface.stands_on == (spec.preprocessing.id,):
        raise InterfaceError(
            f"{shown} stands on the data itself, so nothing can come under it: name a module that "
            "stands on another one, or compose a network on it as it is."
        )
    if lower.id in (*spec.interface.stands_on, upper.id):
        fits = "is its own upstream" if lower.id != upper.id else "is the same module"
        raise InterfaceError(
            f"{shown} needs no stitch: {lower.name} {fits}. Compose a network on {upper.name}, or "
            "name another LOWER."
        )
    check_map(lower.spec.interface.gives, spec.interface.takes)


def stitch_spec(
    lower: ModuleRecord, upper: ModuleRecord, info: DatasetInfo, stitch: StitchSpec, seed: int
) -> StitchModuleSpec:
    """What a stitch of UPPER on LOWER, fitted to a data set, is stored under.

    Raises:
        InterfaceError: see `check_parents`.
        DataError: too few training examples.
    """
    check_parents(lower, upper)
    if info.n_train < FEWEST:
        raise DataError(
            f"A stitch is fitted to at least {FEWEST} training examples, but data set "
            f"'{info.name}' has {info.n_train}: give more; they need no labels."
        )
    spec = check_is_hidden(upper)
    assert spec.kind != "stitch"
    return StitchModuleSpec(
        interface=Interface(
            upstream=lower.id,
            takes=lower.spec.interface.gives,
            gives=spec.interface.gives,
            kernel=spec.interface.kernel,
        ),
        dataset=facts(info),
        seed=seed,
        preprocessing=lower.spec.preprocessing,
        upper=spec,
        upper_id=upper.id,
        stitch=stitch,
    )
