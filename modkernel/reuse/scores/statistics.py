"""What several scores of one task share, each computed once and only where it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modkernel.errors import ScoreError
from modkernel.reuse.moments import ClassMoments
from modkernel.reuse.task import Task

__all__ = ["RANK_TOLERANCE", "ClassGrams", "PairSums", "TaskStatistics", "factor"]

RANK_TOLERANCE = 1e-10
"""Directions with less than this share of the features' mean square are taken to have none.

Features are float32 numbers, so what varies by 1e-5 of their length or less is mostly rounding.
"""
UNIT_TOLERANCE = 1e-4
"""Share of Σ‖φ‖² that float32 rows of length one may miss it by, at any dimension."""


@dataclass(frozen=True, eq=False)
class ClassGrams:
    """Sums over classes that the sums over pairs of any task are made of.

    They take O(C² d²) once, where a score asks for them; a task then takes O(C²).

    Attributes:
        moments: of C classes. Where examples are weighted, its squares and fourths are by squared
            weight, which is what a pair of an example with itself weighs.
        selves: float64 [C], sum over examples of their squared weight; None where each counts once.
    """

    moments: ClassMoments
    selves: Tensor | None = None

    @cached_property
    def sums(self) -> Tensor:
        """⟨S_a, S_b⟩ of sums, [C, C]."""
        return self.moments.sums @ self.moments.sums.T

    @cached_property
    def products(self) -> Tensor:
        """⟨M_a, M_b⟩ of second moments as vectors, [C, C]."""
        flat = self.moments.products.flatten(1)
        return flat @ flat.T

    @property
    def k_min(self) -> float:
        """Least value of the kernel ⟨φ, φ'⟩ of unit rows: 0 where no feature is negative."""
        return 0.0 if self.moments.least >= 0 else -1.0

    def pairs(self, side: Tensor) -> PairSums:
        """Sums over the pairs of a task, whose classes are on sides [C]; -1 is left out."""
        chosen = (side[None] == torch.arange(int(side.max()) + 1)[:, None]).double()
        every = chosen.sum(0, keepdim=True)

        def over(part: Tensor, gram: Tensor, own: Tensor) -> float:
            """Sum over pairs of examples that are in one row of `part`."""
            return float(((part @ gram * part).sum() - (part @ own).sum()) / 2)

        weights = self.moments.counts.double()
        counts = torch.outer(weights, weights)
        selves = weights if self.selves is None else self.selves
        of_all, of_same = (
            (
                over(part, counts, selves),
                over(part, self.sums, self.moments.squares),
                over(part, self.products, self.moments.fourths),
            )
            for part in (every, chosen)
        )
        return PairSums(
            same=of_same[0],
            different=of_all[0] - of_same[0],
            k_same=of_same[1],
            k_different=of_all[1] - of_same[1],
            squares_same=of_same[2],
            squares_different=of_all[2] - of_same[2],
            k_min=self.k_min,
        )


@dataclass(frozen=True)
class PairSums:
    """Sums of k = ⟨φ_i, φ_j⟩ over pairs i < j of examples of the same and of different sides.

    Attributes:
        same: number of same pairs, P.
        different: number of different pairs, N.
        k_same: Σk of same pairs.
        k_different: Σk of different pairs.
        squares_same: Σk² of same pairs.
        squares_different: Σk² of different pairs.
        k_min: target of a different pair: 0 where no feature is negative, else -1.
        k_max: target of a same pair; features are unit rows.
    """

    same: float
    different: float
    k_same: float
    k_different: float
    squares_same: float
    squares_different: float
    k_min: float
    k_max: float = 1.0

    @property
    def count(self) -> float:
        """Number of pairs."""
        return self.same + self.different

    @property
    def squares(self) -> float:
        """Σk² of all pairs; never below 0."""
        return max(0.0, self.squares_same + self.squares_different)


