"""Proxy objectives against explicit loops over pairs, and everything that must count nowhere."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modkernel.errors import ObjectiveError, PairError, UnknownNameError
from modkernel.kernels import make_kernel
from modkernel.objectives.table import OBJECTIVES, ProxyObjective, make_objective
from modkernel.pairs.source import PairLabels
from modkernel.spec import KernelSpec, ObjectiveSpec

TANH, RELU = make_kernel(KernelSpec(name="tanh")), make_kernel(KernelSpec(name="relu"))
KERNELS = {"tanh": TANH, "relu": RELU}
CASES = [
    pytest.param(name, kernel, id=f"{name}-{kernel_name}")
    for name in OBJECTIVES
    for kernel_name, kernel in KERNELS.items()
    if not (name.endswith("alignment_neo") and kernel.k_min == 0)
]
EVERY = pytest.mark.parametrize(("name", "kernel"), CASES)


def make(name: str, kernel=TANH, **options) -> ProxyObjective:
    return make_objective(ObjectiveSpec(name=name, **options), kernel)


def random_case(kernel, n: int, seed: int) -> tuple[Tensor, PairLabels]:
    """Features [n, 3] and labels of about two thirds of their pairs, both kinds among them."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    i, j = torch.triu_indices(n, n, 1)
    same = torch.rand(len(i), generator=generator) < 0.4
    same[:2] = torch.tensor([True, False])
    kept = torch.rand(len(i), generator=generator) < 0.67
    kept[:2] = True
    return h, PairLabels.from_pairs(n, i[kept], j[kept], same[kept])


def each_pair(pairs: PairLabels) -> Iterator[tuple[int, int, bool]]:
    n = len(pairs)
    for i in range(n):
        for j in range(i + 1, n):
            if pairs.known[i, j]:
                yield i, j, bool(pairs.same[i, j])


def by_loop(name: str, gram: Tensor, pairs: PairLabels, kernel, temperature, diagonal) -> float:
    """The tables of the method, pair by pair, in Python numbers."""
    k = gram.tolist()
    values = [(k[i][j], same) for i, j, same in each_pair(pairs)]
    if name.endswith("_neo"):
        different = [v for v, same in values if not same]
        mean = sum(different) / len(different)
        mean_exp = sum(math.exp(v / temperature) for v in different) / len(different)
        dot = sum(v * kernel.k_min for v in different)
        norms = math.hypot(*different) * math.hypot(*[kernel.k_min] * len(different))
        return {
            "raw_neo": lambda: -mean,
            "nmse_neo": lambda: -sum((v - kernel.k_min) ** 2 for v in different) / len(different),
            "alignment_neo": lambda: dot / norms,
            "upper_alignment_neo": lambda: dot / norms,
            "contrastive_neo": lambda: -mean_exp,
            "log_contrastive_neo": lambda: -math.log(mean_exp),
        }[name]()
    if name == "raw":
        return sum(v if same else -v for v, same in values) / len(values)
    if name in ("contrastive", "log_contrastive"):
        of_same = sum(math.exp(v / temperature) for v, same in values if same)
        ratio = of_same / sum(math.exp(v / temperature) for v, _ in values)
        return ratio if name == "contrastive" else math.log(ratio)
    if name == "anchor_contrastive":
        return anchors_by_loop(k, pairs, temperature)
    if name == "group_contrastive":
        of_means = means_by_loop(k, pairs, kernel.k_max, temperature / 2)
        return anchors_by_loop(k, pairs, temperature) + of_means
    if name == "pair_correlation":
        xs, ts = [v for v, _ in values], [float(same) for _, same in values]
        mx, mt = sum(xs) / len(xs), sum(ts) / len(ts)
        covariance = sum((x - mx) * (t - mt) for x, t in zip(xs, ts, strict=True))
        return covariance / (math.hypot(*[x - mx for x in xs]) * math.hypot(*[t - mt for t in ts]))
    # Over the whole matrix where the diagonal counts: each pair twice, each example once.
    entries = [(v, kernel.k_max if same else kernel.k_min) for v, same in values] * 2
    if diagonal:
        entries += [(k[i][i], kernel.k_max) for i in range(len(k))]
    if name == "nmse":
        return -sum((v - t) ** 2 for v, t in entries) / len(entries)
    norms = math.hypot(*[v for v, _ in entries]) * math.hypot(*[t for _, t in entries])
    return sum(v * t for v, t in entries) / norms


def anchors_by_loop(k: list[list[float]], pairs: PairLabels, temperature: float) -> float:
    per_anchor = []
    n = range(len(k))
    apart = [math.exp(k[i][j] / temperature) for i in n for j in n if pairs.different[i, j]]
    for i in n:
        others = [j for j in n if pairs.known[i, j]]
        same = [j for j in others if pairs.same[i, j]]
        if same:
            total = sum(math.exp(k[i][j] / temperature) for j in others)
            if others == same:
                total += sum(apart) / len(apart)
            logs = [math.log(math.exp(k[i][j] / temperature) / total) for j in same]
            per_anchor.append(sum(logs) / len(logs))
    return sum(per_anchor) / len(per_anchor)


