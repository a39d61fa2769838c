"""Kernels that compare a module's outputs, and the feature map that the next layer takes.

Every kernel but `gaussian` is k(u, v) = ⟨φ(u), φ(v)⟩ of unit rows φ; so its values are bounded
by `k_min` and `k_max`, which are the ideal values of a different and of a same pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from modkernel.errors import InterfaceError, ObjectiveError
from modkernel.lookup import lookup
from modkernel.spec import KernelSpec, Shape

__all__ = ["JOINED", "KERNELS", "Kernel", "at_least_float32", "fitting", "make_kernel", "unit_rows"]

AUTO = "auto"
"""Name of a kernel that follows the shape of what it compares; only plans know that shape."""
JOINED = "joined"
"""Name of the kernel on the features of several modules side by side: their inner product, which is
the sum of those modules' kernels. Nobody chooses it: it is no entry of `KERNELS`."""
SMALLEST_NORM = 1e-12
"""Rows are divided by no less than this, so that an all-zero row stays zero and finite."""


@dataclass(frozen=True)
class Kernel:
    """A kernel on rows of features; made by `make_kernel`.

    All computation is in float32, or in float64 when given float64, never under autocast.

    Attributes:
        name: name in `KERNELS`.
        k_min: least value; the ideal of a different pair.
        k_max: greatest value; the ideal of a same pair.
        activate: φ before normalisation, [N, ...] to [N, ...]; None where φ is not finite.
        sigma: width of the gaussian kernel, in units of the features.
        joined: whether φ is taken as it is: it is several modules' already.
    """

    name: str
    k_min: float
    k_max: float
    activate: Callable[[Tensor], Tensor] | None
    sigma: float = 1.0
    joined: bool = False

    @property
    def has_features(self) -> bool:
        """Whether φ(h) has finitely many columns: all kernels but `gaussian`."""
        return self.activate is not None

    def features(self, h: Tensor) -> Tensor:
        """φ(h) as unit rows; zero rows stay zero and send no gradient back.

        Rows that are joined already are given as they are.

        Args:
            h: a module's output, [N, ...] ([N, C, H, W] for `relu_avgpool`).

        Returns:
            [N, d], float32 or float64.

        Raises:
            ObjectiveError: the kernel has no finite features.
            InterfaceError: h has a shape that the kernel cannot take.
        """
        if self.activate is None:
            raise ObjectiveError(
                f"Kernel '{self.name}' has no finite features: use gram(a, b), "
                "feature_map(h, centres), or a kernel with features (tanh, sigmoid, relu, "
                "relu_avgpool)."
            )
        _require_batch(h)
        with torch.autocast(h.device.type, enabled=False):
            rows = self.activate(at_least_float32(h)).flatten(1)
            return rows if self.joined else unit_rows(rows)

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        """Kernel values of all rows of a with all rows of b.

        Args:
            a: [N, ...].
            b: [M, ...]; pass the same tensor twice for the kernel matrix of a batch.

        Returns:
            [N, M], float32 or float64.

        Raises:
            InterfaceError: a or b has a shape that the kernel cannot take.
        """
        _require_batch(a)
        _require_batch(b)
        with torch.autocast(a.device.type, enabled=False):
            if not self.has_features:
                return _gaussian(at_least_float32(a), at_least_float32(b), self.sigma)
            rows = self.features(a)
            return rows @ (rows if b is a else self.features(b)).T

    def feature_map(self, h: Tensor, centres: Tensor | None = None) -> Tensor:
        """What an output module takes: φ(h), or k(h, centres) where φ is not finite.

        Args:
            h: a module's output, [N, ...].
            centres: [M, ...] rows that a `gaussian` output module holds; others take none.

        Returns:
            [N, d]; [N, M] for `gaussian`.

        Raises:
            InterfaceError: centres are missing or not wanted, or h has an unfit shape.
        """
        if self.has_features == (centres is not None):
            raise InterfaceError(
                f"Kernel '{self.name}' takes {'no centres' if self.has_features else 'centres'}: "
                "only 'gaussian' is evaluated against centres, and it needs them."
            )
        return self.features(h) if centres is None else self.gram(h, centres)


