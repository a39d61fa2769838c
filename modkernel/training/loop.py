"""The one optimisation loop under every kind of training.

Everything random is a function of (seed, epoch, step), so a run that is resumed from a checkpoint,
even in the middle of an epoch, repeats what an undisturbed run would have done, as exactly as the
arithmetic itself repeats: docs/storage.md says when that is bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modkernel.control import UNWATCHED, Control
from modkernel.errors import NonFiniteError, StoppedError
from modkernel.spec import Recipe
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training.checkpoint import (
    LoopState,
    Parts,
    Standing,
    resume_training,
)
from modkernel.training.parallel.ranks import ALONE, Ranks
from modkernel.training.problem import Problem
from modkernel.training.report import EpochLine, PartLine, TrainReport
from modkernel.training.saving import Saver
from modkernel.training.schedule import add_parts, make_optimizer, make_schedule
from modkernel.training.step import Clip, LateScalar, make_step

FINITE_CHECK_STEPS = 20
"""Steps between looks at whether the loss is finite."""


@dataclass(frozen=True)
class LoopResult:
    """The weights that were chosen, and the way there."""

    weights: dict[str, Tensor]
    history: tuple[EpochLine, ...]
    best_epoch: int
    seconds: float

    def report(
        self, digest: str, arithmetic: Arithmetic, examples: int, model: nn.Module
    ) -> TrainReport:
        """The report of this training.

        Args:
            digest: of the recipe.
            arithmetic: that it was computed in.
            examples: number of training examples.
            model: what is stored of it, whose parameters are counted.
        """
        return TrainReport(
            recipe_digest=digest,
            history=self.history,
            best_epoch=self.best_epoch,
            seconds=self.seconds,
            device=str(arithmetic.device),
            precision=arithmetic.name,
            threads=arithmetic.threads,
            examples=examples,
            parameters=sum(p.numel() for p in model.parameters()),
        )


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """The module's state dict, copied."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


Part = tuple[nn.Module, Recipe]
"""Of a model, what has a loss of its own, and how it is optimised."""


def minimise(
    problem: Problem,
    *,
    recipe: Recipe,
    seed: int,
    digest: str = "",
    control: Control = UNWATCHED,
    ranks: Ranks = ALONE,
    parts: Sequence[Part] = (),
    clip: Clip = nn.utils.clip_grad_norm_,
) -> LoopResult:
    """Minimise a problem's loss over the parameters of its model that require a gradient.

    On return the model holds the weights that the result gives: those of the epoch with the best
    validation, or of the last one without validation.

    Args:
        problem: the model, its data and its loss.
        recipe: optimiser, schedule, clipping, number of epochs.
        seed: decides everything random.
        digest: of all that decides what is trained, which its checkpoints are known by.
        control: checkpoint folder, progress, stop.
        ranks: processes that do this together, each with its share of every batch: the problem's
            loss is the whole batch's in each of them. The first one writes and reports; all of them
            stop where one is to.
        parts: of the model, where each has a loss of its own: first to last, with recipes like
            `recipe` but for learning rate, momentum and weight decay. The gradient of each is
            clipped by itself.
        clip: how the gradient of a part is clipped, where the recipe says so: as a whole if left
            out.

    Raises:
        NonFiniteError: the loss, or the value on the validation part, is not finite.
        StoppedError: `control.stop` said so; the next call resumes from the checkpoint.
        ArtifactError: the checkpoint in the folder is of another digest.
    """
    model = problem.model
    device = next(model.parameters()).device
    # The global generator feeds dropout alone; the caller's own use of it is left undisturbed.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(problem, recipe, seed, digest, control, ranks, parts, clip)
        try:
            while run.state.epoch < recipe.epochs:
                run.train_epoch()
                run.close_epoch()
        finally:
            run.saver.close()
    if run.best is not None:
        model.load_state_dict(run.best)
    return LoopResult(
        weights=copy_weights(model),
        history=tuple(EpochLine(**line) for line in run.state.history),
        best_epoch=run.state.best_epoch or recipe.epochs,
        seconds=run.state.seconds,
    )