def means_by_loop(
    k: list[list[float]], pairs: PairLabels, k_max: float, temperature: float
) -> float:
    n = range(len(k))

    def same(i: int) -> list[int]:
        return [j for j in n if pairs.same[i, j]]

    def alike(i: int, j: int) -> float:
        return k_max if i == j else k[i][j]

    def exp_cosine(i: int, members: list[int], within: list[float]) -> float:
        norm = math.sqrt(max(sum(within) / len(within), 1e-2))
        return math.exp(sum(k[i][m] for m in members) / len(members) / norm / temperature)

    def with_own(i: int) -> float:
        within = [alike(m, o) for m in same(i) for o in (m, *same(m)) if o != i]
        return exp_cosine(i, same(i), within)

    def with_other(i: int, j: int) -> tuple[float, int]:
        members = [m for m in (j, *same(j)) if pairs.different[i, m]]
        within = [alike(m, o) for m in (j, *same(j)) for o in (m, *same(m))]
        return exp_cosine(i, members, within), len(members)

    apart = [with_other(i, j)[0] for i in n for j in n if pairs.different[i, j]]
    logs = []
    for i in n:
        others = [with_other(i, j) for j in n if pairs.different[i, j]]
        if same(i):
            total = sum(value / count for value, count in others)
            if not others:
                total = sum(apart) / len(apart)
            logs.append(math.log(with_own(i) / (with_own(i) + total)))
    return sum(logs) / len(logs)


def test_of_class_labels_the_means_are_those_of_all_other_examples_of_each_class() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 2, 2, 3, 1])  # 3 is there once: no anchor.
    h = torch.randn(10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features = torch.nn.functional.normalize(h)
    logs = []
    for i, label in enumerate(labels.tolist()):
        if label == 3:
            continue
        prototypes = []
        for other in range(4):
            mine = labels == other
            mine[i] = False
            prototypes.append(torch.nn.functional.normalize(features[mine].mean(0), dim=0))
        logits = torch.stack(prototypes) @ features[i] / 0.05
        logs.append(logits.log_softmax(0)[label].item())
    gram, pairs = features @ features.T, PairLabels.from_classes(labels)
    of_anchors = make("anchor_contrastive")(gram, pairs).item()
    value = make("group_contrastive")(gram, pairs).item()
    assert value == pytest.approx(of_anchors + sum(logs) / len(logs), rel=1e-12)


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_pairs(name: str, kernel, seed: int) -> None:
    h, pairs = random_case(kernel, 9, seed)
    gram = kernel.gram(h, h)
    temperature = OBJECTIVES[name].temperature or 1.0
    diagonal = name in ("nmse", "alignment")
    expected = by_loop(name, gram, pairs, kernel, temperature, diagonal)
    assert make(name, kernel)(gram, pairs).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["nmse", "alignment"])
@pytest.mark.parametrize("diagonal", [True, False])
def test_diagonal_counts_as_asked(name: str, diagonal: bool) -> None:
    h, pairs = random_case(TANH, 7, seed=4)
    gram = TANH.gram(h, h)
    gram.fill_diagonal_(0.25)
    value = make(name, include_diagonal=diagonal)(gram, pairs).item()
    assert value == pytest.approx(by_loop(name, gram, pairs, TANH, 1.0, diagonal), rel=1e-12)
    assert value != pytest.approx(by_loop(name, gram, pairs, TANH, 1.0, not diagonal), rel=1e-3)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if OBJECTIVES[n].temperature is not None])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 3.0])
def test_temperature_divides_the_exponents(name: str, temperature: float) -> None:
    h, pairs = random_case(TANH, 8, seed=5)
    gram = TANH.gram(h, h)
    value = make(name, temperature=temperature)(gram, pairs).item()
    assert value == pytest.approx(by_loop(name, gram, pairs, TANH, temperature, False), rel=1e-12)


def test_exponentials_do_not_overflow_at_a_low_temperature() -> None:
    h, pairs = random_case(TANH, 8, seed=6)
    gram = TANH.gram(h, h).float().requires_grad_()
    for name in (
        "log_contrastive",
        "log_contrastive_neo",
        "contrastive",
        "anchor_contrastive",
        "group_contrastive",
    ):
        value = make(name, temperature=1e-3)(gram, pairs)
        value.backward()
        assert value.isfinite()
    assert gram.grad is not None
    assert gram.grad.isfinite().all()


# --- What counts nowhere


