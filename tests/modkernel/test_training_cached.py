"""Training on cached features of the upstream, and on fixed views: the same modules, resumable."""

from __future__ import annotations

import errno
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from modkernel.control import UNWATCHED, Control
from modkernel.data.augment import augment
from modkernel.data.sources import ExampleSource
from modkernel.errors import DataError, SettingsError, SpecError, StoppedError
from modkernel.features import compute
from modkernel.features.cache import FeatureCache
from modkernel.features.compute import MicroBatches, cache_entry, compute_features
from modkernel.features.extractor import frozen_upstream
from modkernel.features.sources import BATCH, Features, View
from modkernel.modules.stored import StoredModule
from modkernel.spec import KernelSpec, OutputSpec, Recipe
from modkernel.system.seeding import generator_for
from modkernel.training import pair_data, train_hidden, train_output
from modkernel.training.pair_data import PairData
from tests.modkernel.helpers.training_examples import (
    FACTS,
    FLOAT32,
    MLP,
    PREPROCESSING,
    labelled,
    made_images,
    output_spec_on,
    paired,
    plans,
    trained,
)
from tests.modkernel.test_training_hidden import equal

PLAIN = Recipe(epochs=3, batch_size=32)
AUGMENTED = Recipe(epochs=3, batch_size=32, crop_padding=1, flip=True)
VIEWS = AUGMENTED.changed(views=2)
PLENTY = 1 << 30


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredModule, StoredModule]:
    """A module, and one on it whose spec the tests take."""
    first, second = trained(tmp_path_factory.mktemp("chain"), PLAIN, modules=2)
    return first, second


@pytest.fixture(scope="module")
def undisturbed(below: tuple[StoredModule, StoredModule]) -> Callable[[Recipe], Any]:
    """What `fit` gives without a cache and in one go, by the recipe: each is trained once."""
    return functools.cache(lambda recipe: fit(below, recipe, None))


@dataclass
class Counted:
    """Examples that count how often they are asked for one."""

    images: ExampleSource
    asked: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        self.asked += sum(map(len, order))
        return self.images.batches(order, device)


def parts() -> tuple[PairData, PairData]:
    train, validation = paired(96), paired(30, 1)
    return (
        PairData(Counted(train.examples), train.pairs, "train"),
        PairData(Counted(validation.examples), validation.pairs, "validation"),
    )


def fit(
    below: tuple[StoredModule, StoredModule],
    recipe: Recipe,
    cache: FeatureCache | None,
    control: Control = UNWATCHED,
    seed: int = 0,
) -> tuple[dict[str, Tensor], tuple[float, ...], int]:
    """Weights and objectives of the second module, and how many raw examples that took."""
    first, second = below
    assert second.spec.hidden is not None
    hidden = second.spec.hidden.changed(recipe=recipe)
    spec = second.spec.changed(hidden=hidden, seed=seed)
    train, validation = parts()
    weights, report = train_hidden(
        spec, train, validation, [first], arithmetic=FLOAT32, control=control, cache=cache
    )
    assert isinstance(train.examples, Counted)
    assert isinstance(validation.examples, Counted)
    asked = train.examples.asked + validation.examples.asked
    return weights, tuple(line.objective for line in report.history), asked


@pytest.mark.parametrize("recipe", [PLAIN, AUGMENTED, VIEWS], ids=["plain", "fresh", "views"])
def test_a_cache_changes_no_bit_and_spares_the_upstream(
    recipe: Recipe,
    below: tuple[StoredModule, StoredModule],
    undisturbed: Callable[[Recipe], Any],
    tmp_path: Path,
) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    without = undisturbed(recipe)
    filling = fit(below, recipe, cache)
    filled = fit(below, recipe, cache)
    for other in (filling, filled):
        assert equal(without[0], other[0])
        assert without[1] == other[1]
    # Fresh views differ in every epoch: of them nothing can be cached.
    assert filled[2] == (3 * 96 if recipe is AUGMENTED else 0)


