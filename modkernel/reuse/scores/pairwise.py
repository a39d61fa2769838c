"""Scores that are sums over all pairs of examples, exact without an n × n matrix.

With class sums S_c, second moments M_c, q_c = Σ‖φ‖² and r_c = Σ‖φ‖⁴ of a class, over pairs i < j:
Σk = ½(‖ΣS_c‖² − Σq_c) and Σk² = ½(‖ΣM_c‖² − Σr_c); over same pairs, the sum of each class's own.
The values are those of `modkernel.objectives.formulas` on the whole kernel matrix.
"""

from __future__ import annotations

import math

from modkernel.errors import ScoreError
from modkernel.objectives.formulas import SMALLEST_MEAN_SQUARE
from modkernel.reuse.scores.statistics import PairSums, TaskStatistics

__all__ = ["nmse", "pair_correlation", "raw", "upper_alignment"]


def upper_alignment(task: TaskStatistics) -> float:
    """⟨K, T⟩ / (‖K‖ ‖T‖) over pairs i < j; 0 where every k is 0.

    T is 1 for a same pair; for a different pair 0, or -1 where features can be negative.
    Source: Duan, Yu, Príncipe, IEEE TNNLS 33(4), 2022.

    Raises:
        ScoreError: every target is 0, since there is no same pair; or features are no unit rows.
    """
    task.check_unit("upper_alignment")
    pairs = task.pairs
    targets = pairs.k_max**2 * pairs.same + pairs.k_min**2 * pairs.different
    if targets <= 0:
        raise _needs(task, "same")
    products = pairs.k_max * pairs.k_same + pairs.k_min * pairs.k_different
    squares = max(pairs.squares, pairs.count * SMALLEST_MEAN_SQUARE)
    return products / math.sqrt(squares * targets)


def raw(task: TaskStatistics) -> float:
    """(Σ_same k − Σ_diff k) / (P + N). Source: as `upper_alignment`.

    Raises:
        ScoreError: there are fewer than two examples, or features are no unit rows.
    """
    pairs = _unit_pairs(task, "raw")
    return (pairs.k_same - pairs.k_different) / pairs.count


def nmse(task: TaskStatistics) -> float:
    """Minus the mean (k − t)² over pairs i < j, t as in `upper_alignment`. Source: as there.

    Raises:
        ScoreError: there are fewer than two examples, or features are no unit rows.
    """
    pairs = _unit_pairs(task, "nmse")
    of_same = pairs.squares_same - 2 * pairs.k_max * pairs.k_same + pairs.k_max**2 * pairs.same
    of_different = (
        pairs.squares_different
        - 2 * pairs.k_min * pairs.k_different
        + pairs.k_min**2 * pairs.different
    )
    return -(of_same + of_different) / pairs.count


def pair_correlation(task: TaskStatistics) -> float:
    """Pearson correlation of k with (1 same, 0 different) over pairs i < j; 0 for constant k.

    Raises:
        ScoreError: there is no same or no different pair.
    """
    pairs = task.pairs
    for kind, count in (("same", pairs.same), ("different", pairs.different)):
        if count <= 0:
            raise _needs(task, kind)
    mean = (pairs.k_same + pairs.k_different) / pairs.count
    variance = max(pairs.squares / pairs.count - mean**2, SMALLEST_MEAN_SQUARE)
    share = pairs.same / pairs.count
    covariance = pairs.k_same / pairs.count - mean * share
    return covariance / math.sqrt(variance * share * (1 - share))


def _unit_pairs(task: TaskStatistics, score: str) -> PairSums:
    task.check_unit(score)
    if task.pairs.count <= 0:
        raise _needs(task, "")
    return task.pairs


def _needs(task: TaskStatistics, kind: str) -> ScoreError:
    return ScoreError(
        f"Task '{task.task.name}' has no {kind + ' ' if kind else ''}pair of examples: measure "
        "the module on at least two examples of each class."
    )
