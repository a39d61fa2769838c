"""Weights of stored modules side by side, from how they tell classes apart on held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from modkernel.data import DatasetInfo
from modkernel.errors import MomentsError, ScoreError
from modkernel.features.measure import MeasuredFeatures, held_out, measured_features
from modkernel.flows.plans.composition import REMEDY
from modkernel.flows.plans.datasets import note
from modkernel.flows.tasks.child import tasks_in_hand
from modkernel.flows.tasks.measure import measure_stored_module
from modkernel.flows.tasks.side_by_side import side_by_side
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.advice.shelf import Shelf, known, learnt_by
from modkernel.registry.backends import feature_cache
from modkernel.reuse.weights import aligned_weights
from modkernel.spec import DatasetFacts, DatasetSpec

DIGITS = 3
"""Of a weight; what lies beyond is noise of the held-out examples."""


def weighed(
    registry: Registry, tops: Sequence[ModuleRecord], dataset: DatasetSpec, info: DatasetInfo
) -> tuple[tuple[ModuleRecord, ...], tuple[float, ...] | None]:
    """Modules whose kernels add to each other's, and their weights; see `aligned_weights`.

    Args:
        registry: has the modules.
        tops: to stand side by side, two or more, as of `check_saw_no_pairs`.
        dataset: labelled, whose held-out examples are looked at; modules are measured on it where
            need be.
        info: of it.

    Training examples that are validated on as well, and those that any of the modules was trained
    on as part of another data set, choose no weights: on them a module flatters itself.

    Returns:
        The modules of some weight in their order, and the weights; none for one that is left alone.

    Raises:
        ScoreError: the weights cannot be told: modules were trained on all of the examples, or see
            `aligned_weights`.
        MomentsError: the measured features do not fit into the feature cache.
    """
    learnt = [learnt_by(registry.modules.chain(top)) for top in tops]
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
    rows = _unseen(registry.advice.shelf, measured, learnt, info)
    exact = aligned_weights(
        [one.validation[rows] for one in measured], measured[0].validation_labels[rows]
    )
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


def _unseen(
    shelf: Shelf,
    measured: Sequence[MeasuredFeatures],
    learnt: Sequence[Sequence[DatasetFacts]],
    info: DatasetInfo,
) -> Tensor:
    """Which measured validation examples no module was trained on, bool [n]; a note on others.

    Raises:
        ScoreError: there are none.
    """
    rows = held_out(measured[0], info.n_borrowed)
    for one, facts in zip(measured, learnt, strict=True):
        seen = known(one.validation_digests, rows, shelf.trained_on(facts, info.fingerprint))
        rows[seen] = False
    count, left = len(rows), int(rows.sum())
    if not left:
        raise ScoreError(
            f"Modules were trained on all {count} examples that would choose their weights: "
            f"{REMEDY}"
        )
    if left < count:
        note(
            f"{count - left} of {count} examples that are validated on choose no weights, since "
            "modules were trained on them."
        )
    return rows
