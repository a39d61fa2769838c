"""Scores of many tasks at once, of groups, of held-out examples, and how sure they are."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from modkernel.errors import ClassError, MomentsError, ScoreError, UnknownNameError
from modkernel.kernels import make_kernel
from modkernel.reuse.moments import accumulate
from modkernel.reuse.scores import (
    SCORES,
    bootstrap,
    head_accuracy,
    resampling,
    reusability,
    ridge_head,
    score_tasks,
)
from modkernel.reuse.scores.statistics import ClassGrams, TaskStatistics
from modkernel.reuse.scores.tasks import score_of
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import KernelSpec, OutputSpec
from modkernel.training.heads import fit_ridge, predict_heads
from tests.modkernel.helpers.feature_examples import NAMES, features_of, moments_of

OF_MOMENTS = [name for name, row in SCORES.items() if row.needs == "moments"]
WITH_HELD_OUT = [*OF_MOMENTS, "ridge"]
COUNTS = (30, 22, 41, 18, 25)


def examples(kind: str = "tanh", seed: int = 0, d: int = 8):
    return features_of(kind, COUNTS, d, seed)


def relabelled(labels: torch.Tensor, task: Task) -> torch.Tensor:
    return task.assign(NAMES[: len(COUNTS)])[labels]


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_many_tasks_at_once_are_each_task_on_its_own_examples(kind) -> None:
    (features, labels), (others, answers) = examples(kind), examples(kind, seed=1)
    whole, held = moments_of(features, labels), moments_of(others, answers)
    tasks = [Task.of_classes(pair) for pair in itertools.combinations(whole.classes, 2)]
    tasks += [
        parse_task("animal=cat+dog, vehicle=truck+ship"),
        parse_task("a=T-shirt/top+truck+cat, dog, ship"),
        Task.of_classes(reversed(whole.classes)),
    ]
    found = score_tasks(whole, tasks, WITH_HELD_OUT, held)
    assert found.shape == (len(tasks), len(WITH_HELD_OUT))
    assert found.dtype == torch.float64
    for task, row in zip(tasks, found.tolist(), strict=True):
        alone, alone_held = (
            accumulate([(x, relabelled(y, task))], tuple(task.groups), whole.fingerprint)
            for x, y in ((features, labels), (others, answers))
        )
        for name, value in zip(WITH_HELD_OUT, row, strict=True):
            expected = reusability(alone, score=name, held_out=alone_held)
            assert value == pytest.approx(expected, rel=1e-9, abs=1e-12), (task.name, name)


def test_no_tasks_or_no_scores() -> None:
    whole = moments_of(*examples())
    assert score_tasks(whole, [], ["logme"]).shape == (0, 1)
    assert score_tasks(whole, [parse_task("cat, dog")], []).shape == (1, 0)


def test_every_score_prefers_features_that_tell_the_classes_apart() -> None:
    features, labels = examples()
    others, answers = examples(seed=1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for name in WITH_HELD_OUT:
        held = {"held_out": moments_of(others, answers)}
        told = F.normalize(features + 2 * F.one_hot(labels, 8), dim=1)
        held_told = {
            "held_out": moments_of(F.normalize(others + 2 * F.one_hot(answers, 8), dim=1), answers)
        }
        best = reusability(moments_of(told, labels), score=name, **held_told)
        assert best > reusability(moments_of(features, labels[order]), score=name, **held), name


@pytest.mark.parametrize("kernel", ["tanh", "relu", "sigmoid"])
def test_targets_of_a_different_pair_are_those_of_the_kernel(kernel) -> None:
    made = make_kernel(KernelSpec(name=kernel))
    h = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    found = moments_of(made.features(h), labels)
    assert ClassGrams(found).k_min == made.k_min


def test_scores_that_need_more_than_moments() -> None:
    whole = moments_of(*examples())
    for name in ("leep", "contrastive"):
        with pytest.raises(ScoreError, match=f"'{name}' is not computed from class moments"):
            reusability(whole, score=name)
    with pytest.raises(ScoreError, match=r"held-out examples: give their moments"):
        reusability(whole, score="ridge")
    with pytest.raises(UnknownNameError, match="Unknown score 'nice': use one of logme"):
        reusability(whole, score="nice")


def test_tasks_that_moments_cannot_answer() -> None:
    features, labels = examples()
    whole = moments_of(features, labels)
    with pytest.raises(ClassError, match="'cow'"):
        reusability(whole, parse_task("cat, cow"))
    one = accumulate([(features, torch.zeros_like(labels))], ("cat",), "")
    with pytest.raises(ClassError, match="at least two sides"):
        reusability(one)
    empty = accumulate([(features, labels)], (*whole.classes, "rare"), "")
    for name in OF_MOMENTS:
        with pytest.raises(ScoreError, match="no examples of 'rare'"):
            reusability(empty, parse_task("cat, rare"), name)
    assert reusability(empty, parse_task("cat, dog")) == reusability(whole, parse_task("cat, dog"))


def test_held_out_moments_of_other_data() -> None:
    features, labels = examples()
    whole = moments_of(features, labels)
    with pytest.raises(MomentsError, match="different data"):
        reusability(whole, score="ridge", held_out=moments_of(features, labels, "0" * 64))
    gone = replace(whole, counts=torch.tensor([5, 0, 0, 0, 0]))
    with pytest.raises(ScoreError, match="held-out examples of task 'cat-dog' are all of one side"):
        reusability(whole, parse_task("cat, dog"), "ridge", gone)


@pytest.mark.parametrize("kind", ["random", "relu", "tanh", "collapsed", "deficient"])
@pytest.mark.parametrize("d", [6, 200])
def test_ridge_head_is_that_of_the_examples(kind, d) -> None:
    features, labels = examples(kind, d=d)
    weight, bias = ridge_head(moments_of(features, labels), 1e-3)
    x, y = features - features.mean(0), F.one_hot(labels).double()
    level = y.mean(0)
    inner = x.T @ x + 1e-3 * len(x) * torch.eye(d, dtype=x.dtype)
    expected = torch.linalg.solve(inner, x.T @ (y - level)).T
    torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(bias, level - expected @ features.mean(0), rtol=1e-9, atol=1e-11)

    rows = torch.arange(len(labels))[None]
    fit = fit_ridge(features, labels, rows, len(COUNTS), OutputSpec(method="ridge"))
    torch.testing.assert_close(weight.float(), fit.weight[0], rtol=1e-5, atol=1e-6)
    others, answers = examples(kind, seed=1, d=d)
    right = (predict_heads(fit, others.float())[0] == answers).double().mean()
    assert head_accuracy(weight, bias, others.float(), answers) == pytest.approx(float(right))


def test_many_examples_need_less_of_a_penalty() -> None:
    features, labels = features_of("relu", (400, 300, 300), 6, 0)
    moments = moments_of(features, labels)
    for found, expected in zip(ridge_head(moments), ridge_head(moments, 1e-4), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(ridge_head(moments)[0], ridge_head(moments, 1e-3)[0])


@pytest.mark.parametrize("kind", ["random", "relu", "tanh", "collapsed", "deficient"])
@pytest.mark.parametrize("d", [6, 200])
def test_ridge_is_the_variance_explained_held_out(kind, d) -> None:
    features, labels = examples(kind, d=d)
    others, answers = features_of(kind, (9, 4, 7, 11, 3), d, 1)
    weight, bias = ridge_head(moments_of(features, labels))
    y = F.one_hot(answers).double()
    left = (others @ weight.T + bias - y).square().sum()
    expected = float(1 - left / (y - y.mean(0)).square().sum())
    found = reusability(moments_of(features, labels), None, "ridge", moments_of(others, answers))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_accuracy_leaves_out_what_has_no_label() -> None:
    weight, bias = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    assert head_accuracy(weight, bias, features, torch.tensor([0, 1, 1, -1])) == pytest.approx(
        2 / 3
    )
    with pytest.raises(ScoreError, match="no held-out examples"):
        head_accuracy(weight, bias, features, torch.full((4,), -1))


def test_interval_holds_the_score_and_narrows_with_more_examples() -> None:
    widths = []
    for count in (8, 60, 400):
        features, labels = features_of("tanh", (count, count), 5, 0)
        low, high = bootstrap(features, labels, NAMES[:2], "pair_correlation")
        assert low < reusability(moments_of(features, labels), score="pair_correlation") < high
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


@pytest.mark.parametrize("name", ["logme", "pair_correlation", "upper_alignment", "lda"])
def test_interval_is_as_wide_as_fresh_examples_say(name) -> None:
    """Within a factor of two of the spread of the score over other draws of the same size."""
    many, answers = features_of("tanh", (4000, 4000), 6, 0)
    values = [
        reusability(moments_of(many[a : a + 100], answers[a : a + 100]), score=name)
        for a in range(0, 8000, 100)
    ]
    low, high = torch.tensor(values).quantile(torch.tensor([0.05, 0.95])).tolist()
    widths = [
        (lambda ends: ends[1] - ends[0])(
            bootstrap(many[a : a + 100], answers[a : a + 100], NAMES[:2], name)
        )
        for a in range(0, 400, 100)
    ]
    assert 0.5 < sum(widths) / len(widths) / (high - low) < 2


def test_interval_with_fewer_examples_than_features() -> None:
    features, labels = features_of("relu", (5, 6), 40, 0)
    low, high = bootstrap(features, labels, NAMES[:2])
    assert low < reusability(moments_of(features, labels)) < high


def test_interval_of_tight_classes_with_more_features_than_examples() -> None:
    """Uneven weights leave fewer directions than examples, and almost nothing of the labels."""
    centres, labels = features_of("collapsed", (30, 30), 128, 0)
    noise, _ = features_of("random", (30, 30), 128, 1)
    features = F.normalize(centres + 3e-5 * noise, dim=1)
    low, high = bootstrap(features, labels, NAMES[:2])
    assert low < reusability(moments_of(features, labels)) < high


@pytest.mark.parametrize("defined", [2, 3])
def test_draws_that_leave_the_score_undefined_are_left_out(defined, monkeypatch) -> None:
    calls = itertools.count()

    def some(*arguments: object) -> float:
        number = next(calls)
        if number and number % 5 >= defined:
            raise ScoreError("of this draw")
        return score_of(*arguments)

    monkeypatch.setattr(resampling, "score_of", some)
    features, labels = examples()
    if defined == 3:
        low, high = bootstrap(features, labels, NAMES[:5], "lda", draws=50)
        assert low < high
    else:
        with pytest.raises(ScoreError, match="undefined for 30 of 50 resamples"):
            bootstrap(features, labels, NAMES[:5], "lda", draws=50)


def test_only_the_main_thread_sets_the_number_of_threads(monkeypatch) -> None:
    before, calls = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    moments = moments_of(*examples())
    other = threading.Thread(target=reusability, args=(moments,))
    other.start()
    other.join()
    assert calls == []
    reusability(moments)
    assert calls == [1, before]


def test_draws_follow_the_seed() -> None:
    features, labels = examples()
    first, again, other = (
        bootstrap(features, labels, NAMES[:5], draws=10, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again != other


def test_intervals_of_scores_that_need_more() -> None:
    features, labels = examples()
    with pytest.raises(ScoreError, match="needs held-out examples too"):
        bootstrap(features, labels, NAMES[:5], "ridge")
    with pytest.raises(ScoreError, match="not computed from class moments"):
        bootstrap(features, labels, NAMES[:5], "leep")


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_weighted_pairs_are_weighted_sums(seed) -> None:
    """A resample's pair scores count a pair i, j w_i·w_j times, and none with itself."""
    from modkernel.reuse.scores.resampling import _weighted

    features, labels = features_of("tanh", (6, 9), 4, seed)
    members = [features[labels == side] for side in (0, 1)]
    whole = moments_of(features, labels)
    drawn, selves = _weighted(whole, members, torch.Generator().manual_seed(seed))
    statistics = TaskStatistics(Task.of_classes(NAMES[:2]), drawn, ClassGrams(drawn, selves))

    generator, weights = torch.Generator().manual_seed(seed), []
    for phi in members:
        w = torch.empty(len(phi), dtype=torch.float64).exponential_(generator=generator)
        weights.append(w / w.mean())
    x, w = torch.cat(members), torch.cat(weights)
    side = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([6, 9]))
    gram, pair = x @ x.T, torch.outer(w, w).triu(1)
    same = side[:, None] == side
    sums = statistics.pairs
    for found, expected in (
        (sums.same, pair[same].sum()),
        (sums.different, pair[~same].sum()),
        (sums.k_same, (pair * gram)[same].sum()),
        (sums.k_different, (pair * gram)[~same].sum()),
        (sums.squares_same, (pair * gram**2)[same].sum()),
        (sums.squares_different, (pair * gram**2)[~same].sum()),
    ):
        assert found == pytest.approx(float(expected), rel=1e-9, abs=1e-11)


def test_the_table_says_what_it_holds() -> None:
    assert list(SCORES) == [row.name for row in SCORES.values()]
    assert all(row.summary for row in SCORES.values())
