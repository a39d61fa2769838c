"""Features to take scores of: random, sparse, signed, collapsed and of low rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from modkernel.features.cache import VALUES, FeatureKey
from modkernel.features.measure import DIGESTS, LABELS, MeasuredFeatures
from modkernel.reuse.moments import ClassMoments, accumulate

KINDS = ("random", "relu", "tanh", "collapsed", "deficient")
NAMES = ("cat", "dog", "truck", "ship", "T-shirt/top", "deer")


class Cached:
    """In place of a `FeatureCache`: it has one module's measured features, or none."""

    def __init__(self, kept: MeasuredFeatures | None) -> None:
        self.kept = kept

    def find(self, key: FeatureKey) -> dict[str, Tensor] | None:
        if self.kept is None:
            return None
        train = key.split == "train"
        values, labels, digests = (
            (self.kept.train, self.kept.train_labels, self.kept.train_digests)
            if train
            else (self.kept.validation, self.kept.validation_labels, self.kept.validation_digests)
        )
        return {VALUES: values, LABELS: labels} | ({} if digests is None else {DIGESTS: digests})


def features_of(kind: str, counts: Sequence[int], d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features, float64 [N, d], and labels, shuffled; unit rows but for `random`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centres = normal(len(counts), d)
    x = normal(len(labels), d) + centres[labels]
    match kind:
        case "random":
            return x, labels
        case "relu":
            # About half of the numbers are 0, and one unit is dead.
            x = x.relu()
            x[:, 0] = 0
            x[:, -1] += 0.1
        case "tanh":
            x = x.tanh()
        case "collapsed":
            x = centres[labels]
        case "deficient":
            x = x @ normal(d, 3) @ normal(3, d)
    return F.normalize(x, dim=1), labels


def moments_of(features: Tensor, labels: Tensor, fingerprint: str = "f" * 64) -> ClassMoments:
    return accumulate([(features, labels)], NAMES[: int(labels.max()) + 1], fingerprint)


@st.composite
def cases(draw, kinds: Sequence[str] = KINDS, least: int = 3) -> tuple[Tensor, Tensor]:
    """Features and labels of two to four classes of unequal sizes, n below d and above it."""
    counts = draw(st.lists(st.integers(least, 14), min_size=2, max_size=4))
    d = draw(st.sampled_from([4, 9, 60]))
    return features_of(draw(st.sampled_from(kinds)), counts, d, draw(st.integers(0, 2**31)))
