"""Train one hidden module from pairs, on a frozen upstream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modkernel.backbones import build_hidden
from modkernel.control import UNWATCHED, Control
from modkernel.data.augment import augment
from modkernel.errors import PairError, SpecError
from modkernel.features.cache import FeatureCache
from modkernel.features.compute import compute_features, gpu_share, keeping
from modkernel.features.extractor import frozen_upstream
from modkernel.features.sources import Examples, View
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.projection import build_projection
from modkernel.modules.stored import StoredModule
from modkernel.objectives.table import make_objective
from modkernel.pairs.source import PairSource
from modkernel.spec import HiddenModuleSpec, ModuleSpec
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training.loop import minimise
from modkernel.training.report import TrainReport


@dataclass(frozen=True)
class PairData:
    """Examples, and what is known of their pairs: all that a hidden module is trained on."""

    examples: Examples
    pairs: PairSource
    """Over the indices of `examples`."""
    split: str | None = None
    """The split of the data set that the examples are, whole and in order; none for any other
    choice, of which nothing is kept in a cache."""

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, PairSource):
            raise PairError(
                f"Hidden modules are trained on pairs, not on {type(self.pairs).__name__}: "
                "make a PairSource with PairSource.from_classes or PairSource.from_pairs."
            )
        if self.pairs.n_examples != len(self.examples):
            raise PairError(
                f"Pairs of {self.pairs.n_examples} examples do not belong to {len(self.examples)} "
                "examples: make the PairSource for these very examples."
            )


class Judged(nn.Module):
    """A hidden module under training, with its projection head if it has one."""

    def __init__(self, module: nn.Module, head: nn.Module | None, kernel: Kernel) -> None:
        super().__init__()
        self.module, self.head, self.kernel = module, head, kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map module inputs [B, ...] to what the kernel compares, [B, ...]."""
        h: Tensor = self.module(x)
        return h if self.head is None else self.head(_flat(self.kernel, h))


def _flat(kernel: Kernel, h: Tensor) -> Tensor:
    return kernel.features(h) if kernel.has_features else h.flatten(1)


def _judged(spec: HiddenModuleSpec) -> tuple[Judged, Kernel]:
    module = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, spec.seed)
    kernel = make_kernel(spec.interface.kernel)
    units = spec.hidden.projection
    if units is None:
        return Judged(module, None, kernel), kernel
    width = _flat(kernel, torch.zeros(1, *spec.interface.gives)).shape[1]
    head = build_projection(width, units, spec.seed)
    # The head gives a vector, which has no map left to pool over.
    pooled = spec.interface.kernel.name == "relu_avgpool"
    judge = spec.interface.kernel.model_copy(update={"name": "relu"} if pooled else {})
    return Judged(module, head, kernel), make_kernel(judge)


def train_hidden(
    spec: ModuleSpec,
    train: PairData,
    validation: PairData,
    upstream: Sequence[StoredModule] = (),
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
    cache: FeatureCache | None = None,
) -> tuple[dict[str, Tensor], TrainReport]:
    """Train the hidden module that `spec` describes, by maximising its proxy objective.

    The upstream stays bitwise as it is, and its output is computed once: with a cache, once for
    all modules that are trained on it. Only fresh random views need it in every step; of a
    recipe's fixed `views`, epoch e is trained on number e mod views. The weights kept are those of
    the epoch with the best objective on `validation`.

    Args:
        spec: of kind `hidden`.
        train: raw examples and their pairs.
        validation: other examples and pairs, never trained on.
        upstream: stored modules below this one, first to last.
        arithmetic: device and number format.
        control: checkpoints, progress, stop.
        cache: keeps the upstream's output of whole splits for whoever trains on it next.

    Returns:
        The module's state dict on the CPU, and the report.

    Raises:
        InterfaceError: `upstream` is not the chain that the spec names.
        PairError: no same or no different pair in either part.
        NonFiniteError, StoppedError: see `minimise`.
        SpecError: not the spec of a hidden module, or fixed views without an upstream.
        SettingsError: see `compute_features`.
    """
    if spec.kind != "hidden":
        raise SpecError("train_hidden takes the spec of a hidden module: use train_output.")
    recipe = spec.hidden.recipe
    if recipe.views is not None and not upstream:
        raise SpecError("Fixed views are for modules on stored ones: leave 'views' out.")
    judged, kernel = _judged(spec)
    objective = make_objective(spec.hidden.objective, kernel)
    for part in (train, validation):
        part.pairs.check(objective.needs_same)
    chain = arithmetic.place(frozen_upstream(spec, upstream))
    arithmetic.place(judged)
    views = range(min(recipe.views or 0, recipe.epochs))
    # Without one limit for all, the first views would leave training no memory.
    near = gpu_share(arithmetic.device, len(views) + 1) if views else None

    def compute(data: PairData, view: View | None = None) -> Examples:
        if not upstream:
            return data.examples
        transform = "plain" if view is None else view.transform
        kept = keeping(cache, spec, data.split, arithmetic, transform)
        return compute_features(
            chain, view or data.examples, arithmetic, kept=kept, near=near, stop=control.stop
        )

    # What fresh views give is not kept: no other epoch has the same.
    fresh = recipe.augments and recipe.views is None
    sources: list[Examples]
    if views:
        sources = [compute(train, View(train.examples, recipe, number)) for number in views]
    else:
        sources = [train.examples if fresh else compute(train)]
    if validation.examples is train.examples and not recipe.augments:
        held_out = sources[0]  # The two parts of a pair list are over the same examples.
    else:
        held_out = compute(validation)

    def prepare(raw: Tensor, done: bool) -> Tensor:
        with torch.no_grad(), arithmetic.autocast():
            return arithmetic.arrange(raw if done else chain(arithmetic.arrange(raw)))

    def value(x: Tensor, indices: Tensor, pairs: PairSource) -> Tensor:
        with arithmetic.autocast():
            z = judged(x)
        z = z.float()
        return objective(kernel.gram(z, z), pairs.for_batch(indices, z.device))

    def loss(raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        if fresh:
            raw = augment(raw, recipe.crop_padding, recipe.flip, generator)
        x = prepare(raw, done=bool(upstream) and not fresh)
        return -value(x, indices, train.pairs)

    fixed = list(
        validation.pairs.batches(
            recipe.batch_size, generator_for(spec.seed, "validation"), drop_last=True
        )
    )

    @torch.no_grad()
    def validate() -> float:
        values = [
            value(prepare(raw, done=bool(upstream)), indices, validation.pairs)
            for indices, raw in zip(fixed, held_out.batches(fixed, arithmetic.device), strict=True)
        ]
        return float(torch.stack(values).mean())

    def load(order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        return sources[epoch % len(sources)].batches(order, arithmetic.device)

    result = minimise(
        judged,
        loss,
        batches=lambda generator: list(
            train.pairs.batches(recipe.batch_size, generator, drop_last=True)
        ),
        load=load,
        recipe=recipe,
        seed=spec.seed,
        validate=validate,
        control=control,
    )
    weights = {
        name.removeprefix("module."): value.cpu().contiguous()
        for name, value in result.weights.items()
        if name.startswith("module.")
    }
    report = TrainReport(
        recipe_digest=spec.digest(),
        history=result.history,
        best_epoch=result.best_epoch,
        seconds=result.seconds,
        device=str(arithmetic.device),
        precision=arithmetic.name,
        threads=arithmetic.threads,
        examples=train.pairs.n_examples,
        parameters=sum(p.numel() for p in judged.module.parameters()),
    )
    return weights, report