@EVERY
@given(seed=st.integers(0, 10_000), n=st.integers(3, 12))
@settings(max_examples=15, deadline=None)
def test_the_order_of_examples_does_not_matter(name: str, kernel, seed: int, n: int) -> None:
    h, pairs = random_case(kernel, n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    i, j = pairs.known.triu().nonzero(as_tuple=True)
    back = order.argsort()
    permuted = PairLabels.from_pairs(n, back[i], back[j], pairs.same[i, j])
    objective = make(name, kernel)
    torch.testing.assert_close(
        objective(kernel.gram(h[order], h[order]), permuted), objective(kernel.gram(h, h), pairs)
    )


@EVERY
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([-0.9, 0.0, 1.0, math.inf, math.nan]))
@settings(max_examples=15, deadline=None)
def test_unknown_pairs_and_an_excluded_diagonal_count_nowhere(
    name: str, kernel, seed: int, junk: float
) -> None:
    h, pairs = random_case(kernel, 8, seed)
    objective, gram = make(name, kernel), kernel.gram(h, h)
    unknown = ~pairs.known
    if objective.setting.diagonal:
        unknown = unknown.fill_diagonal_(False)
    altered = gram.masked_fill(unknown, junk).requires_grad_()
    value = objective(altered, pairs)
    torch.testing.assert_close(value, objective(gram, pairs))
    if math.isfinite(junk):
        value.backward()
        assert altered.grad is not None
        assert torch.equal(altered.grad[unknown], torch.zeros(int(unknown.sum())).double())


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n.endswith("_neo")])
def test_negative_only_forms_do_not_look_at_same_pairs(name: str) -> None:
    h, pairs = random_case(TANH, 8, seed=7)
    gram = TANH.gram(h, h)
    altered = gram.masked_fill(pairs.same, 0.123).fill_diagonal_(-0.5)
    assert torch.equal(make(name)(altered, pairs), make(name)(gram, pairs))


def test_an_anchor_with_no_same_pair_counts_nowhere() -> None:
    pairs = PairLabels.from_classes(torch.tensor([0, 0, 1]))
    gram = torch.tensor([[1, 0.8, 0.1], [0.8, 1, 0.3], [0.1, 0.3, 1]], dtype=torch.float64)
    expected = [0.8 / 0.1 - math.log(math.exp(8) + math.exp(k / 0.1)) for k in (0.1, 0.3)]
    value = make("anchor_contrastive")(gram, pairs).item()
    assert value == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_an_anchor_with_one_partner_alone_is_set_against_all_different_pairs() -> None:
    first, second = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    pairs = PairLabels.from_pairs(6, first, second, torch.tensor([1, 1, 0]))
    gram = torch.eye(6, dtype=torch.float64)
    for i, j, k in ((0, 1, 0.8), (2, 3, 0.5), (4, 5, 0.6)):
        gram[i, j] = gram[j, i] = k
    expected = [k / 0.1 - math.log(math.exp(k / 0.1) + math.exp(6)) for k in (0.8, 0.5)]
    value = make("anchor_contrastive")(gram.requires_grad_(), pairs)
    assert value.item() == pytest.approx(sum(expected) / 2, rel=1e-12)
    value.backward()
    assert gram.grad is not None
    assert gram.grad[0, 1] > 0 > gram.grad[4, 5]


# --- Values and gradients


@EVERY
def test_the_ideal_matrix_is_best(name: str, kernel) -> None:
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    pairs = PairLabels.from_classes(classes)
    ideal = torch.where(classes[:, None] == classes, kernel.k_max, kernel.k_min).double()
    objective = make(name, kernel)
    best = objective(ideal, pairs)
    for seed in range(20):
        h = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).double()
        assert objective(kernel.gram(h, h), pairs) < best
    tops = {"nmse": 0, "alignment": 1, "upper_alignment": 1, "pair_correlation": 1}
    if name in tops:
        assert best.item() == pytest.approx(tops[name], abs=1e-12)


@EVERY
def test_gradients_equal_finite_differences(name: str, kernel) -> None:
    h, pairs = random_case(kernel, 6, seed=8)
    objective = make(name, kernel)
    assert torch.autograd.gradcheck(
        lambda x: objective(kernel.gram(x, x), pairs), (h.requires_grad_(),)
    )


DEGENERATE = {
    "all-rows-equal": torch.full((6, 3), 0.7),
    "all-rows-zero": torch.zeros(6, 3),
    "one-row-zero": torch.cat([torch.zeros(1, 3), torch.randn(5, 3)]),
    "two-rows-equal": torch.tensor(
        [[1.0, 2, 3], [1, 2, 3], [3, 0, 1], [0, 1, 0], [1, 1, 1], [2, 0, 2]]
    ),
    "opposite-rows": torch.tensor([[1.0, -2, 3], [-1, 2, -3]] * 3),
}