class _Run:
    """One call of `minimise`: what it was given, and where it stands."""

    def __init__(
        self,
        problem: Problem,
        recipe: Recipe,
        seed: int,
        digest: str,
        control: Control,
        ranks: Ranks,
        parts: Sequence[Part],
        clip: Clip,
    ) -> None:
        self.problem, self.model = problem, problem.model
        self.recipe, self.seed, self.control, self.ranks = recipe, seed, control, ranks
        self.optimised = [
            (how, [p for p in part.parameters() if p.requires_grad])
            for part, how in parts or ((self.model, recipe),)
        ]
        (first, trained), *others = self.optimised
        self.device = trained[0].device
        self.optimizer = make_optimizer(first, trained)
        add_parts(self.optimizer, others)
        self.schedule = make_schedule(recipe, self.optimizer, recipe.epochs, problem.steps)
        self.step = make_step(problem, recipe, self.optimizer, trained, ranks, clip)
        self.parts = Parts(self.model, self.optimizer, self.schedule, self.device)
        self.saver = Saver(control.checkpoints, digest)
        resumed = (
            resume_training(control.checkpoints, self.parts, digest)
            if control.checkpoints
            else None
        )
        begun = resumed or Standing(LoopState(), recipe.learning_rate, None)
        self.state, self.last_rate, self.best = begun.state, begun.last_rate, begun.best

    def train_epoch(self) -> None:
        """Take the steps of the epoch that are left."""
        state, began = self.state, time.perf_counter()
        spent = state.elapsed
        self.model.train()
        order = self.problem.batches(generator_for(self.seed, "epoch", state.epoch))
        left = order[state.step :]
        total = torch.tensor(state.total, dtype=torch.float64, device=self.device)
        seen = LateScalar()
        for indices, raw in zip(left, self.problem.load(left, state.epoch), strict=True):
            if self.ranks.any(self.control.stop()):
                state.total = total.tolist()
                self._save(last=True)
                again = "resumes" if self.saver.folder else "begins this module again"
                raise StoppedError(
                    f"Interrupted at epoch {state.epoch + 1} of {self.recipe.epochs}: the same "
                    f"command {again}."
                )
            total = total + self._take_step(raw, indices)
            state.step += 1
            state.elapsed = spent + time.perf_counter() - began
            if state.step % FINITE_CHECK_STEPS == 0:
                self._check_finite(seen.latest(total.sum()), "loss")
        state.total = total.tolist()
        self._check_finite(float(total.sum()), "loss")

    def close_epoch(self) -> None:
        """Validate, remember the best weights, report, and write the checkpoint."""
        state, began = self.state, time.perf_counter()
        self.model.eval()
        found = self.problem.validate()
        values = found if isinstance(found, tuple) else ()
        value = found[-1] if isinstance(found, tuple) else found
        if value is not None:
            self._check_finite(sum(values, value), "value on the validation part")
            if value > state.best_value:
                state.best_value, state.best_epoch = value, state.epoch + 1
                self.best = copy_weights(self.model)
        else:
            # The last step's loss was taken before that step: only the weights show its effect.
            every = (parameter for _, some in self.optimised for parameter in some)
            sums = torch.stack([parameter.detach().sum() for parameter in every])
            self._check_finite(float(sums.sum()), "weights")
        state.elapsed += time.perf_counter() - began
        totals = state.total if isinstance(state.total, list) else [state.total]
        objectives = [-total / max(1, state.step) for total in totals]
        line = EpochLine(
            epoch=state.epoch + 1,
            objective=objectives[-1],
            validation=value,
            learning_rate=self.last_rate,
            seconds=state.elapsed,
            parts=tuple(
                PartLine(objective=objective, validation=validation)
                for objective, validation in zip(objectives, values, strict=True)
            )
            if values
            else (),
        )
        state.history.append(line.model_dump(mode="json"))
        state.seconds += state.elapsed
        state.epoch, state.step, state.total, state.elapsed = state.epoch + 1, 0, 0.0, 0.0
        self._save(last=state.epoch == self.recipe.epochs)
        if self.ranks.first:
            self.control.progress(line.event(self.recipe.epochs))

    def _take_step(self, raw: Tensor, indices: Tensor) -> Tensor:
        state = self.state
        generator = generator_for(self.seed, "step", state.epoch, state.step)
        loss = self.step(raw, indices, generator)
        self.last_rate = float(self.optimizer.param_groups[0]["lr"])
        self.schedule.step()
        return loss.double()  # Beside a sum of one number, several would stay in single precision.

    def _check_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            recipe = self.recipe
            raise NonFiniteError(
                f"The {what} stopped being finite in epoch {self.state.epoch + 1} of "
                f"{recipe.epochs}: lower learning_rate (now {recipe.learning_rate:g}) or set "
                f"clip_norm (now {recipe.clip_norm})."
            )

    def _save(self, last: bool) -> None:
        if self.ranks.first:
            kept = Standing(self.state, self.last_rate, self.best)
            self.saver.save(self.parts, kept, last)
