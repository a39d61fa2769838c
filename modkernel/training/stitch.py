"""Set a module on one that it was not trained on: fit the map between the two.

Networks that were trained apart compute features that a linear map turns into one another (Bansal,
Nakkiran and Barak, NeurIPS 2021; Maiorca et al., NeurIPS 2023). The map starts as the closed form
that gives UPPER what it takes at home, as nearly as it can, and is then fitted so that UPPER's own
last features come out as they do there: agreement at the cut is not enough for maps from the middle
of a network. No label is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modkernel.control import UNWATCHED, Control
from modkernel.data.sources import ExampleSource
from modkernel.errors import DataError, InterfaceError
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_upstream
from modkernel.features.sources import Features, Picked, in_order
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.stitch import MapOfMaps, MapOfVectors, Stitch, make_map
from modkernel.modules.stored import StoredModule, build_module
from modkernel.spec import Recipe, StitchModuleSpec
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training.loop import minimise
from modkernel.training.report import TrainReport

FEWEST = 20
"""Examples that a map is fitted to, at least; one in ten of them is held out."""


@dataclass(frozen=True, eq=False)
class StitchProblem:
    """How far a stitch's features are from those that UPPER has at home; a `Problem`.

    Attributes:
        model: the stitch, on the device; its map alone has parameters with a gradient.
        kernel: of UPPER: the features are its.
        inputs: what LOWER gives of the examples.
        targets: what UPPER gives of them at home: features [N, d], or its output where the kernel
            has no finite features.
        train: rows that are fitted to, int64 [n].
        held_out: rows that are only looked at, int64 [m].
        recipe: batch size.
        arithmetic: device and number format.
    """

    model: Stitch
    kernel: Kernel
    inputs: Features
    targets: Features
    train: Tensor
    held_out: Tensor
    recipe: Recipe
    arithmetic: Arithmetic

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.train) / self.recipe.batch_size)

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Rows of each step, int64 [B], in random order."""
        order = torch.randperm(len(self.train), generator=generator)
        return list(self.train[order].split(self.recipe.batch_size))

    def load(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """What LOWER gives of the rows, [B, …]."""
        return self.inputs.batches(order, self.arithmetic.device)

    def loss(self, raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the mean likeness of a batch, a scalar."""
        return -self._likeness(raw, indices).mean()

    @torch.no_grad()
    def validate(self) -> float:
        """Mean likeness of the examples that are held out."""
        order = self.held_out.split(self.recipe.batch_size)
        loaded = self.inputs.batches(order, self.arithmetic.device)
        values = [self._likeness(raw, rows) for raw, rows in zip(loaded, order, strict=True)]
        return float(torch.cat(values).double().mean())

    def _likeness(self, raw: Tensor, rows: Tensor) -> Tensor:
        with self.arithmetic.autocast():
            h = self.model(self.arithmetic.arrange(raw))
        (target,) = self.targets.batches([rows], self.arithmetic.device)
        return likeness(self.kernel, h, target)


def likeness(kernel: Kernel, h: Tensor, target: Tensor) -> Tensor:
    """How like UPPER's features are to those that it has at home, [N], 1 where they are the same.

    The kernel's value ⟨φ(h), φ*⟩ between the two; for a gaussian kernel 1 - ‖h - h*‖² / 2σ², its
    first order, whose gradient does not vanish where the two are far apart.

    Args:
        kernel: of UPPER.
        h: what UPPER gives on the map, [N, …].
        target: what `Targets` gave of the same examples at home.
    """
    if kernel.has_features:
        return (kernel.features(h) * target).sum(1)
    return 1 - (h.float().flatten(1) - target).square().sum(1) / (2 * kernel.sigma**2)


class Targets(nn.Module):
    """What `likeness` compares: features of what a chain gives, or that where there are none."""

    def __init__(self, chain: nn.Module, kernel: Kernel) -> None:
        super().__init__()
        self.chain, self.kernel = chain, kernel

    def forward(self, x: Tensor) -> Tensor:
        """What the chain takes, [N, …], to [N, d] in float32."""
        h = self.chain(x)
        return self.kernel.features(h) if self.kernel.has_features else h.float().flatten(1)


@torch.no_grad()
def closed_form(
    map_: MapOfMaps | MapOfVectors,
    x: ExampleSource,
    y: ExampleSource,
    ridge: float,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The linear map with a bias that gives UPPER what it takes, pixel by pixel for maps.

    W, b = argmin Σ‖W r + b - s‖² + ridge · n · v · ‖W‖², r and s the rows of x and y, n their
    number and v the mean variance of r's columns. One streaming pass, in float64.

    Args:
        map_: what a row is.
        x: what LOWER gives.
        y: what UPPER takes at home.
        ridge: penalty.
        device: where sums are taken.

    Returns:
        W [d, c] and b [d], float64 on the CPU.
    """
    order = in_order(len(x))
    sums: list[Tensor] | None = None
    count = 0
    for left, right in zip(x.batches(order, device), y.batches(order, device), strict=True):
        r = map_.rows(left.double())
        s = right.double().movedim(1, -1).flatten(0, -2)
        parts = [r.sum(0), s.sum(0), r.T @ r, r.T @ s]
        sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
        count += len(r)
    assert sums is not None
    sum_r, sum_s, rr, rs = (total.cpu() / count for total in sums)
    covariance = rr - torch.outer(sum_r, sum_r)
    penalty = ridge * covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    inner = covariance + penalty * torch.eye(len(covariance), dtype=torch.float64)
    weight = torch.linalg.solve(inner, rs - torch.outer(sum_r, sum_s)).T
    return weight, sum_s - weight @ sum_r


def fit_stitch(
    spec: StitchModuleSpec,
    examples: ExampleSource,
    lower: Sequence[StoredModule],
    upper: Sequence[StoredModule],
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
) -> tuple[dict[str, Tensor], TrainReport]:
    """Fit the stitch that `spec` describes, on unlabelled examples.

    The weights that are returned are those of the epoch whose likeness (see `likeness`) on the
    held-out part of the examples is best.

    Args:
        spec: of kind `stitch`.
        examples: raw training examples.
        lower: the chain that it stands on, LOWER last.
        upper: the chain of the module that it has a copy of, UPPER last.
        arithmetic: device and number format.
        control: checkpoints (a folder of its own for each spec), progress, stop.

    Returns:
        The state dict on the CPU, UPPER's weights included, and the report.

    Raises:
        InterfaceError: the chains are not those that the spec names, or there is no map.
        DataError: too few examples.
        NonFiniteError, StoppedError, ArtifactError: see `minimise`.
        SettingsError: there is no room for what LOWER gives, see `compute_features`.
    """
    if not upper or upper[-1].id != spec.upper_id:
        raise InterfaceError(
            f"The stitch has a copy of module {spec.upper_id[:12]}: pass the whole chain of that "
            "module, in order."
        )
    rows = fitted_rows(spec, len(examples))
    picked = Picked(examples, rows)

    def outputs(chain: nn.Module) -> Features:
        placed = arithmetic.place(chain)
        return compute_features(placed, picked, arithmetic, stop=control.stop)

    x, y = (
        outputs(frozen_upstream(spec, lower)),
        outputs(frozen_upstream(upper[-1].spec, upper[:-1])),
    )
    copy = build_module(upper[-1])
    kernel = make_kernel(spec.interface.kernel)
    at_home = Targets(arithmetic.place(copy), kernel).eval()
    home = compute_features(at_home, y, arithmetic, stop=control.stop)
    held = min(max(1, round(spec.stitch.held_out * len(rows))), len(rows) - 1)
    order = torch.randperm(len(rows), generator=generator_for(spec.seed, "held out of the stitch"))
    held_out, train = order[:held], order[held:]
    map_ = make_map(spec.interface.takes, spec.upper.interface.takes)
    # Not of those that are held out: their likeness would be that of examples which the map knows.
    fitted, wanted = Picked(x, train), Picked(y, train)
    map_.start(*closed_form(map_, fitted, wanted, spec.stitch.ridge, arithmetic.device))
    model = Stitch(map_, copy)
    arithmetic.place(model)
    problem = StitchProblem(
        model=model,
        kernel=kernel,
        inputs=x,
        targets=home,
        train=train,
        held_out=held_out,
        recipe=spec.recipe,
        arithmetic=arithmetic,
    )
    result = minimise(
        problem, recipe=spec.recipe, seed=spec.seed, digest=spec.digest(), control=control
    )
    report = result.report(spec.digest(), arithmetic, len(rows), map_)
    return {name: value.cpu().contiguous() for name, value in result.weights.items()}, report


def fitted_rows(spec: StitchModuleSpec, count: int) -> Tensor:
    """Which of `count` training examples a stitch is fitted to, int64, in ascending order.

    Raises:
        DataError: there are too few.
    """
    if count < FEWEST:
        raise DataError(
            f"A stitch is fitted to at least {FEWEST} training examples, but there are {count}: "
            "give more data; they need no labels."
        )
    drawn = torch.randperm(count, generator=generator_for(spec.seed, "examples of the stitch"))
    return drawn[: spec.stitch.examples].sort().values
