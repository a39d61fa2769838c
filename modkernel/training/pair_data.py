"""What a hidden module is trained on: examples with their pairs, as they are or from below it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from modkernel.control import Control
from modkernel.data.sources import ExampleSource
from modkernel.errors import PairError
from modkernel.features.cache import FeatureCache
from modkernel.features.compute import cache_entry, compute_features, gpu_share
from modkernel.features.sources import View
from modkernel.pairs.source import PairSource
from modkernel.spec import ModuleSpec, Recipe
from modkernel.system.precision import Arithmetic


@dataclass(frozen=True)
class PairData:
    """Examples, and what is known of their pairs: all that a hidden module is trained on."""

    examples: ExampleSource
    pairs: PairSource
    """Over the indices of `examples`."""
    split: str | None = None
    """The split of the data set that the examples are, whole and in order; none for any other
    choice, which no cache is used for."""

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, PairSource):
            raise PairError(
                f"Hidden modules are trained on pairs, not on {type(self.pairs).__name__}: "
                "make a PairSource with PairSource.from_classes, from_pairs or from_views."
            )
        if self.pairs.n_examples != len(self.examples):
            raise PairError(
                f"Pairs of {self.pairs.n_examples} examples do not belong to {len(self.examples)} "
                "examples: make the PairSource for exactly these examples."
            )


@dataclass(frozen=True, eq=False)
class Inputs:
    """Where a hidden module's inputs come from: raw examples, or outputs of the modules below.

    Attributes:
        train: sources of the training examples; epoch e takes number e mod their number.
        validation: the validation examples.
        train_computed: whether `train` are outputs of the modules below, else raw examples.
        validation_computed: the same of `validation`.
    """

    train: tuple[ExampleSource, ...]
    validation: ExampleSource
    train_computed: bool
    validation_computed: bool


def compute_inputs(
    spec: ModuleSpec,
    recipe: Recipe,
    train: PairData,
    validation: PairData,
    chain: nn.Module,
    arithmetic: Arithmetic,
    control: Control,
    cache: FeatureCache | None,
) -> Inputs:
    """Outputs of the modules below, of all that is not drawn afresh in every epoch."""
    views = range(min(recipe.views or 0, recipe.epochs))
    # Without one limit for all, the first views would leave training no memory.
    limit = gpu_share(arithmetic.device, len(views) + 1) if views else None

    def compute(data: PairData, view: View | None = None) -> ExampleSource:
        transform = "plain" if view is None else view.transform
        entry = cache_entry(cache, spec, data.split, arithmetic, transform)
        source = view or data.examples
        return compute_features(
            chain, source, arithmetic, entry=entry, gpu_limit=limit, stop=control.stop
        )

    # Outputs of fresh views serve one step only: no other epoch has the same.
    fresh = recipe.augments and not views
    if fresh:
        return Inputs((train.examples,), compute(validation), False, True)
    if views:
        sources = [compute(train, View(train.examples, recipe, number)) for number in views]
    else:
        sources = [compute(train)]
    # The two parts of a pair list are over the same examples.
    shared = validation.examples is train.examples and not views
    return Inputs(tuple(sources), sources[0] if shared else compute(validation), True, True)
