"""Train one hidden module from pairs, on a frozen upstream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from modkernel.control import UNWATCHED, Control
from modkernel.data.augment import draw_moves, moved
from modkernel.data.views import check_views, draw_views, viewed
from modkernel.errors import PairError, SpecError
from modkernel.features.cache import FeatureCache
from modkernel.features.extractor import frozen_upstream
from modkernel.kernels import Kernel
from modkernel.modules.stored import StoredModule, stored_weights
from modkernel.objectives.table import ProxyObjective, make_objective
from modkernel.pairs.labels import PairLabels
from modkernel.pairs.source import PairSource
from modkernel.spec import ModuleSpec, Recipe
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training.loop import minimise
from modkernel.training.pair_data import Inputs, PairData, compute_inputs
from modkernel.training.parallel.batch_norm import norm_by_whole_batches
from modkernel.training.parallel.gram import whole_gram
from modkernel.training.parallel.ranks import ALONE, Ranks
from modkernel.training.replay import Replayed, can_replay
from modkernel.training.report import TrainReport
from modkernel.training.with_tail import WithTail, with_tail

UNMOVED = (
    "The objective of the validation examples was the same in every epoch, so nothing tells which "
    "epoch is the best, and perhaps nothing was trained: try another learning rate, kernel or "
    "objective."
)
ROUNDING = 1e-6
"""Of values in float32, relative: those that differ by less are the same."""


@dataclass(frozen=True, eq=False)
class HiddenProblem:
    """A hidden module's proxy objective on pairs, over a frozen upstream; a `Problem`.

    Attributes:
        model: the module under training, on the device.
        kernel: compares what the model gives.
        objective: of kernel values and pairs, to be maximised.
        chain: preprocessing and the modules below, frozen: raw [B, …] to module inputs [B, …].
        recipe: batch size and augmentation.
        train: pairs that are trained on.
        validation: pairs that are validated on.
        inputs: of both parts' examples.
        validation_order: the index batches of each validation, int64 [B] each.
        arithmetic: device and number format.
        spread: standard deviation of the columns of vectors, for their views.
        seed: of the views that are validated on.
        ranks: processes that train it together; each loads and computes its share of a batch.
        above: objectives of the modules that are trained on it in the same pass, of the same pairs.
    """

    model: WithTail
    kernel: Kernel
    objective: ProxyObjective
    chain: nn.Module
    recipe: Recipe
    train: PairSource
    validation: PairSource
    inputs: Inputs
    validation_order: Sequence[Tensor]
    arithmetic: Arithmetic
    spread: Tensor
    seed: int
    ranks: Ranks = ALONE
    above: tuple[ProxyObjective, ...] = ()

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self.train.n_batches(self.recipe.batch_size)

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Index batches of one epoch, as `PairSource.batches` draws them."""
        return list(self.train.batches(self.recipe.batch_size, generator))

    def load(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Raw examples, or module inputs where those are computed, of each index batch's share."""
        source = self.inputs.train[epoch % len(self.inputs.train)]
        return source.batches(self._shares(order, self.train), self.arithmetic.device)

    def loss(self, raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the objective of a whole batch, a scalar; of `raw`, what `load` gave of it."""
        return self.prepared_loss(*self.prepare(raw, indices, generator))

    def prepare(
        self, raw: Tensor, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """What was loaded, what changes it (see `viewed` and `moved`), and the batch's pairs."""
        recipe = self.recipe
        if self.train.views:
            drawn = draw_views(raw, recipe.flip, self.spread, generator)
        else:
            # Drawn for the whole batch, so that an example moves as it would in one process.
            drawn = draw_moves(len(indices), recipe.crop_padding, recipe.flip, generator)
            drawn = drawn[:, self.ranks.share(len(indices))]
        self.ranks.seed_draws(generator)
        drawn = drawn.to(raw.device, non_blocking=True)
        return raw, drawn, *self._pairs(self.train, indices, raw.device)

    def prepared_loss(self, *inputs: Tensor) -> Tensor:
        """Minus the objective of what `prepare` gave, a scalar."""
        raw, drawn, *pairs = inputs
        return -self.value(self.training_inputs(raw, drawn), *pairs)[1]

    def training_inputs(self, raw: Tensor, drawn: Tensor) -> Tensor:
        """Module inputs [B, …] of a batch, changed by what was drawn for it."""
        if self.train.views:
            raw = self._views(raw, drawn)
        elif not self.inputs.train_computed and self.recipe.augments:
            raw = moved(raw, drawn, self.recipe.crop_padding)
        return self._prepare(raw, self.inputs.train_computed)

    @property
    def replayable(self) -> bool:
        """Whether a GPU may replay its steps."""
        alone = self.ranks.size == 1
        return alone and can_replay(self.arithmetic, self.model, self.chain)

    @torch.no_grad()
    def validate(self) -> float:
        """Mean objective over the validation batches; of views, the same ones in every epoch."""
        values = [self._validated(raw, *pairs) for raw, pairs in self.validation_batches()]
        return float(torch.stack(values).mean())

    def validation_batches(self) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]:
        """Validation examples [B, …] as they are loaded, or views of them, and their pairs."""
        order = self.validation_order
        loaded = self.inputs.validation.batches(
            self._shares(order, self.validation), self.arithmetic.device
        )
        for number, (indices, raw) in enumerate(zip(order, loaded, strict=True)):
            pairs = self._pairs(self.validation, indices, raw.device)
            if self.validation.views:
                generator = generator_for(self.seed, "validation views", number)
                drawn = draw_views(raw, self.recipe.flip, self.spread, generator)
                raw = self._views(raw, drawn.to(raw.device, non_blocking=True))
            yield raw, pairs

    def validation_inputs(self, raw: Tensor) -> Tensor:
        """Module inputs [B, …] of what `validation_batches` gives."""
        return self._prepare(raw, self.inputs.validation_computed)

    @cached_property
    def _validated(self) -> Callable[..., Tensor]:
        """The objective of loaded validation examples [B, …] and their pairs, a scalar."""

        def value(raw: Tensor, *pairs: Tensor) -> Tensor:
            return self.value(self.validation_inputs(raw), *pairs)[1]

        if self.replayable:
            return Replayed(value, self.arithmetic.device)
        return value

    def _pairs(
        self, source: PairSource, indices: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Known pairs of a batch, as `PairLabels.tensors` gives them, on the device."""
        pairs = source.for_batch(indices, device)
        for objective in (self.objective, *self.above):
            objective.check(pairs)
        return pairs.tensors()

    def _shares(self, order: Sequence[Tensor], pairs: PairSource) -> Sequence[Tensor]:
        """What this process loads of index batches: its share, but for views."""
        if pairs.views:
            return order
        return [indices[self.ranks.share(len(indices))] for indices in order]

    def _views(self, raw: Tensor, drawn: Tensor) -> Tensor:
        """This process's share of a whole batch's views: of 2 B rows, in their order."""
        views = viewed(raw, drawn)
        return views[self.ranks.share(len(views))]

    def _prepare(self, raw: Tensor, computed: bool) -> Tensor:
        """Module inputs [B, …] of what was loaded."""
        arrange = self.arithmetic.arrange
        with torch.no_grad(), self.arithmetic.autocast():
            return arrange(raw if computed else self.chain(arrange(raw)))

    def value(self, x: Tensor, *pairs: Tensor) -> tuple[Tensor, Tensor]:
        """What the module gives of its share's inputs [B, …], and the whole batch's objective.

        The objective is a scalar; both have a gradient.
        """
        with self.arithmetic.autocast():
            h, z = self.model.both(x)
        labels = PairLabels.of_tensors(*pairs)
        gram = whole_gram(self.kernel, z.float(), len(labels), self.ranks)
        return h, self.objective.value(gram, labels)


def train_hidden(
    spec: ModuleSpec,
    train: PairData,
    validation: PairData,
    upstream: Sequence[StoredModule] = (),
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
    cache: FeatureCache | None = None,
    start: StoredModule | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Tensor], TrainReport]:
    """Train the hidden module that `spec` describes, by maximising its proxy objective.

    The upstream stays bitwise as it is, and its output is computed once: with a cache, once for
    all modules that are trained on it. Only fresh random views need it in every step; of a
    recipe's fixed `views`, epoch e is trained on number e mod views. The weights returned are
    those of the epoch with the best objective on `validation`.

    Args:
        spec: of kind `hidden`.
        train: raw examples and their pairs.
        validation: other examples and pairs, never trained on.
        upstream: stored modules below this one, first to last.
        arithmetic: device and number format.
        control: checkpoints (a folder of its own for each spec), progress, stop.
        cache: stores the upstream's output of whole splits for the next module on it.
        start: the module that the spec says it starts from.
        ranks: processes that train it together, each with its share of every batch: all of them
            call this with the same arguments but for the device, and get the same weights, which
            are those of one process but for the order in which numbers are added up. Batch norms
            take their statistics of whole batches. See `modkernel.training.parallel`.

    Returns:
        The module's state dict on the CPU, and the report.

    Raises:
        InterfaceError: `upstream` is not the chain that the spec names, or flip of vectors.
        PairError: no same or no different pair in either part.
        ObjectiveError: the objective is undefined for the kernel, see `make_objective`.
        NonFiniteError: the objective is not finite, see `minimise`.
        StoppedError: `control.stop` said so, see `minimise`.
        SpecError: not the spec of a hidden module, fixed views without an upstream, another random
            change beside pairs of views, another module to start from than it says, or nothing
            left to train.
        ArtifactError: the weights to start from are altered, or the checkpoint is of another spec.
        SettingsError: there is no room for the upstream's output, see `compute_features`.
    """
    problem = hidden_problem(
        spec, train, validation, upstream, arithmetic, control, cache, start, ranks
    )
    result = minimise(
        problem,
        recipe=problem.recipe,
        seed=spec.seed,
        digest=spec.digest(),
        control=control,
        ranks=ranks,
    )
    # It holds the problem that holds it, and with that the memory of inputs and captured steps.
    problem.__dict__.pop("_validated", None)
    weights = kept_weights(result.weights)
    report = result.report(
        spec.digest(), arithmetic, train.pairs.n_examples, problem.model.module
    ).changed(devices=ranks.size)
    values = [line.validation for line in report.history if line.validation is not None]
    if ranks.first and len(values) > 1 and math.isclose(min(values), max(values), rel_tol=ROUNDING):
        control.progress({"event": "note", "text": UNMOVED})
    return weights, report


def kept_weights(trained: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module alone, on the CPU, without what only its training has.

    Args:
        trained: state dict of the model that was trained.
        prefix: what the names of the module's own model begin with in it.
    """
    prefix += "module."
    return {
        name.removeprefix(prefix): value.cpu().contiguous()
        for name, value in trained.items()
        if name.startswith(prefix)
    }


def hidden_problem(
    spec: ModuleSpec,
    train: PairData,
    validation: PairData,
    upstream: Sequence[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
    cache: FeatureCache | None,
    start: StoredModule | None = None,
    ranks: Ranks = ALONE,
) -> HiddenProblem:
    """The problem of a module: refuses what cannot be trained, places it on the device.

    Arguments and errors as of `train_hidden`.
    """
    if spec.kind != "hidden":
        raise SpecError("train_hidden takes the spec of a hidden module: use train_output.")
    recipe = spec.hidden.recipe
    if train.pairs.views != validation.pairs.views:
        raise PairError("Train and validate on the same kind of pairs: views of both, or of none.")
    if train.pairs.views:
        check_views(recipe, torch.zeros(1, *spec.preprocessing.shape))
    if recipe.views is not None and not upstream:
        raise SpecError("Fixed views are for modules on stored ones: leave 'views' out.")
    if recipe.batch_size < ranks.size:
        raise SpecError(
            f"A batch of {recipe.batch_size} cannot be shared by {ranks.size} devices: make "
            "recipe.batch_size larger, or use fewer devices."
        )
    if spec.hidden.start_from != (None if start is None else start.id):
        raise SpecError(
            f"The module starts from {(spec.hidden.start_from or 'fresh weights')[:24]}, but was "
            f"given {'none' if start is None else start.id[:12]}: pass the stored module that "
            "hidden.start_from names by its id, or leave it out there."
        )
    model, kernel = with_tail(spec, None if start is None else stored_weights(start))
    objective = make_objective(spec.hidden.objective, kernel)
    for part in (train, validation):
        part.pairs.check(objective.needs_same)
    chain = arithmetic.place(frozen_upstream(spec, upstream))
    norm_by_whole_batches(model, ranks)
    arithmetic.place(model)
    inputs = Inputs((train.examples,), validation.examples, False, False)
    if upstream and not train.pairs.views:  # No other step has the same views.
        inputs = compute_inputs(spec, recipe, train, validation, chain, arithmetic, control, cache)
    draws = generator_for(spec.seed, "validation")
    return HiddenProblem(
        model=model,
        kernel=kernel,
        objective=objective,
        chain=chain,
        recipe=recipe,
        train=train.pairs,
        validation=validation.pairs,
        inputs=inputs,
        validation_order=list(validation.pairs.batches(recipe.batch_size, draws)),
        arithmetic=arithmetic,
        spread=torch.tensor(spec.preprocessing.std),
        seed=spec.seed,
        ranks=ranks,
    )
