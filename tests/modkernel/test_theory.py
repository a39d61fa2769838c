"""What the method proves, and where it stops: kept by numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modkernel.errors import ObjectiveError
from modkernel.kernels import Kernel, make_kernel, unit_rows
from modkernel.objectives.table import OBJECTIVES, make_objective
from modkernel.pairs.source import PairLabels
from modkernel.spec import KernelSpec, ObjectiveSpec

E1, E2, E3, E4 = torch.eye(4, dtype=torch.float64)


def logistic_risk(positive: list[Tensor], negative: list[Tensor], penalty: float = 0.01) -> float:
    """Least mean logistic loss + penalty · ‖w‖² over w and b; the mean is balanced by class."""
    x = torch.stack([*positive, *negative])
    y = torch.tensor([1.0] * len(positive) + [-1.0] * len(negative), dtype=torch.float64)
    share = torch.where(y > 0, 0.5 / len(positive), 0.5 / len(negative)).double()
    w = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def risk() -> Tensor:
        margins = y * (x @ w[:-1] + w[-1])
        return share @ functional.softplus(-margins) + penalty * w[:-1].square().sum()

    def closure() -> Tensor:
        solver.zero_grad()
        value = risk()
        value.backward()
        return value

    solver.step(closure)
    (gradient,) = torch.autograd.grad(risk(), w)
    assert gradient.norm() < 1e-8, "the convex problem is not solved"
    return risk().item()


def different_values(positive: list[Tensor], negative: list[Tensor]) -> set[float]:
    return {float(u @ v) for u in positive for v in negative}


def test_negative_pairs_alone_do_not_decide_the_risk_where_k_min_is_0() -> None:
    spread, tight = ([E1, E2], [E3, E4]), ([E1], [E3])
    assert different_values(*spread) == different_values(*tight) == {0.0}
    assert logistic_risk(*spread) == pytest.approx(0.283, abs=5e-4)
    assert logistic_risk(*tight) == pytest.approx(0.201, abs=5e-4)
    assert logistic_risk([E1], [-E1]) == pytest.approx(0.137, abs=5e-4)


@pytest.mark.parametrize("kernel_name", ["relu", "sigmoid"])
def test_collapsed_orthogonal_classes_have_the_least_risk_of_nonnegative_features(
    kernel_name: str,
) -> None:
    kernel = make_kernel(KernelSpec(name=kernel_name))
    best = logistic_risk([E1, E1, E1], [E3, E3, E3])
    for seed in range(20):
        h = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).double()
        rows = list(kernel.features(3 * h))
        assert logistic_risk(rows[:3], rows[3:]) > best


def test_antipodal_classes_have_the_least_risk_of_all_unit_features() -> None:
    best = logistic_risk([E1, E1, E1], [-E1, -E1, -E1])
    for seed in range(20):
        h = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed)).double()
        rows = list(unit_rows(h))
        assert logistic_risk(rows[:3], rows[3:]) > best


def value(objective: str, kernel: Kernel, rows: list[Tensor], pairs: PairLabels) -> float:
    h = torch.stack(rows)
    maximised = make_objective(ObjectiveSpec(name=objective), kernel)
    return maximised(kernel.gram(h, h), pairs).item()


TWO_BY_TWO = PairLabels.from_classes(torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_objectives_with_same_pairs_tell_the_counterexample_apart(objective: str) -> None:
    relu = make_kernel(KernelSpec(name="relu"))
    if objective.endswith("alignment_neo"):
        with pytest.raises(ObjectiveError):
            value(objective, relu, [E1, E2, E3, E4], TWO_BY_TWO)
        return
    spread = value(objective, relu, [E1, E2, E3, E4], TWO_BY_TWO)
    tight = value(objective, relu, [E1, E1, E3, E3], TWO_BY_TWO)
    if objective.endswith("_neo"):
        assert spread == pytest.approx(tight, abs=1e-12)
    else:
        assert spread < tight - 0.1


@pytest.mark.parametrize(
    "objective", ["raw_neo", "nmse_neo", "contrastive_neo", "log_contrastive_neo"]
)
def test_negative_pairs_alone_collapse_two_classes_under_tanh(objective: str) -> None:
    kernel = make_kernel(KernelSpec(name="tanh"))
    pairs = PairLabels.from_classes(torch.tensor([0, 0, 0, 1, 1, 1]))
    maximised = make_objective(ObjectiveSpec(name=objective), kernel)
    h = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    solver = torch.optim.Adam([h], lr=0.05, maximize=True)
    for _ in range(400):
        solver.zero_grad()
        maximised(kernel.gram(h, h), pairs).backward()
        solver.step()
    gram = kernel.gram(h, h).detach()
    assert gram[pairs.different].max() < -0.98
    assert gram[pairs.same].min() > 0.98


@pytest.mark.parametrize("objective", ["alignment_neo", "upper_alignment_neo"])
def test_negative_only_alignment_is_content_with_any_one_negative_value(objective: str) -> None:
    """A cosine knows no scale: different pairs all at -0.5 are as good as all at -1."""
    side = math.sqrt(0.5)
    rows = side * torch.tensor([[1, 1, 0], [1, -1, 0], [-1, 0, 1], [-1, 0, -1]]).double()
    gram = rows @ rows.T
    maximised = make_objective(ObjectiveSpec(name=objective), make_kernel(KernelSpec(name="tanh")))
    assert maximised(gram, TWO_BY_TWO).item() == pytest.approx(1)
    assert gram[TWO_BY_TWO.different].tolist() == pytest.approx([-0.5] * 8)
    assert gram[TWO_BY_TWO.same].tolist() == pytest.approx([0.0] * 4)


@pytest.mark.parametrize(("classes", "value"), [(2, 0.707), (10, 0.316), (100, 0.100)])
def test_uninformative_features_still_align_but_do_not_correlate(
    classes: int, value: float
) -> None:
    kernel = make_kernel(KernelSpec(name="relu"))
    pairs = PairLabels.from_classes(torch.arange(3 * classes) % classes)
    h = torch.ones(3 * classes, 5, dtype=torch.float64)
    gram = kernel.gram(h, h)
    alignment = make_objective(ObjectiveSpec(name="alignment"), kernel)(gram, pairs)
    assert alignment.item() == pytest.approx(value, abs=5e-4)
    correlation = make_objective(ObjectiveSpec(name="pair_correlation"), kernel)(gram, pairs)
    assert correlation.item() == pytest.approx(0, abs=1e-6)


def simplex(classes: int) -> Tensor:
    """Unit rows [C, C], any two of them at -1 / (C - 1)."""
    return unit_rows(torch.eye(classes, dtype=torch.float64) - 1 / classes)


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_more_than_two_classes_reach_no_lower_than_a_simplex(classes: int) -> None:
    bound = -1 / (classes - 1)
    off_diagonal = ~torch.eye(classes, dtype=torch.bool)
    of_simplex = (simplex(classes) @ simplex(classes).T)[off_diagonal]
    torch.testing.assert_close(of_simplex, torch.full_like(of_simplex, bound))
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        rows = unit_rows(torch.randn(classes, classes, generator=generator).double())
        assert (rows @ rows.T)[off_diagonal].max() >= bound


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_alignment_of_a_simplex_depends_on_the_number_of_classes(classes: int) -> None:
    """So alignments are not to be compared across numbers of classes."""
    kernel = make_kernel(KernelSpec(name="tanh"))
    labels = torch.arange(3 * classes) % classes
    rows = simplex(classes)[labels]
    objective = make_objective(ObjectiveSpec(name="alignment"), kernel)
    alignment = objective(rows @ rows.T, PairLabels.from_classes(labels)).item()
    assert alignment == pytest.approx(2 * math.sqrt(classes - 1) / classes)
