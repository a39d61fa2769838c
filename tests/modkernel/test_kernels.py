"""Kernels against explicit loops over pairs, their bounds, and rows that have nothing in them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from modkernel.errors import InterfaceError, ObjectiveError, UnknownNameError
from modkernel.kernels import KERNELS, Kernel, make_kernel
from modkernel.spec import KernelSpec

SPECS = {
    "tanh": KernelSpec(name="tanh"),
    "sigmoid": KernelSpec(name="sigmoid"),
    "relu": KernelSpec(name="relu"),
    "relu_avgpool": KernelSpec(name="relu_avgpool", pool=2),
    "relu_avgpool-global": KernelSpec(name="relu_avgpool"),
    "gaussian": KernelSpec(name="gaussian", sigma=1.7),
}
EVERY = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
WITH_FEATURES = pytest.mark.parametrize(
    "spec", [s for s in SPECS.values() if s.name != "gaussian"], ids=[k for k in SPECS][:-1]
)


def some_maps(n: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 4, 5, generator=generator, dtype=torch.float64).to(dtype)


def activation(spec: KernelSpec, example: Tensor) -> list[float]:
    """φ of one example [C, H, W] before normalisation, number by number."""
    c, height, width = example.shape
    if spec.name != "relu_avgpool":
        one = {
            "tanh": math.tanh,
            "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
            "relu": lambda x: max(x, 0.0),
        }[spec.name]
        return [one(x) for x in example.flatten().tolist()]
    step_y, step_x = (spec.pool, spec.pool) if spec.pool else (height, width)
    values = []
    for channel in range(c):
        for top in range(0, height, step_y):
            for left in range(0, width, step_x):
                square = [
                    max(example[channel, y, x].item(), 0.0)
                    for y in range(top, min(top + step_y, height))
                    for x in range(left, min(left + step_x, width))
                ]
                values.append(sum(square) / len(square))
    return values


def value(spec: KernelSpec, u: Tensor, v: Tensor) -> float:
    if spec.name == "gaussian":
        distance = sum((a - b) ** 2 for a, b in zip(u.flatten(), v.flatten(), strict=True))
        return math.exp(-float(distance) / (2 * spec.sigma**2))
    a, b = activation(spec, u), activation(spec, v)
    norms = [max(math.hypot(*x), 1e-12) for x in (a, b)]
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norms[0] * norms[1])


@EVERY
def test_gram_equals_a_loop_over_pairs(spec: KernelSpec) -> None:
    a, b = some_maps(5, seed=0), some_maps(4, seed=1)
    expected = torch.tensor([[value(spec, u, v) for v in b] for u in a], dtype=torch.float64)
    torch.testing.assert_close(make_kernel(spec).gram(a, b), expected, rtol=1e-12, atol=1e-12)


@EVERY
def test_gram_of_one_batch_is_symmetric_with_a_diagonal_of_one(spec: KernelSpec) -> None:
    h = some_maps()
    gram = make_kernel(spec).gram(h, h)
    torch.testing.assert_close(gram, gram.T)
    torch.testing.assert_close(gram.diagonal(), torch.ones(5, dtype=torch.float64))


@WITH_FEATURES
def test_features_are_unit_rows_whose_products_are_the_gram(spec: KernelSpec) -> None:
    kernel, h = make_kernel(spec), some_maps()
    features = kernel.features(h)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(features @ features.T, kernel.gram(h, h))
    assert torch.equal(kernel.feature_map(h), features)


@WITH_FEATURES
def test_a_row_that_the_activation_leaves_empty_stays_zero_and_sends_no_gradient(
    spec: KernelSpec,
) -> None:
    kernel = make_kernel(spec)
    h = some_maps()
    h[1] = {"tanh": 0.0, "sigmoid": -1e4}.get(spec.name, -1.0)
    h[3] = h[2]
    h.requires_grad_()
    gram = kernel.gram(h, h)
    assert torch.equal(gram[1], torch.zeros(5, dtype=torch.float64))
    gram.sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert torch.equal(h.grad[1], torch.zeros_like(h.grad[1]))
    assert h.grad[0].abs().sum() > 0


@EVERY
def test_gradients(spec: KernelSpec) -> None:
    kernel = make_kernel(spec)
    a, b = some_maps(3, seed=2).requires_grad_(), some_maps(2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(kernel.gram, (a, b))
    assert torch.autograd.gradcheck(lambda h: kernel.gram(h, h), (a,))


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(spec: KernelSpec, dtype: torch.dtype) -> None:
    h = some_maps(dtype=dtype)
    kernel = make_kernel(spec)
    gram = kernel.gram(h, h)
    assert gram.dtype == torch.float32
    torch.testing.assert_close(gram, kernel.gram(h.double(), h.double()).float())


@EVERY
def test_autocast_does_not_lower_the_precision(spec: KernelSpec) -> None:
    h = some_maps(dtype=torch.float32)
    kernel = make_kernel(spec)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = kernel.gram(h, h)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, kernel.gram(h, h))


@EVERY
@given(
    arrays("float64", (4, 2, 2, 2), elements=st.floats(-50, 50)),
)
@settings(max_examples=40, deadline=None)
def test_values_stay_within_the_bounds(spec: KernelSpec, rows: object) -> None:
    kernel, h = make_kernel(spec), torch.as_tensor(rows)
    gram = kernel.gram(h, h)
    assert gram.isfinite().all()
    assert gram.min() >= kernel.k_min - 1e-12
    assert gram.max() <= kernel.k_max + 1e-12


@pytest.mark.parametrize("name", KERNELS)
def test_every_bound_of_the_table_is_reached(name: str) -> None:
    kernel = make_kernel(KernelSpec(name=name, pool=1, sigma=1.0))
    big = 1e3
    h = torch.tensor([[big, -big], [-big, big]], dtype=torch.float64)[:, :, None, None]
    gram = kernel.gram(h, h)
    assert gram.max().item() == pytest.approx(kernel.k_max)
    assert gram.min().item() == pytest.approx(kernel.k_min)


def test_gaussian_keeps_its_digits_far_from_the_origin() -> None:
    kernel = make_kernel(SPECS["gaussian"])
    h = some_maps(dtype=torch.float32)
    torch.testing.assert_close(
        kernel.gram(h + 1000, h + 1000), kernel.gram(h, h), rtol=0, atol=1e-3
    )


def test_gaussian_front_takes_centres() -> None:
    kernel = make_kernel(SPECS["gaussian"])
    h, centres = some_maps(4), some_maps(2, seed=1)
    assert torch.equal(kernel.feature_map(h, centres), kernel.gram(h, centres))
    assert kernel.feature_map(h, centres).shape == (4, 2)


def test_pooling_by_a_side_that_is_no_multiple_leaves_no_pixel_out() -> None:
    kernel = make_kernel(KernelSpec(name="relu_avgpool", pool=2))
    h = torch.ones(2, 1, 3, 3)
    h[1, 0, 2, 2] = 5.0
    assert kernel.features(h).shape == (2, 4)
    assert not torch.equal(*kernel.features(h))


def relu_avgpool(pool: int | None = None) -> Kernel:
    return make_kernel(KernelSpec(name="relu_avgpool", pool=pool))


def test_unknown_kernel_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="tanh, sigmoid, relu, relu_avgpool, gaussian"):
        make_kernel(KernelSpec(name="laplace"))


def test_vectors_are_not_pooled() -> None:
    with pytest.raises(InterfaceError, match="use kernel 'relu' for vectors"):
        relu_avgpool().features(torch.ones(2, 3))


def test_maps_smaller_than_the_pool_are_refused() -> None:
    with pytest.raises(InterfaceError, match="at most 3"):
        relu_avgpool(4).features(torch.ones(2, 1, 3, 5))


@EVERY
def test_a_single_row_without_a_batch_is_refused(spec: KernelSpec) -> None:
    with pytest.raises(InterfaceError, match="batch"):
        make_kernel(spec).gram(torch.ones(3), torch.ones(3))


def test_gaussian_has_no_features() -> None:
    kernel = make_kernel(SPECS["gaussian"])
    assert not kernel.has_features
    with pytest.raises(ObjectiveError, match="no finite features"):
        kernel.features(some_maps())


def test_centres_go_with_gaussian_alone() -> None:
    h = some_maps()
    with pytest.raises(InterfaceError, match="takes centres"):
        make_kernel(SPECS["gaussian"]).feature_map(h)
    with pytest.raises(InterfaceError, match="takes no centres"):
        make_kernel(SPECS["tanh"]).feature_map(h, h)
