"""Weights of modules side by side, against a search of the alignment itself with n × n matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modkernel.errors import ScoreError
from modkernel.reuse.weights import aligned_weights

COUNT = 60


@pytest.fixture
def examples() -> tuple[list[Tensor], Tensor]:
    """Unit features of two modules that tell classes apart, one that hardly does, and noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (COUNT,), generator=generator)
    features = []
    for width, apart in ((4, 2.0), (5, 1.0), (6, 0.3), (3, 0.0)):
        centres = apart * torch.randn(3, width, generator=generator)
        rows = centres[labels] + torch.randn(COUNT, width, generator=generator)
        features.append(rows / rows.norm(dim=1, keepdim=True))
    return features, labels


def alignment(weights: Tensor, features: list[Tensor], labels: Tensor) -> float:
    centre = torch.eye(COUNT, dtype=torch.float64) - 1 / COUNT
    wanted = (labels[:, None] == labels).double()
    kernel = sum(
        w * one.double() @ one.double().T for w, one in zip(weights, features, strict=True)
    )
    kernel, wanted = centre @ kernel @ centre, centre @ wanted @ centre
    return float((kernel * wanted).sum() / kernel.norm() / wanted.norm())


def test_no_other_weights_are_aligned_better(examples):
    features, labels = examples
    found = torch.tensor(aligned_weights(features, labels), dtype=torch.float64)
    assert found[3] == 0, "noise gets none"
    torch.testing.assert_close(found[found > 0].mean(), torch.ones((), dtype=torch.float64))
    best = alignment(found, features, labels)
    generator = torch.Generator().manual_seed(1)
    for step in (1.0, 0.1, 0.01, 0.001):
        for _ in range(50):
            change = torch.randn(4, generator=generator, dtype=torch.float64)
            other = (found + step * change).clamp_min(0)
            assert alignment(other, features, labels) <= best + 1e-9
    assert best > alignment(torch.ones(4), features, labels) + 0.05


def test_weights_that_nothing_tells_are_refused(examples):
    features, labels = examples
    with pytest.raises(ScoreError, match="of one class"):
        aligned_weights(features, torch.zeros_like(labels))
    with pytest.raises(ScoreError, match="No module tells the classes apart"):
        aligned_weights([torch.ones(COUNT, 2)], labels)
