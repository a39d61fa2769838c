"""Weights of stored modules side by side, from how they tell classes apart on held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from modkernel.data import DatasetInfo
from modkernel.errors import MomentsError
from modkernel.features.measure import measured_features
from modkernel.flows.plans.datasets import note
from modkernel.flows.tasks.child import tasks_in_hand
from modkernel.flows.tasks.measure import measure_stored_module
from modkernel.flows.tasks.side_by_side import side_by_side
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.backends import feature_cache
from modkernel.reuse.weights import aligned_weights
from modkernel.spec import DatasetSpec

DIGITS = 3
"""Of a weight; what lies beyond is noise of the held-out examples."""


def weighed(
    registry: Registry, tops: Sequence[ModuleRecord], dataset: DatasetSpec, info: DatasetInfo
) -> tuple[tuple[ModuleRecord, ...], tuple[float, ...] | None]:
    """Modules whose kernels add to each other's, and their weights; see `aligned_weights`.

    Args:
        registry: has the modules.
        tops: to stand side by side, two or more.
        dataset: labelled, whose held-out examples are looked at; modules are measured on it where
            need be.
        info: of it.

    Returns:
        The modules of some weight in their order, and the weights; none for one that is left alone.

    Raises:
        ScoreError: the weights cannot be told.
        MomentsError: the measured features do not fit into the feature cache.
    """
    starts = [partial(measure_stored_module.submit, top.id, dataset, True) for top in tops]
    for _, future in side_by_side(starts, tasks_in_hand(registry.settings)):
        future.result()
    cache = feature_cache(registry.settings)
    found = [measured_features(cache, top.id, info.fingerprint) for top in tops]
    measured = [one for one in found if one is not None]
    if len(measured) < len(found):
        raise MomentsError(
            f"The features of {len(tops)} modules do not fit into the feature cache together: set "
            "MODKERNEL_FEATURE_CACHE_BYTES higher, or give the weights."
        )
    exact = aligned_weights([one.validation for one in measured], measured[0].validation_labels)
    # They are part of the recipe, which rounding errors of another machine must not change.
    weights = [float(f"{weight:.{DIGITS}g}") for weight in exact]
    pairs = list(zip(tops, weights, strict=True))
    told = ", ".join(f"{top.name} {weight:g}" for top, weight in pairs)
    note(f"Weights by the held-out examples: {told}.")
    for top, weight in pairs:
        if not weight:
            note(f"{top.name}/{top.version} is left out: it adds nothing to the others.")
    kept = tuple(top for top, weight in pairs if weight)
    return kept, tuple(weight for weight in weights if weight) if len(kept) > 1 else None
