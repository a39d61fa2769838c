"""Measure a stored module on a data set: the features of some examples, and their class moments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.control import Stop, never_stop
from modkernel.data import Dataset, DatasetInfo
from modkernel.data.dataset import Split
from modkernel.errors import DataError, InterfaceError
from modkernel.features.cache import VALUES, FeatureCache, FeatureKey
from modkernel.features.compute import CacheEntry, compute_features
from modkernel.features.extractor import FeatureExtractor, frozen_chain, make_extractor
from modkernel.features.fold import fold_norms
from modkernel.features.sources import Picked, in_order
from modkernel.modules.stored import StoredModule
from modkernel.reuse.moments import ClassMoments, ModuleMoments, accumulate, check_size
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for

EXAMPLES_PER_CLASS = 900
"""Training examples of a class that are measured, at most."""
VALIDATION_PER_CLASS = 100
"""Validation examples of a class that are measured, at most."""
LABELS = "labels"
"""Name of the classes among the tensors of a key in the feature cache."""
DIGESTS = "digests"
"""Name of what tells the examples apart there, as of `Split.digests`."""


@dataclass(frozen=True, eq=False)
class MeasuredFeatures:
    """Features φ of the measured examples, float32 [n, d], and their classes, int64 [n].

    The digests, int64 [n], are those of `Split.digests`; none where they were not known.
    """

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    train_digests: Tensor | None = None
    validation_digests: Tensor | None = None


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
    examples per class, unaugmented. The data alone decide which ones, so all modules are
    measured on the same. A gaussian kernel's centres are drawn as `train_output` does with seed 0.
    Validation examples are held out of what is trained on labels, but for those that the set
    borrows (`Dataset.validation_part`), which `held_out` tells apart; a module that was trained on
    a list of this data set's pairs has seen them (`DatasetFacts.saw_validation`).

    Args:
        modules: a chain of hidden modules, first to last; the last is measured.
        data: a labelled data set that the chain takes.
        arithmetic: device and number format.
        cache: stores the features for `measured_features`.
        stop: called before every batch.

    Raises:
        DataError: the data set has no class labels, or a part of it has no example of a class.
        InterfaceError: not a chain of hidden modules, or it does not take the data.
        MomentsError: too many classes and features to store moments of.
        StoppedError: `stop` said so.
        SettingsError: there is no room for the features, see `compute_features`.
    """
    top = modules[-1].spec
    if top.kind == "output":
        raise InterfaceError("An output module's features are those of the module under it.")
    if data.train.labels is None or data.validation.labels is None:
        raise DataError(
            f"Data set '{data.name}' has no class labels, which moments are grouped by: "
            "measure on a labelled one."
        )
    began = time.perf_counter()
    chain = arithmetic.place(fold_norms(frozen_chain(modules)))
    kernel = top.interface.kernel
    extractor = make_extractor(chain, kernel, data.train.examples, 0, arithmetic)
    check_size(len(data.classes), _dimension(extractor, top.interface.gives, arithmetic.device))

    def moments(split: Split, name: str, limit: int) -> ClassMoments:
        key = _key(modules[-1].id, data.fingerprint, name)
        entry = None if cache is None else CacheEntry(cache, key)
        return _moments_of(extractor, split, name, limit, data, arithmetic, entry, stop)

    return ModuleMoments(
        module_id=modules[-1].id,
        train=moments(data.train, "train", EXAMPLES_PER_CLASS),
        validation=moments(data.validation_part(), "validation", VALIDATION_PER_CLASS),
        seconds=time.perf_counter() - began,
    )


