"""How far examples lie from a module's data: by its definition, and on data that is and is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from modkernel.errors import DataError, InterfaceError, MomentsError
from modkernel.kernels import make_kernel
from modkernel.modules.network import assemble
from modkernel.reuse.answer import answering
from modkernel.reuse.distance import SHRINKAGE, distance_from
from modkernel.reuse.moments import ModuleMoments, accumulate
from modkernel.spec import KernelSpec
from tests.modkernel.helpers.stored_examples import PREPROCESSING, store_hidden, store_output

NAMES = tuple("0123456789")


def moments_of(train: Tensor, y: Tensor, held: Tensor, z: Tensor) -> ModuleMoments:
    parts = (accumulate([(phi, labels)], NAMES, "f") for phi, labels in ((train, y), (held, z)))
    return ModuleMoments("0" * 64, *parts, seconds=1.0)


@pytest.mark.parametrize("held_out", [40, 5])
def test_it_is_its_definition(held_out: int) -> None:
    """Example by example, from the features themselves; class 3 has no example at all."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (100,), generator=generator)
    z = torch.randint(0, 3, (held_out,), generator=generator)
    shift = 3 * torch.randn(3, 6, generator=generator)
    train = torch.randn(100, 6, generator=generator) * torch.arange(1, 7) + shift[y]
    held = 2 * torch.randn(held_out, 6, generator=generator) + shift[z]
    asked = torch.randn(9, 6, generator=generator) * 5

    means = [train[y == c].double().mean(0) for c in range(3)]
    centred = [(x, means[c]) for x, c in zip(train.double(), y, strict=True)]
    within = sum(torch.outer(x - m, x - m) for x, m in centred) / 100
    p = torch.linalg.inv(within + SHRINKAGE * within.trace() / 6 * torch.eye(6))
    own = [(x, means[c]) for x, c in zip(held.double(), z, strict=True)]
    own += centred if held_out < 20 else []
    unit = sum((x - m) @ p @ (x - m) for x, m in own) / len(own)
    expected = [
        min(float((x - m) @ p @ (x - m) / unit) ** 0.5 for m in means) for x in asked.double()
    ]
    found = distance_from(moments_of(train, y, held, z))(asked)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_digits_are_near_and_other_pictures_far() -> None:
    """Features of one random layer: what they are told apart by is in the digits alone."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
    y = torch.tensor(digits.target)
    weights = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    relu = make_kernel(KernelSpec(name="relu"))

    def phi(pictures: Tensor) -> Tensor:
        return relu.features(pictures @ weights)

    distance = distance_from(moments_of(phi(x[:1200]), y[:1200], phi(x[1200:1400]), y[1200:1400]))
    own = distance(phi(x[1400:]))
    assert 0.5 < own.median() < 1.5
    for d in (1.5, 2, 3):  # Chebyshev: unseen digits are not further than is said.
        assert (own >= d).double().mean() <= 1 / d**2
    noise = torch.rand(200, 64, generator=torch.Generator().manual_seed(1))
    shuffled = x[1400:][:, torch.randperm(64, generator=torch.Generator().manual_seed(2))]
    for other in (noise, 1 - x[1400:], shuffled, torch.ones(1, 64), torch.zeros(1, 64)):
        assert distance(phi(other)).median() > own.quantile(0.99)


def test_classes_of_equal_features_have_no_unit() -> None:
    x, y = torch.eye(10), torch.arange(10)
    with pytest.raises(MomentsError, match="no distance to them has a unit"):
        distance_from(moments_of(x, y, x, y))


@pytest.mark.parametrize("noise", [1e-8, 1e-7, 1e-6])
@pytest.mark.parametrize("dimension", [16, 512])
def test_features_that_differ_by_rounding_alone_have_no_unit(dimension: int, noise: float) -> None:
    """Float32 rows of length one, all but equal within each class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    centres = torch.rand(3, dimension, generator=generator)
    rows = centres[y] * (1 + noise * torch.randn(300, dimension, generator=generator))
    phi = rows / rows.norm(dim=1, keepdim=True)
    with pytest.raises(MomentsError, match="no distance to them has a unit"):
        distance_from(moments_of(phi[:240], y[:240], phi[240:], y[240:]))


@pytest.mark.parametrize("noise", [3e-5, 1e-3])
def test_features_that_vary_little_have_a_unit(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    rows = torch.rand(3, 64, generator=generator)[y]
    rows = rows * (1 + noise * torch.randn(300, 64, generator=generator))
    phi = rows / rows.norm(dim=1, keepdim=True)
    distance = distance_from(moments_of(phi[:240], y[:240], phi[240:], y[240:]))
    assert float(distance(phi[240:]).square().mean().sqrt()) == pytest.approx(1, rel=1e-3)


def test_second_moments_that_no_examples_have_give_no_unit() -> None:
    """An import refuses them; older ones may be stored."""
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    good = moments_of(x, y, x, y)
    products = good.train.products.clone()
    products[0, 0, 1] = products[0, 1, 0] = 1e3
    bad = replace(good, train=replace(good.train, products=products))
    with pytest.raises(MomentsError, match="no distance to them has a unit"):
        distance_from(bad)


def test_answers(tmp_path) -> None:
    one, _ = store_hidden(tmp_path / "1", ("stem", "layer1.0"), (1, 8, 8), PREPROCESSING.id)
    out, _ = store_output(tmp_path / "2", (2, 8, 8), one.id)
    network = assemble([one, out])
    raw = torch.randint(
        0, 256, (300, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    phi = make_kernel(one.spec.interface.kernel).features(network.features(raw))
    labels = torch.arange(300) % 3
    moments = ModuleMoments(
        one.id,
        accumulate([(phi, labels)], out.spec.classes, "f"),
        accumulate([(phi, labels)], out.spec.classes, "f"),
        seconds=1.0,
    )
    answers = answering(network, moments)(raw)
    rows = network.predict(raw)
    assert [list(one["probabilities"].values()) for one in answers] == rows.tolist()
    assert [one["label"] for one in answers] == [
        out.spec.classes[best] for best in rows.argmax(1).tolist()
    ]
    assert answers[0]["probability"] == float(rows[0].max())
    far = torch.tensor([one["distance"] for one in answers], dtype=torch.float64)
    torch.testing.assert_close(far, distance_from(moments)(phi))
    assert {one["distance"] for one in answering(network, None)(raw)} == {None}
    with pytest.raises(InterfaceError, match="no output module"):
        answering(assemble([one]), None)
    with pytest.raises(MomentsError, match="use that one's"):
        answering(network, ModuleMoments("1" * 64, moments.train, moments.train, 1.0))
    network.output.bias[0] = float("nan")
    with pytest.raises(DataError, match="too large to compute with"):
        answering(network, None)(raw)