def test_candidates_on_one_upstream_share_its_output(
    below: tuple[StoredModule, StoredModule], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    for recipe in (PLAIN, VIEWS):
        assert fit(below, recipe, cache)[2] > 0
        other = recipe.changed(learning_rate=0.02, batch_size=48)
        assert fit(below, other, cache, seed=5)[2] == 0


def test_examples_that_are_no_whole_split_are_never_looked_for(
    below: tuple[StoredModule, StoredModule], tmp_path: Path
) -> None:
    first, second = below
    cache = FeatureCache(tmp_path, PLENTY)
    fit(below, PLAIN, cache)
    others = PairData(paired(96, 7).examples, paired(96, 7).pairs)
    with_cache, without = (
        train_hidden(second.spec, others, paired(30, 1), [first], arithmetic=FLOAT32, cache=each)[0]
        for each in (cache, None)
    )
    assert equal(with_cache, without)


@pytest.mark.parametrize("stop_after", [2, 5], ids=["mid-epoch-1", "mid-epoch-2"])
@pytest.mark.parametrize("recipe", [PLAIN, VIEWS], ids=["plain", "views"])
def test_stopped_and_resumed_is_bitwise_the_undisturbed_run(
    recipe: Recipe,
    stop_after: int,
    below: tuple[StoredModule, StoredModule],
    undisturbed: Callable[[Recipe], Any],
    tmp_path: Path,
) -> None:
    whole = undisturbed(recipe)
    cache = FeatureCache(tmp_path / "features", PLENTY)
    fit(below, recipe, cache)
    asked = itertools.count()
    checkpoints = tmp_path / "checkpoints"
    control = Control(checkpoints=checkpoints, stop=lambda: next(asked) >= stop_after)
    with pytest.raises(StoppedError, match="epoch"):
        fit(below, recipe, cache, control)
    # Resumed on another machine, whose cache is empty.
    resumed = fit(below, recipe, None, Control(checkpoints=checkpoints))
    assert equal(whole[0], resumed[0])
    assert whole[1] == resumed[1]


def test_epoch_e_is_trained_on_view_e_modulo_their_number(
    below: tuple[StoredModule, StoredModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a loop of its own: one view a number, made by hand, in the order of the epochs."""
    first, second = below
    images, _ = made_images(96)
    chain = frozen_upstream(second.spec, [first])
    by_hand = [
        chain(augment(images, 1, True, generator_for("view", number, 0))) for number in (0, 1)
    ]
    seen: list[Tensor] = []
    batches = Features.batches

    def watched(self: Features, order: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        for indices, values in zip(order, batches(self, order, device), strict=True):
            if len(self) == 96:
                number = len(seen) // 3 % 2  # Three steps an epoch.
                # Sums of another order, by the batch's size; another view differs by far more.
                torch.testing.assert_close(values, by_hand[number][indices], rtol=1e-4, atol=1e-4)
                seen.append(indices)
            yield values

    monkeypatch.setattr(Features, "batches", watched)
    fit(below, VIEWS.changed(epochs=5), None)
    assert len(seen) == 5 * 3


def test_more_views_than_epochs_are_not_computed(
    below: tuple[StoredModule, StoredModule], tmp_path: Path
) -> None:
    many = VIEWS.changed(views=50, epochs=2)
    assert fit(below, many, FeatureCache(tmp_path, PLENTY))[2] == 2 * 96 + 30


def test_views_differ_and_are_the_same_for_everyone() -> None:
    images = Features(made_images(BATCH + 40)[0])
    order = compute.in_order(len(images))

    def view(number: int) -> Tensor:
        return torch.cat(list(View(images, VIEWS, number).batches(order, torch.device("cpu"))))

    torch.manual_seed(3)
    first = view(0)
    torch.manual_seed(4)
    assert torch.equal(first, view(0))
    assert not torch.equal(first, view(1))
    assert not torch.equal(first, images.values)


def test_views_are_asked_for_where_they_mean_something() -> None:
    with pytest.raises(ValidationError, match="set crop_padding or flip too"):
        Recipe(views=4)
    (plan,) = plans(MLP, VIEWS, kernel="relu")
    with pytest.raises(SpecError, match="first module"):
        plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    spec = plan.spec("a" * 64, PREPROCESSING, FACTS, seed=0)
    below = spec.interface.changed(upstream=PREPROCESSING.id)
    with pytest.raises(SpecError, match="stored"):
        train_hidden(spec.changed(interface=below), *parts(), arithmetic=FLOAT32)


def test_a_recipe_without_views_has_the_digest_that_it_always_had() -> None:
    assert "views" not in Recipe(crop_padding=1).canonical_json()
    assert "views" in VIEWS.canonical_json()


def test_an_output_module_on_cached_features_is_the_same(
    below: tuple[StoredModule, StoredModule], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    for kernel in (None, KernelSpec(name="gaussian", sigma=1.0, centres=5)):
        spec = output_spec_on(below[0], OutputSpec(minimum_steps=5), kernel)
        for seed in (0, 1):  # The centres of a gaussian kernel are drawn by the seed.
            seeded = spec.changed(seed=seed)
            results = []
            for used in (None, cache, cache):
                train, test = (
                    replace(labelled(count, draw), split=name)
                    for count, draw, name in ((60, 0, "train"), (30, 1, "test"))
                )
                results.append(
                    train_output(seeded, train, test, [below[0]], arithmetic=FLOAT32, cache=used)
                )
            assert equal(results[0][0], results[1][0])
            assert equal(results[0][0], results[2][0])
            assert results[0][1].evaluation == results[2][1].evaluation


def test_without_room_on_the_disk_training_continues_in_memory(
    below: tuple[StoredModule, StoredModule],
    undisturbed: Callable[[Recipe], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = undisturbed(PLAIN)
    tiny = fit(below, PLAIN, FeatureCache(tmp_path / "tiny", 10))
    monkeypatch.setattr(os, "posix_fallocate", full)
    on_full_disk = fit(below, PLAIN, FeatureCache(tmp_path / "full", PLENTY))
    assert equal(whole[0], tiny[0])
    assert equal(whole[0], on_full_disk[0])
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_memory_does_not_hold_goes_to_a_file_without_a_name(
    below: tuple[StoredModule, StoredModule],
    undisturbed: Callable[[Recipe], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = undisturbed(PLAIN)
    monkeypatch.setattr(compute, "free_memory", lambda: 100)
    cache = FeatureCache(tmp_path, 0)
    assert equal(whole[0], fit(below, PLAIN, cache)[0])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SettingsError, match=r"No space left on device.*Make room"):
        fit(below, PLAIN, cache)


def test_a_batch_that_the_device_cannot_hold_is_halved(tmp_path: Path) -> None:
    sizes: list[int] = []

    def run(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        if len(batch) > 20:
            raise torch.OutOfMemoryError
        return 2 * batch

    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return run(x)

    values = torch.randn(300, 4)
    cache = FeatureCache(tmp_path, PLENTY)
    (plan,) = plans(MLP, PLAIN, kernel="relu")
    spec = plan.spec("a" * 64, PREPROCESSING, FACTS, seed=0)
    entry = cache_entry(cache, spec, "train", FLOAT32)
    found = compute_features(Narrow(), Features(values), FLOAT32, entry=entry)
    assert torch.equal(found.values, 2 * values)
    failed = [size for size in sizes if size > 20]
    assert failed == [128, 64, 32], "it is not tried again"

    def never(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(MicroBatches(never, torch.device("cpu")).outputs(values))


def test_views_share_what_of_a_gpu_one_source_may_have(
    below: tuple[StoredModule, StoredModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int | None] = []

    def noted(*arguments: Any, gpu_limit: int | None, **more: Any) -> Features:
        limits.append(gpu_limit)
        return compute_features(*arguments, gpu_limit=gpu_limit, **more)

    monkeypatch.setattr(pair_data, "compute_features", noted)
    monkeypatch.setattr(pair_data, "gpu_share", lambda _, sources: 1200 // sources)
    fit(below, VIEWS, None)
    assert limits == [400, 400, 400], "two views and the validation examples"
    limits.clear()
    fit(below, PLAIN, None)
    assert limits == [None, None]


def test_features_lie_on_a_gpu_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 4000))
    cuda = torch.device("cuda")
    assert [compute.gpu_share(cuda), compute.gpu_share(cuda, 5)] == [500, 100]
    assert compute.gpu_share(torch.device("cpu")) == 0
    values, other = torch.zeros(4), torch.device("meta")
    assert compute._on_gpu_if_small(values, other, 16).device == other
    assert compute._on_gpu_if_small(values, other, 15) is values


def test_no_examples_have_no_features() -> None:
    with pytest.raises(DataError, match="no examples"):
        compute_features(nn.Identity(), Features(torch.zeros(0, 4)), FLOAT32)