def _moments_of(
    extractor: FeatureExtractor,
    split: Split,
    name: str,
    limit: int,
    data: Dataset,
    arithmetic: Arithmetic,
    entry: CacheEntry | None,
    stop: Stop,
) -> ClassMoments:
    """Class moments of at most `limit` examples per class of one split."""
    assert split.labels is not None
    picks = pick(split.labels, data, name, limit)
    if not len(picks):
        raise DataError(
            f"The {name} part of data set '{data.name}' has no labelled example: measure "
            "the module on data that has some."
        )
    labels, digests = split.labels[picks], split.digests
    phi = compute_features(
        extractor,
        Picked(split.examples, picks),
        arithmetic,
        entry=entry,
        extra={LABELS: labels} | ({} if digests is None else {DIGESTS: digests[picks]}),
        stop=stop,
    )
    order = in_order(len(phi))
    blocks = zip(phi.batches(order, arithmetic.device), labels.split(len(order[0])), strict=True)
    on_device = ((block, classes.to(block.device)) for block, classes in blocks)
    return accumulate(on_device, data.classes, data.fingerprint)


def measured_features(
    cache: FeatureCache, module_id: str, fingerprint: str
) -> MeasuredFeatures | None:
    """What `measure` cached of a module's features on the data of a fingerprint, mapped.

    No data set is loaded and no module is run. None where nothing was measured with this cache,
    or it has been evicted since: measure again.
    """
    train, validation = (
        cache.find(_key(module_id, fingerprint, name)) for name in ("train", "validation")
    )
    if train is None or validation is None:
        return None
    return MeasuredFeatures(
        train[VALUES],
        train[LABELS],
        validation[VALUES],
        validation[LABELS],
        train.get(DIGESTS),
        validation.get(DIGESTS),
    )


def held_out(features: MeasuredFeatures, borrowed: int) -> Tensor:
    """Which of the measured validation examples nobody was trained on as part of this data set.

    Not those that the set borrows from its training part, which all are measured, after the others;
    nor copies of measured training examples.

    Args:
        features: of the data.
        borrowed: `DatasetInfo.n_borrowed` of the data.

    Returns:
        bool [n].
    """
    count = len(features.validation_labels)
    apart = torch.arange(count) < count - borrowed
    if features.train_digests is not None and features.validation_digests is not None:
        apart &= ~torch.isin(features.validation_digests, features.train_digests)
    return apart


def held_out_moments(
    cache: FeatureCache, found: ModuleMoments, data: DatasetInfo
) -> ClassMoments | None:
    """Class moments of a module's measured validation examples that are `held_out`; of none, maybe.

    Args:
        cache: of the features, by which a data set that borrows examples tells those apart.
        found: the module's moments on the data.
        data: what is known of them.

    Returns:
        None where these features have been evicted: measure again.
    """
    if not data.n_borrowed:
        return found.validation
    features = measured_features(cache, found.module_id, data.fingerprint)
    if features is None:
        return None
    labels = features.validation_labels.clone()
    labels[~held_out(features, data.n_borrowed)] = -1
    return accumulate([(features.validation, labels)], data.classes, data.fingerprint)


def _key(module_id: str, fingerprint: str, split: str) -> FeatureKey:
    # φ is float32 whichever format the chain ran in, and differs by rounding only.
    return FeatureKey(module_id, fingerprint, split, "measured", "float32")


def _dimension(extractor: FeatureExtractor, gives: tuple[int, ...], device: torch.device) -> int:
    example = torch.zeros(1, *gives, device=device)
    return extractor.kernel.feature_map(example, extractor.centres).shape[1]


def pick(labels: Tensor, data: Dataset, split: str, limit: int) -> Tensor:
    """Choose examples by the data alone, the same for every module.

    Args:
        labels: int64 [N], of the split.
        data: names the classes and the fingerprint that seed the choice.
        split: its name.
        limit: examples of each class, at most.

    Returns:
        int64 [n], indices in ascending order.
    """
    picks = []
    for number, name in enumerate(data.classes):
        rows = (labels == number).nonzero().flatten()
        generator = generator_for("measured", data.fingerprint, split, name)
        picks.append(rows[torch.randperm(len(rows), generator=generator)[:limit]])
    return torch.cat(picks).sort().values
