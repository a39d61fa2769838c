"""Several modules side by side: moments of their joint features, and which of them to join.

The joint features of an example are those of all modules, one after another: the sum of their
kernels. Joint moments need products of one module's features with another's, which the modules'
own moments do not hold, so they come from the features themselves.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from modkernel.errors import MomentsError, ScoreError
from modkernel.reuse.moments import ClassMoments, accumulate
from modkernel.reuse.scores.ridge import penalty_of
from modkernel.reuse.scores.tasks import threads_for
from modkernel.system.limits import usable_cores

__all__ = ["Choice", "Features", "Sample", "Step", "choose", "joint_moments"]

Features = tuple[Tensor, Tensor]
"""Of one module: φ of the measured training [N, d] and validation examples [M, d]."""
ROWS = 4096
"""Rows of joint features that are made at once."""
KEPT_BYTES = 512 * 2**20
"""Features that are kept in memory from one step to the next, at most; others are read again."""
BEYOND_NOISE = 2.0
"""Standard errors by which a module must lower the squared error to be worth joining."""
FEWEST_HELD_OUT = 4
"""Held-out examples of each side: two to choose by and two to judge by."""


def joint_moments(
    parts: Sequence[Tensor], labels: Tensor, classes: Iterable[str], fingerprint: str
) -> ClassMoments:
    """Class moments of the features of several modules on the same examples, one after another.

    Args:
        parts: of each module φ [n, d_i]; rows are the same examples in the same order.
        labels: int64 [n]; -1 is left out.
        classes: names, in the order of the labels.
        fingerprint: of the data set.

    Raises:
        MomentsError: parts of different numbers of examples; see `accumulate` too.
    """
    if not parts or {len(part) for part in parts} != {len(labels)}:
        raise MomentsError(
            f"Features of {', '.join(str(len(part)) for part in parts)} examples cannot be joined "
            f"under {len(labels)} labels: take all from the same examples."
        )

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for at in range(0, len(labels), ROWS):
            rows = [part[at : at + ROWS] for part in parts]
            yield torch.cat(rows, dim=1), labels[at : at + ROWS]

    return accumulate(blocks(), classes, fingerprint)


@dataclass(frozen=True, eq=False)
class Sample:
    """The examples of a task that modules are chosen on: positions among the measured ones.

    Attributes:
        train: int64 [n], training examples.
        train_sides: int64 [n], the side of each.
        held_out: int64 [m], held-out examples: first those to choose by, then those to judge by.
        held_out_sides: int64 [m].
        choosing: how many of them choose.
    """

    train: Tensor
    train_sides: Tensor
    held_out: Tensor
    held_out_sides: Tensor
    choosing: int

    @classmethod
    def of(cls, train_sides: Tensor, held_out_sides: Tensor, most: int) -> Sample:
        """A task's examples; of more than `most` training examples an even share of each side.

        Every other held-out example of a side chooses, and the others judge.

        Args:
            train_sides: side of each measured training example, int64 [N]; -1 is left out.
            held_out_sides: likewise of the validation examples, int64 [M].
            most: training examples.

        Raises:
            ScoreError: a side has no training or fewer than four held-out examples.
        """
        known = train_sides >= 0
        rows = torch.argsort(train_sides, stable=True)[int((~known).sum()) :]
        if len(rows) > most:
            rows = rows[torch.linspace(0, len(rows) - 1, most).long()]
        halves: tuple[list[Tensor], list[Tensor]] = ([], [])
        for side in range(int(train_sides.max()) + 1 if len(rows) else 0):
            members = (held_out_sides == side).nonzero().flatten()
            if len(members) < FEWEST_HELD_OUT or not bool((train_sides == side).any()):
                raise _too_few()
            for half, start in zip(halves, (0, 1), strict=True):
                half.append(members[start::2])
        if not halves[0] or int(held_out_sides.max()) >= len(halves[0]):
            raise _too_few()
        by, judges = torch.cat(halves[0]), torch.cat(halves[1])
        held_out = torch.cat([by, judges])
        return cls(rows, train_sides[rows], held_out, held_out_sides[held_out], len(by))


def _too_few() -> ScoreError:
    return ScoreError(
        "Modules are chosen by one half of the held-out examples and judged by the other, and "
        f"there are too few: measure on data with at least {FEWEST_HELD_OUT} validation examples "
        "of each side that are no training examples, and some training examples."
    )


@dataclass(frozen=True)
class Step:
    """One more module, and what the joint features give with it, on the half that judges.

    Attributes:
        place: of the module among the candidates.
        explained: share of the one-hot labels' variance that the output module explains, each
            side weighing the same.
        accuracy: of the output module, the mean over the sides.
        gain: of that accuracy over the step before; in the first step over a guess.
        gain_error: standard error of the gain.
        brings: standard errors by which the module lowers the squared error.
        features: of all modules so far.
        seconds: that the step took.
    """

    place: int
    explained: float
    accuracy: float
    gain: float
    gain_error: float
    brings: float
    features: int
    seconds: float


@dataclass(frozen=True)
class Choice:
    """The modules to join, in the order in which they were chosen.

    Attributes:
        steps: one a module.
        refused: the best next module, where it brings nothing beyond noise.
        unusable: places of candidates whose features could not be had.
    """

    steps: tuple[Step, ...]
    refused: Step | None
    unusable: tuple[int, ...]


def choose(read: Callable[[int], Features | None], count: int, sample: Sample, most: int) -> Choice:
    """Choose modules one by one: each time the one with which the joint features serve best.

    A candidate's figure is the squared error of the output module in closed form (`ridge_head`)
    on the joint features of those chosen so far and its own, over one half of the held-out
    examples, each side weighing the same. The other half judges what was chosen: what is the best
    of many by chance is not so there. The choice ends before a module that does not lower the
    squared error there by `BEYOND_NOISE` standard errors.

    Each candidate extends the ridge regression on the chosen features X by its own, Z, both about
    their training means (a block Cholesky step). With LLᵀ = XᵀX + λI, Q = XL⁻ᵀ and V = QᵀZ, its
    weights are (ZᵀZ + λI − VᵀV)⁻¹ ZᵀR, where R is what X leaves of the labels. So a candidate costs
    one product QᵀZ and a system of its own size, and no two candidates ever meet.

    Args:
        read: the measured features of a candidate, by place; None where they cannot be had.
        count: of candidates.
        sample: the examples; candidates have the same in the same order.
        most: modules to choose, at most.

    Raises:
        ScoreError: no candidate's features can be had.
    """
    reader = _Reader(read, sample)
    state = _State.of(sample)
    left, steps = list(range(count)), list[Step]()
    while left and len(steps) < most:
        began = time.perf_counter()
        errors = _errors(reader, state, left)
        left = list(errors)
        if not left:
            break
        best = min(left, key=lambda place: errors[place])
        found = reader.features(best)
        if found is None:
            continue  # Gone in between: the next best.
        after = state.joined(*found)
        step = _judged(best, state, after, began)
        if steps and step.brings < BEYOND_NOISE:
            return Choice(tuple(steps), step, tuple(sorted(reader.unusable)))
        steps.append(step)
        left.remove(best)
        state = after
    if not steps:
        raise ScoreError(
            "The features of no module that could be joined are in the cache: 'modkernel advise' "
            "without --stored-only computes them again."
        )
    return Choice(tuple(steps), None, tuple(sorted(reader.unusable)))


def _errors(reader: _Reader, state: _State, places: Sequence[int]) -> dict[int, float]:
    """Squared error with each candidate, by place; without those whose features are gone."""

    def error(place: int) -> float | None:
        found = reader.features(place)
        return None if found is None else state.error_with(*found)

    # A candidate a thread: with more than one inside a candidate, small products only wait.
    with threads_for(1), ThreadPoolExecutor(usable_cores()) as pool:
        found = zip(places, pool.map(error, places), strict=True)
        return {place: value for place, value in found if value is not None}


@dataclass
class _Reader:
    """Features of candidates on the sample, in memory as far as there is room."""

    read: Callable[[int], Features | None]
    sample: Sample
    kept: dict[int, Features] = field(default_factory=dict)
    room: int = KEPT_BYTES
    unusable: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def features(self, place: int) -> Features | None:
        """φ of the training and held-out examples, float64, about the training mean."""
        rows = self.kept.get(place) or self._rows(place)
        if rows is None:
            self.unusable.add(place)
            return None
        train, held_out = (part.double() for part in rows)
        mean = train.mean(0)
        return train - mean, held_out - mean

    def _rows(self, place: int) -> Features | None:
        found = self.read(place)
        if found is None:
            return None
        rows = found[0][self.sample.train], found[1][self.sample.held_out]
        size = sum(part.nbytes for part in rows)
        with self.lock:
            if size <= self.room:
                self.room -= size
                self.kept[place] = rows
        return rows


@dataclass(frozen=True, eq=False)
class _State:
    """A ridge regression of one-hot labels on the features chosen so far.

    Attributes:
        sample: the examples.
        penalty: λ, of Σ‖error‖² + λ‖W‖².
        weights: float64 [m], of held-out examples: each side of each half sums to 1 / sides.
        q: XL⁻ᵀ of training examples, [n, D].
        p: likewise of held-out examples, [m, D].
        rest: R, labels less outputs of training examples, [n, G].
        held: labels less outputs of held-out examples, [m, G].
    """

    sample: Sample
    penalty: float
    weights: Tensor
    q: Tensor
    p: Tensor
    rest: Tensor
    held: Tensor

    @classmethod
    def of(cls, sample: Sample) -> _State:
        """Nothing chosen: outputs are the training examples' mean label."""
        sides = int(sample.held_out_sides.max()) + 1
        train, held = (
            one_hot(each, sides).double() for each in (sample.train_sides, sample.held_out_sides)
        )
        mean, n = train.mean(0), len(train)
        weights = torch.cat(
            [
                (1 / (sides * torch.bincount(half, minlength=sides).double()))[half]
                for half in sample.held_out_sides.tensor_split([sample.choosing])
            ]
        )
        nothing = train.new_empty(n, 0), train.new_empty(len(held), 0)
        return cls(sample, penalty_of(n) * n, weights, *nothing, train - mean, held - mean)

    def error_with(self, z: Tensor, z_held: Tensor) -> float:
        """Squared error of the examples to choose by, with a candidate."""
        by = self.sample.choosing
        v = self.q.T @ z
        weight = torch.cholesky_solve(z.T @ self.rest, self._factor(z, v))
        held = self.held[:by] - (z_held[:by] - self.p[:by] @ v) @ weight
        return float((held.square().sum(1) * self.weights[:by]).sum())

    def joined(self, z: Tensor, z_held: Tensor) -> _State:
        """With a candidate."""
        v = self.q.T @ z
        lower = self._factor(z, v)
        weight = torch.cholesky_solve(z.T @ self.rest, lower)
        new, new_held = z - self.q @ v, z_held - self.p @ v

        def extended(old: Tensor, more: Tensor) -> Tensor:
            return torch.cat(
                [old, torch.linalg.solve_triangular(lower.T, more, upper=True, left=False)], dim=1
            )

        return _State(
            self.sample, self.penalty, self.weights,
            extended(self.q, new), extended(self.p, new_held),
            self.rest - new @ weight, self.held - new_held @ weight,
        )  # fmt: skip

    def _factor(self, z: Tensor, v: Tensor) -> Tensor:
        inner = z.T @ z - v.T @ v
        inner.diagonal().add_(self.penalty)
        lower: Tensor = torch.linalg.cholesky(inner)
        return lower

    def judged(self) -> tuple[Tensor, Tensor]:
        """Of the examples that judge: squared errors, and whether the output is right, [m'].

        Without a module outputs are equal for all: a guess.
        """
        sides = self.sample.held_out_sides
        labels = one_hot(sides, self.held.shape[1]).double()
        by = self.sample.choosing
        right = ((labels - self.held)[by:].argmax(1) == sides[by:]).double()
        if not self.q.shape[1]:
            right.fill_(1 / labels.shape[1])
        return self.held[by:].square().sum(1), right


def _judged(place: int, before: _State, after: _State, began: float) -> Step:
    sample = after.sample
    sides, weights = sample.held_out_sides[sample.choosing :], after.weights[sample.choosing :]
    (errors, right), (errors_before, right_before) = after.judged(), before.judged()
    lowered, lowered_error = _mean(errors_before - errors, sides, weights)
    gain, gain_error = _mean(right - right_before, sides, weights)
    start = _State.of(sample).judged()[0]
    return Step(
        place=place,
        explained=1 - float((errors * weights).sum() / (start * weights).sum()),
        accuracy=float((right * weights).sum()),
        gain=gain,
        gain_error=gain_error,
        brings=lowered / max(lowered_error, 1e-12),
        features=after.q.shape[1],
        seconds=time.perf_counter() - began,
    )


def _mean(values: Tensor, sides: Tensor, weights: Tensor) -> tuple[float, float]:
    """Mean over the sides of the mean of each, and its standard error."""
    count = int(sides.max()) + 1
    variances = 0.0
    for side in range(count):
        one = values[sides == side]
        variances += float(one.var()) / len(one)
    return float((values * weights).sum()), math.sqrt(variances) / count
