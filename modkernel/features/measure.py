"""Measure a stored module on a data set: the features of some examples, and their class moments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.control import Stop, never_stop
from modkernel.data import Dataset
from modkernel.data.dataset import Split
from modkernel.errors import DataError, InterfaceError
from modkernel.features.cache import VALUES, FeatureCache, FeatureKey
from modkernel.features.compute import Kept, compute_features
from modkernel.features.extractor import Front, frozen_chain, make_extractor
from modkernel.features.fold import fold_norms
from modkernel.features.sources import Picked, in_order
from modkernel.modules.stored import StoredModule
from modkernel.reuse.moments import ClassMoments, ModuleMoments, accumulate, check_size
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for

EXAMPLES_PER_CLASS = 900
"""Training examples of a class that are measured at most."""
VALIDATION_PER_CLASS = 100
"""Validation examples of a class that are measured at most."""
LABELS = "labels"


@dataclass(frozen=True, eq=False)
class MeasuredFeatures:
    """Features φ of the measured examples, float32 [n, d], and their classes, int64 [n]."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor


def measure(
    modules: Sequence[StoredModule],
    data: Dataset,
    arithmetic: Arithmetic,
    *,
    cache: FeatureCache | None = None,
    stop: Stop = never_stop,
) -> ModuleMoments:
    """Class moments of what an output module on the last module would take.

    Measured are at most `EXAMPLES_PER_CLASS` training and `VALIDATION_PER_CLASS` validation
    examples a class, unaugmented. Which ones is decided by the data alone, so all modules are
    measured on the same. A gaussian kernel's centres are drawn as `train_output` does with seed 0.
    Validation examples are held out of what is trained on labels, but a module that was trained on
    a list of this data set's pairs has seen them (`DatasetFacts.saw_validation`).

    Args:
        modules: a chain of hidden modules, first to last; the last is measured.
        data: a labelled data set that the chain takes.
        arithmetic: device and number format.
        cache: keeps the features for `measured_features`; none keeps nothing.
        stop: asked before every batch.

    Raises:
        DataError: the data set has no class labels, or a part of it has no example of a class.
        InterfaceError: not a chain of hidden modules, or it does not take the data.
        MomentsError: too many classes and features to keep moments of.
        StoppedError: `stop` said so.
        SettingsError: see `compute_features`.
    """
    top = modules[-1].spec
    if top.kind != "hidden":
        raise InterfaceError("An output module's features are those of the module under it.")
    if data.train.labels is None or data.validation.labels is None:
        raise DataError(
            f"Data set '{data.name}' has no class labels, which moments are kept by: "
            "measure on a labelled one."
        )
    began = time.perf_counter()
    chain = arithmetic.place(fold_norms(frozen_chain(modules)))
    kernel = top.interface.kernel
    front = make_extractor(chain, kernel, data.train.examples, 0, arithmetic)
    check_size(len(data.classes), _dimension(front, top.interface.gives, arithmetic.device))

    def moments(split: Split, name: str, limit: int) -> ClassMoments:
        assert split.labels is not None
        picks = pick(split.labels, data, name, limit)
        if not len(picks):
            raise DataError(
                f"The {name} part of data set '{data.name}' has no example of a class: measure "
                "the module on data that has some."
            )
        labels = split.labels[picks]
        phi = compute_features(
            front,
            Picked(split.examples, picks),
            arithmetic,
            kept=None
            if cache is None
            else Kept(cache, _key(modules[-1].id, data.fingerprint, name)),
            beside={LABELS: labels},
            stop=stop,
        )
        order = in_order(len(phi))
        pairs = zip(phi.batches(order, arithmetic.device), labels.split(len(order[0])), strict=True)
        on_device = ((block, some.to(block.device)) for block, some in pairs)
        return accumulate(on_device, data.classes, data.fingerprint)

    return ModuleMoments(
        module_id=modules[-1].id,
        train=moments(data.train, "train", EXAMPLES_PER_CLASS),
        validation=moments(data.validation, "validation", VALIDATION_PER_CLASS),
        seconds=time.perf_counter() - began,
    )


def measured_features(
    cache: FeatureCache, module_id: str, fingerprint: str
) -> MeasuredFeatures | None:
    """What `measure` kept of a module's features on the data of a fingerprint, mapped.

    No data set is loaded and no module is run. None where nothing was measured with this cache,
    or it has been evicted since: measure again.
    """
    train, validation = (
        cache.find(_key(module_id, fingerprint, name)) for name in ("train", "validation")
    )
    if train is None or validation is None:
        return None
    return MeasuredFeatures(train[VALUES], train[LABELS], validation[VALUES], validation[LABELS])


def _key(module_id: str, fingerprint: str, split: str) -> FeatureKey:
    # φ is float32 in whichever format the chain ran, and either answers the same questions.
    return FeatureKey(module_id, fingerprint, split, "measured", "float32")


def _dimension(front: Front, gives: tuple[int, ...], device: torch.device) -> int:
    example = torch.zeros(1, *gives, device=device)
    return front.kernel.feature_map(example, front.centres).shape[1]


def pick(labels: Tensor, data: Dataset, split: str, limit: int) -> Tensor:
    """Indices of at most `limit` examples of each class, in order."""
    picks = []
    for number, name in enumerate(data.classes):
        rows = (labels == number).nonzero().flatten()
        generator = generator_for("measured", data.fingerprint, split, name)
        picks.append(rows[torch.randperm(len(rows), generator=generator)[:limit]])
    return torch.cat(picks).sort().values