@dataclass(frozen=True, eq=False)
class TaskStatistics:
    """Class moments of a task's sides, and what is derived from them.

    Attributes:
        task: the task.
        of_set: moments of all the data set's classes.
        grams: of these moments.
        held_out: moments of examples that were not trained on, of the same classes.
    """

    task: Task
    of_set: ClassMoments
    grams: ClassGrams
    held_out: ClassMoments | None = None

    @cached_property
    def side(self) -> Tensor:
        """Side of each class of the set, int64 [C]; -1 is left out.

        Raises:
            ClassError: the task names an unknown class.
            ScoreError: a side has no examples.
        """
        side = self.task.assign(self.of_set.classes)
        chosen, counts = side >= 0, torch.zeros(len(self.task.groups), dtype=torch.int64)
        counts.index_add_(0, side[chosen], self.of_set.counts[chosen])
        for name, count in zip(self.task.groups, counts.tolist(), strict=True):
            if not count:
                raise ScoreError(
                    f"There are no examples of '{name}' to score task '{self.task.name}' by: "
                    "measure the module on data that has some."
                )
        return side

    @cached_property
    def pairs(self) -> PairSums:
        """Sums over pairs of examples."""
        return self.grams.pairs(self.side)

    @cached_property
    def moments(self) -> ClassMoments:
        """Moments [G, …] of the sides."""
        _ = self.side
        return self.of_set.grouped(self.task)

    @property
    def examples(self) -> int:
        """Number n of examples of all sides."""
        return self.moments.examples

    @cached_property
    def counts(self) -> Tensor:
        """Examples of each side, float64 [G]."""
        return self.moments.counts.double()

    @cached_property
    def means(self) -> Tensor:
        """Mean features of each side, [G, d]."""
        return self.moments.sums / self.counts[:, None]

    @cached_property
    def mean(self) -> Tensor:
        """Mean features, [d]."""
        return self.moments.sums.sum(0) / self.examples

    @cached_property
    def second(self) -> Tensor:
        """ΦᵀΦ, [d, d]."""
        return self.moments.products.sum(0)

    @cached_property
    def mean_square(self) -> float:
        """Mean of ‖φ‖²."""
        return float(self.second.diagonal().sum()) / self.examples

    def check_unit(self, score: str) -> None:
        """Check that features are unit or zero rows, whose scale some scores compare modules by.

        Such rows have Σ‖φ‖² = Σ‖φ‖⁴; others meet that by chance alone.

        Raises:
            ScoreError: they are not.
        """
        squares, fourths = float(self.moments.squares.sum()), float(self.moments.fourths.sum())
        if abs(squares - fourths) > UNIT_TOLERANCE * max(squares, fourths):
            raise ScoreError(
                f"Score '{score}' compares features of length one, and those given for task "
                f"'{self.task.name}' are of other lengths, as a gaussian kernel's are: use score "
                "'logme' or 'pair_correlation'."
            )

    @cached_property
    def covariance(self) -> Tensor:
        """Covariance of φ over all examples, divided by n, [d, d]."""
        return self.second / self.examples - torch.outer(self.mean, self.mean)

    @cached_property
    def variation(self) -> float:
        """Trace of the covariance; 0 where what there is would be rounding."""
        trace = float(self.covariance.diagonal().sum())
        return trace if trace > RANK_TOLERANCE * self.mean_square else 0.0

    def covariance_of(self, side: int) -> Tensor:
        """Covariance of one side about its own mean, divided by its count, [d, d]."""
        mean = self.means[side]
        return self.moments.products[side] / self.counts[side] - torch.outer(mean, mean)

    def spectrum(self, matrix: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Eigenvalues [r] above `RANK_TOLERANCE · scale`, and their vectors [d, r]."""
        values, vectors = torch.linalg.eigh(matrix)
        above = values > RANK_TOLERANCE * scale
        return values[above], vectors[:, above]


def factor(matrix: Tensor) -> Tensor:
    """L of LLᵀ = matrix [d, d]; all NaN where rounding has left a matrix without one."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    return torch.full_like(lower, torch.nan) if int(failed) else lower
