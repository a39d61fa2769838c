"""Train hidden modules in one pass over the data, with no gradient between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from modkernel.control import UNWATCHED, Control
from modkernel.features.cache import FeatureCache
from modkernel.modules.stored import StoredModule, write_module
from modkernel.objectives.table import make_objective
from modkernel.spec import HiddenModuleSpec
from modkernel.spec.group import GroupSpec
from modkernel.system.precision import Arithmetic
from modkernel.training.hidden import HiddenProblem, hidden_problem, kept_weights
from modkernel.training.loop import LoopResult, minimise
from modkernel.training.pair_data import PairData
from modkernel.training.report import TrainReport
from modkernel.training.with_tail import with_tail


@dataclass(frozen=True, eq=False)
class TogetherProblem:
    """The proxy objectives of modules that stand on each other, each for itself; a `Problem`.

    What a module gives is handed on without its gradient: a module's parameters follow its own
    objective alone, as if those above were not there. All see the same batches, altered once.

    Attributes:
        model: the modules under training, first to last, on the device.
        members: the problem of each. All share the first one's data; the others' chains and
            inputs are not used.
    """

    model: nn.ModuleList
    members: Sequence[HiddenProblem]

    @property
    def first(self) -> HiddenProblem:
        """The problem of the module on which all others stand."""
        return self.members[0]

    @property
    def steps(self) -> int:
        """As of `HiddenProblem`."""
        return self.first.steps

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """As of `HiddenProblem`."""
        return self.first.batches(generator)

    def load(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """As of `HiddenProblem`."""
        return self.first.load(order, epoch)

    def loss(self, raw: Tensor, indices: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Minus the objective of each module in order, scalars."""
        raw, drawn, *pairs = self.first.prepare(raw, indices, generator)
        x = self.first.training_inputs(raw, drawn)
        for member in self.members:
            h, value = member.value(x, *pairs)
            x = h.detach()
            yield -value

    @torch.no_grad()
    def validate(self) -> tuple[float, ...]:
        """Mean objective of each module over the validation batches."""
        values = []
        for raw, pairs in self.first.validation_batches():
            x = self.first.validation_inputs(raw)
            of_batch = []
            for member in self.members:
                x, value = member.value(x, *pairs)
                of_batch.append(value)
            values.append(torch.stack(of_batch))
        return tuple(torch.stack(values).mean(0).tolist())


def train_together(
    group: GroupSpec,
    train: PairData,
    validation: PairData,
    upstream: Sequence[StoredModule] = (),
    *,
    arithmetic: Arithmetic,
    control: Control = UNWATCHED,
    cache: FeatureCache | None = None,
) -> tuple[tuple[dict[str, Tensor], TrainReport], ...]:
    """Train the hidden modules of a group in one pass, each by its own proxy objective.

    Gradients end where one module ends and the next begins, so a module learns what it would learn
    with nothing above it. It learns on what those below give at that step, in train mode, where
    training in turn has them final and frozen. The weights returned are all of one epoch, that
    with the best objective of the *last* module on `validation`: an upper module fits the lower
    ones as they were beside it, so that each taking its own best epoch would put modules on
    weights that they have never seen; and the last one is what a network's output stands on.

    The seconds of a module's report, and of its epochs, are an equal share of the pass.

    Args:
        group: the specs of the modules.
        train: raw examples and their pairs.
        validation: other examples and pairs, never trained on.
        upstream: stored modules below the first one, first to last; they stay bitwise as they are.
        arithmetic: device and number format.
        control: checkpoints (a folder of its own for each group), progress (the lines have a part
            a module), stop.
        cache: stores the upstream's output of whole splits.

    Returns:
        Of each module in order its state dict on the CPU and its report, whose recipe digest is
        that of its spec in the group; see `write_group`.

    Raises:
        InterfaceError, PairError, ObjectiveError, NonFiniteError, StoppedError, SpecError,
        ArtifactError, SettingsError: as of `train_hidden`.
    """
    first = hidden_problem(
        group.modules[0], train, validation, upstream, arithmetic, control, cache
    )
    above = [_on(first, spec, train, validation) for spec in group.modules[1:]]
    members = [replace(first, above=tuple(one.objective for one in above)), *above]
    problem = TogetherProblem(nn.ModuleList([one.model for one in members]), members)
    result = minimise(
        problem,
        recipe=first.recipe,
        seed=group.modules[0].seed,
        digest=group.digest(),
        control=control,
        parts=[(one.model, one.recipe) for one in members],
    )
    reports = _reports(group, members, result, arithmetic)
    return tuple(
        (kept_weights(result.weights, f"{index}."), report) for index, report in enumerate(reports)
    )


def _on(
    first: HiddenProblem, spec: HiddenModuleSpec, train: PairData, validation: PairData
) -> HiddenProblem:
    """The problem of a module further up, on the data of the first one."""
    model, kernel = with_tail(spec)
    objective = make_objective(spec.hidden.objective, kernel)
    for part in (train, validation):
        part.pairs.check(objective.needs_same)
    first.arithmetic.place(model)
    return replace(
        first, model=model, kernel=kernel, objective=objective, recipe=spec.hidden.recipe
    )


def _reports(
    group: GroupSpec,
    members: Sequence[HiddenProblem],
    result: LoopResult,
    arithmetic: Arithmetic,
) -> Iterator[TrainReport]:
    """The report of each module, of the lines of all."""
    count = len(members)
    for index, (spec, member) in enumerate(zip(group.modules, members, strict=True)):
        # The schedules are one, of other heights.
        rate = member.recipe.learning_rate / members[0].recipe.learning_rate
        of_this = replace(
            result,
            history=tuple(
                line.changed(
                    **dict(line.parts[index]),
                    learning_rate=line.learning_rate * rate,
                    seconds=line.seconds / count,
                    parts=(),
                )
                for line in result.history
            ),
            seconds=result.seconds / count,
        )
        yield of_this.report(
            spec.digest(), arithmetic, member.train.n_examples, member.model.module
        )


def write_group(
    folder: Path,
    group: GroupSpec,
    trained: Sequence[tuple[dict[str, Tensor], TrainReport]],
    write_report: Callable[[str, TrainReport], None] | None = None,
) -> list[tuple[StoredModule, TrainReport]]:
    """Write modules that were trained together, `hidden-1`, `hidden-2`, … in a folder.

    Each gets the spec that names the module below it by its id, and its report that spec's digest.

    Args:
        folder: where the modules' folders are made.
        group: of the modules.
        trained: what `train_together` gave.
        write_report: if there is one, is given each module's name and report before that module is
            written.

    Raises:
        ArtifactError: see `write_module`.
    """
    found: list[tuple[StoredModule, TrainReport]] = []
    for index, (weights, report) in enumerate(trained):
        spec, name = group.member(index, found[-1][0].id if found else ""), f"hidden-{index + 1}"
        told = report.changed(recipe_digest=spec.digest())
        if write_report is not None:
            write_report(name, told)
        found.append((write_module(folder / name, spec, weights), told))
    return found