@EVERY
@pytest.mark.parametrize("h", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_degenerate_rows_give_finite_values_and_small_gradients(
    name: str, kernel, h: Tensor, dtype: torch.dtype
) -> None:
    h = h.to(dtype, copy=True).requires_grad_()
    value = make(name, kernel)(
        kernel.gram(h, h), PairLabels.from_classes(torch.tensor([0, 1, 0, 1, 0, 1]))
    )
    value.backward()
    assert value.isfinite()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert h.grad.abs().max() < 100


def test_an_anchor_with_no_known_pair_sends_no_gradient() -> None:
    pairs = PairLabels.from_pairs(
        4, torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([1, 0])
    )
    gram = torch.rand(4, 4).requires_grad_()
    make("anchor_contrastive")(gram, pairs).backward()
    assert gram.grad is not None
    assert gram.grad.isfinite().all()
    assert torch.equal(gram.grad[3], torch.zeros(4))


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(name: str, kernel, dtype: torch.dtype) -> None:
    h, pairs = random_case(kernel, 20, seed=9)
    gram = kernel.gram(h, h).to(dtype)
    objective = make(name, kernel)
    value = objective(gram, pairs)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, objective(gram.double(), pairs).float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective(gram, pairs), value)


# --- What is undefined

ALL_SAME = PairLabels.from_classes(torch.zeros(4, dtype=torch.int64))
ALL_DIFFERENT = PairLabels.from_classes(torch.arange(4))
NOTHING_KNOWN = PairLabels.from_pairs(4, *torch.zeros(3, 0, dtype=torch.int64))
WITHOUT_SAME = {"raw", "nmse", "alignment", "upper_alignment"}


@EVERY
def test_no_known_pair_is_refused(name: str, kernel) -> None:
    with pytest.raises(PairError, match="needs a known pair"):
        make(name, kernel)(torch.eye(4), NOTHING_KNOWN)


@EVERY
def test_no_same_pair_is_refused_where_one_is_needed(name: str, kernel) -> None:
    objective, gram = make(name, kernel), torch.rand(4, 4)
    targets_are_zero = name == "upper_alignment" and kernel.k_min == 0
    if name.endswith("_neo") or (name in WITHOUT_SAME and not targets_are_zero):
        assert not objective.needs_same
        assert objective(gram, ALL_DIFFERENT).isfinite()
    else:
        assert objective.needs_same
        with pytest.raises(PairError, match="needs a same pair"):
            objective(gram, ALL_DIFFERENT)


@EVERY
def test_no_different_pair_is_refused_where_one_is_needed(name: str, kernel) -> None:
    objective, gram = make(name, kernel), torch.rand(4, 4)
    if name.endswith("_neo") or name == "pair_correlation":
        assert objective.needs_different
        with pytest.raises(PairError, match="needs a different pair"):
            objective(gram, ALL_SAME)
    else:
        assert not objective.needs_different
        assert objective(gram, ALL_SAME).isfinite()


def test_alignment_without_its_diagonal_needs_a_target_that_is_not_zero() -> None:
    assert not make("alignment", RELU).needs_same
    with pytest.raises(PairError, match="needs a same pair"):
        make("alignment", RELU, include_diagonal=False)(torch.rand(4, 4), ALL_DIFFERENT)


@pytest.mark.parametrize("name", ["alignment_neo", "upper_alignment_neo"])
@pytest.mark.parametrize("kernel_name", ["sigmoid", "relu", "relu_avgpool", "gaussian"])
def test_negative_only_alignment_needs_a_negative_ideal(name: str, kernel_name: str) -> None:
    with pytest.raises(ObjectiveError, match="use kernel tanh"):
        make(name, make_kernel(KernelSpec(name=kernel_name, sigma=1.0)))


def test_options_that_an_objective_does_not_have_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"no temperature.*log_contrastive"):
        make("raw", temperature=0.5)
    with pytest.raises(ObjectiveError, match="nmse, alignment"):
        make("upper_alignment", include_diagonal=True)
    with pytest.raises(ObjectiveError, match="nmse, alignment"):
        make("nmse_neo", include_diagonal=False)


def test_a_temperature_at_which_exponentials_overflow_is_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"at least 0\.0125, or log_contrastive_neo"):
        make("contrastive_neo", temperature=0.01)
    largest = make("contrastive_neo", temperature=0.0125)(torch.ones(4, 4), ALL_DIFFERENT)
    assert largest.isfinite()


def test_unknown_objective_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"raw, raw_neo, .*anchor_contrastive"):
        make("triplet")


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (4,)])
def test_a_matrix_of_another_batch_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PairError, match="does not fit pairs of 4 examples"):
        make("raw")(torch.zeros(shape), ALL_SAME)