def make_kernel(spec: KernelSpec) -> Kernel:
    """Return the kernel that a spec describes.

    >>> kernel = make_kernel(KernelSpec(name="relu"))
    >>> h = torch.tensor([[3.0, 4.0], [5.0, -1.0]])
    >>> kernel.features(h).tolist()  # ReLU, as rows of length 1
    [[0.6000000238418579, 0.800000011920929], [1.0, 0.0]]
    >>> kernel.gram(h, h).shape, kernel.k_min, kernel.k_max
    (torch.Size([2, 2]), 0.0, 1.0)

    Raises:
        UnknownNameError: no kernel has that name.
        ObjectiveError: a gaussian kernel without a sigma, which `fitting` gives it.
    """
    if spec.name == JOINED:
        return Kernel(JOINED, -math.inf, math.inf, lambda rows: rows, joined=True)
    return lookup(KERNELS, spec.name, "kernel")(spec)


def fitting(spec: KernelSpec, gives: Shape) -> KernelSpec:
    """A kernel's spec with a name in place of 'auto', and with a number for its sigma.

    A gaussian kernel's default is √d of the d values of an output. Modules end in batch norms, so
    ‖u - v‖² is some 2d: k is e⁻¹ then, where at a fixed sigma k and its gradient would vanish.

    Args:
        spec: what is asked for.
        gives: shape of one output of the module: [C, H, W] or [d].
    """
    name, sigma = spec.name, spec.sigma
    if name == AUTO:
        name = "relu_avgpool" if len(gives) == 3 else "relu"
    if sigma is None:
        sigma = math.sqrt(math.prod(gives)) if name == "gaussian" else 1.0
    return spec.changed(name=name, sigma=sigma)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float64 if it is that, else in float32."""
    return x if x.dtype == torch.float64 else x.float()


def unit_rows(rows: Tensor) -> Tensor:
    """Divide each row of [N, d] by max(norm, 1e-12); rows below that send no gradient back."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit = rows / norms.clamp_min(SMALLEST_NORM)
    # The exact gradient of a zero row is 1e12 times what comes in: one such row wrecks the weights.
    return torch.where(norms < SMALLEST_NORM, unit.detach(), unit)


def _require_batch(h: Tensor) -> None:
    if h.ndim < 2:
        raise InterfaceError(
            f"A kernel takes a batch of rows [N, ...], not a tensor of shape {list(h.shape)}: "
            "add the batch dimension."
        )


def _relu_avgpool(h: Tensor, pool: int | None) -> Tensor:
    """ReLU and means over squares of `pool` pixels a side, or over whole maps, of [N, C, H, W]."""
    if h.ndim != 4:
        raise InterfaceError(
            f"Kernel 'relu_avgpool' takes maps [N, C, H, W], not {list(h.shape)}: "
            "use kernel 'relu' for vectors."
        )
    if pool is None:
        return h.relu().mean((2, 3))
    if pool > min(h.shape[2:]):
        raise InterfaceError(
            f"Kernel 'relu_avgpool' cannot pool maps of {h.shape[2]} x {h.shape[3]} pixels by "
            f"{pool}: use a pool of at most {min(h.shape[2:])}, or leave it out for the whole map."
        )
    # ceil_mode: no pixel is left out of the kernel where the side is not a multiple of the pool.
    return functional.avg_pool2d(h.relu(), pool, ceil_mode=True)


def _gaussian(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    """exp(-‖u - v‖² / 2σ²) of the rows of [N, ...] and [M, ...], as [N, M]."""
    a, b = a.flatten(1), b.flatten(1)
    # Distances do not depend on the origin, and ‖u‖² + ‖v‖² - 2⟨u, v⟩ loses fewest digits near it.
    origin = b.detach().mean(0)
    a, b = a - origin, b - origin
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)
    return (squares.clamp_min(0) / (-2 * sigma**2)).exp()


def _sigma_of(spec: KernelSpec) -> float:
    if spec.sigma is None:
        raise ObjectiveError(
            "Kernel 'gaussian' needs a sigma here: give one, such as the square root of the number "
            "of values of a module's output, which is what plans take."
        )
    return spec.sigma


KERNELS: Mapping[str, Callable[[KernelSpec], Kernel]] = {
    "tanh": lambda spec: Kernel("tanh", -1.0, 1.0, torch.tanh),
    "sigmoid": lambda spec: Kernel("sigmoid", 0.0, 1.0, torch.sigmoid),
    "relu": lambda spec: Kernel("relu", 0.0, 1.0, torch.relu),
    "relu_avgpool": lambda spec: Kernel(
        "relu_avgpool", 0.0, 1.0, partial(_relu_avgpool, pool=spec.pool)
    ),
    "gaussian": lambda spec: Kernel("gaussian", 0.0, 1.0, None, _sigma_of(spec)),
}
"""Name to the function that makes the kernel out of its spec."""
