"""The projection head that may stand on a hidden module while it is trained."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from modkernel.system.seeding import seeded


def build_projection(takes_features: int, units: int, seed: int) -> nn.Sequential:
    """Two layers, [N, takes_features] -> [N, units], ending in an affine result.

    The head takes what the kernel pooled and flattened, and is thrown away after training.
    Initial weights depend on the seed alone; global random state is left as it was.
    """
    with seeded(seed, "projection"):
        return nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(takes_features, units),
                act=nn.ReLU(),
                linear2=nn.Linear(units, units),
            )
        )
