"""What a score has to beat: the modules ranked once for all targets, by what they are."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from modkernel.flows.study.scoring import Scored
from modkernel.lookup import trusting
from modkernel.modules.cost import hidden_cost
from modkernel.registry import ModuleRecord, Settings
from modkernel.spec import HiddenModuleSpec

STATIC = ("static_size", "static_depth", "static_data")
"""By parameters, by layers with weights, by training examples; larger is taken to be better."""


def static_rankings(
    records: Sequence[ModuleRecord], examples: Sequence[int], targets: int, settings: Settings
) -> dict[str, Scored]:
    """Rankings that look at no target, [source, target], in the order of `STATIC`.

    By model size alone, a list reached a weighted τ of 0.91 where LogME had 0.57 on the usual
    benchmark (arXiv 2510.06448).

    Args:
        records: the sources.
        examples: that each was trained on.
        targets: how many there are.
        settings: name the packages whose backbones may be made.
    """
    began = time.perf_counter()
    with trusting(settings.trusted_packages):
        costs = [
            hidden_cost(record.id, record.spec)
            for record in records
            if isinstance(record.spec, HiddenModuleSpec)
        ]
    seconds = time.perf_counter() - began
    columns = [cost.parameters for cost in costs], [cost.layers for cost in costs], examples
    return {
        name: Scored(np.tile(np.array(column, float)[:, None], targets), seconds)
        for name, column in zip(STATIC, columns, strict=True)
    }
