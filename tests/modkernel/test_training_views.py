"""Hidden modules trained on views: no label has a part in it, and it resumes bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modkernel.control import UNWATCHED, Control
from modkernel.data import Resident, views
from modkernel.errors import InterfaceError, ModkernelError, PairError, SpecError, StoppedError
from modkernel.modules.stored import write_module
from modkernel.pairs.source import PairSource
from modkernel.plan import plan_hidden
from modkernel.spec import (
    BackboneSpec,
    HiddenSpec,
    KernelSpec,
    Preprocessing,
    Recipe,
    view_objective,
)
from modkernel.spec.pairs import VIEW_TEMPERATURE
from modkernel.system.seeding import generator_for
from modkernel.training.hidden import hidden_problem, train_hidden
from modkernel.training.pair_data import PairData
from tests.modkernel.helpers.devices import DEVICE, FLOAT32
from tests.modkernel.helpers.training_examples import (
    FACTS,
    MLP,
    PREPROCESSING,
    made_images,
    paired,
    plans,
)

pytestmark = pytest.mark.gpu

RECIPE = Recipe(epochs=2, batch_size=16, flip=True)
ON_VIEWS = FACTS.changed(pairs="views")


def viewed(count: int, seed: int = 0, labels: Tensor | None = None) -> PairData:
    images, _ = made_images(count, seed)
    return PairData(Resident.whole(images), PairSource.from_views(count, labels))


def fit(
    control: Control = UNWATCHED, labels: Tensor | None = None
) -> tuple[dict[str, Tensor], tuple[float | None, ...]]:
    (plan,) = plans(MLP, RECIPE, kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, ON_VIEWS, seed=3)
    train = viewed(48, labels=labels)
    weights, report = train_hidden(spec, train, viewed(20, 1), arithmetic=FLOAT32, control=control)
    return weights, tuple(line.validation for line in report.history)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stop_after", [1, 4], ids=["mid-epoch-1", "mid-epoch-2"])
def test_stopped_and_resumed_is_bitwise_the_undisturbed_run(
    stop_after: int, tmp_path: Path
) -> None:
    whole, curve = fit()
    steps = iter(range(100))
    with pytest.raises(StoppedError):
        fit(Control(checkpoints=tmp_path, stop=lambda: next(steps) >= stop_after))
    resumed, found = fit(Control(checkpoints=tmp_path))
    assert equal(whole, resumed)
    assert curve == found


def test_validation_is_on_the_same_views_in_every_epoch() -> None:
    (plan,) = plans(MLP, RECIPE, kernel="relu")
    images, _ = made_images(20, 1)
    values = []
    for seed in (3, 4):
        spec = plan.spec(PREPROCESSING.id, PREPROCESSING, ON_VIEWS, seed=seed)
        problem = hidden_problem(
            spec, viewed(48), viewed(20, 1), (), FLOAT32, UNWATCHED, None, None
        )
        problem.model.eval()
        assert problem.validate() == problem.validate()
        (order,) = problem.validation_order
        generator = generator_for(seed, "validation views", 0)
        drawn = views.draw_views(images[order], True, torch.ones(1), generator)
        x = views.viewed(images[order], drawn)
        with torch.no_grad():
            z = problem.model(problem.chain(x.to(DEVICE)))
            pairs = PairSource.from_views(20).for_batch(order)
            values.append(float(problem.objective(problem.kernel.gram(z, z), pairs)))
        assert problem.validate() == pytest.approx(values[-1], rel=1e-6)
    assert values[0] != values[1]


def test_views_train_on_stored_modules_afresh_in_every_step(tmp_path: Path) -> None:
    first, second = plans(MLP, RECIPE, modules=2, kernel="relu")
    below = first.spec(PREPROCESSING.id, PREPROCESSING, ON_VIEWS, seed=0)
    weights, _ = train_hidden(below, viewed(48), viewed(20, 1), arithmetic=FLOAT32)
    stored = write_module(tmp_path / "below", below, weights)
    spec = second.spec(stored.id, PREPROCESSING, ON_VIEWS, seed=0)
    a, report = train_hidden(spec, viewed(48), viewed(20, 1), [stored], arithmetic=FLOAT32)
    b, _ = train_hidden(spec, viewed(48), viewed(20, 1), [stored], arithmetic=FLOAT32)
    assert equal(a, b)
    assert len(report.history) == 2
    assert stored.id == write_module(tmp_path / "again", below, weights).id  # As it was.


VECTORS = Preprocessing(shape=(6,), dtype="float32", mean=(0.0,) * 6, std=(1.0,) * 6)


@pytest.mark.parametrize(
    ("recipe", "preprocessing", "error", "told"),
    [
        (Recipe(crop_padding=2), PREPROCESSING, SpecError, "leave crop_padding out"),
        (Recipe(flip=True, views=2), PREPROCESSING, SpecError, "leave views out"),
        (Recipe(flip=True), VECTORS, InterfaceError, "flip"),
    ],
)
def test_another_random_change_is_refused_before_training(
    recipe: Recipe, preprocessing: Preprocessing, error: type[ModkernelError], told: str
) -> None:
    (plan,) = plan_hidden(
        BackboneSpec(name="mlp", width=8), [HiddenSpec(recipe=recipe)], preprocessing.shape
    )
    spec = plan.spec("0" * 64, preprocessing, ON_VIEWS, seed=0)
    part = PairData(Resident.whole(torch.zeros(20, *preprocessing.shape)), viewed(20).pairs)
    with pytest.raises(error, match=told):
        train_hidden(spec, part, part, arithmetic=FLOAT32)


def test_vectors_with_missing_values_train() -> None:
    vectors = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    vectors[3, 2] = torch.nan
    hidden = HiddenSpec(
        kernel=KernelSpec(name="relu"), recipe=Recipe(epochs=20, batch_size=20, learning_rate=0.1)
    )
    (plan,) = plan_hidden(BackboneSpec(name="mlp", width=8), [hidden], (6,))
    spec = plan.spec(VECTORS.id, VECTORS, ON_VIEWS, seed=0)
    train, validation = (
        PairData(Resident(vectors, start, stop), PairSource.from_views(stop - start))
        for start, stop in ((0, 40), (40, 60))
    )
    weights, report = train_hidden(spec, train, validation, arithmetic=FLOAT32)
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert report.history[-1].objective > report.history[0].objective


def test_labels_beside_views_change_the_weights() -> None:
    _, labels = made_images(48)
    assert not equal(fit()[0], fit(labels=labels)[0])
    assert equal(fit()[0], fit(labels=torch.full((48,), -1))[0])


def test_both_parts_are_of_one_kind() -> None:
    (plan,) = plans(MLP, RECIPE, kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, ON_VIEWS, seed=3)
    with pytest.raises(PairError, match="same kind"):
        train_hidden(spec, viewed(48), paired(20, 1), arithmetic=FLOAT32)


def test_what_is_stored_says_that_no_label_was_seen() -> None:
    (plan,) = plans(MLP, RECIPE, kernel="relu")
    on_labels, on_views, on_both = (
        plan.spec(PREPROCESSING.id, PREPROCESSING, facts, seed=3)
        for facts in (FACTS, ON_VIEWS, FACTS.changed(pairs="views+labels"))
    )
    assert len({spec.digest() for spec in (on_labels, on_views, on_both)}) == 3
    assert not on_views.dataset.saw_labels
    assert on_both.dataset.saw_labels
    assert on_labels.dataset.saw_labels
    assert "pairs" not in on_labels.model_dump(mode="json")["dataset"]
    assert on_views.hidden.objective.temperature == VIEW_TEMPERATURE
    assert on_labels.hidden.objective.temperature is None
    own = plan.hidden.objective.changed(temperature=0.7)
    assert view_objective(own, True) == own
