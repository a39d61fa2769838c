"""Hidden modules: from pairs alone, on an upstream that stays as it is, resumable bit for bit."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modkernel.control import UNWATCHED, Control
from modkernel.data import Resident
from modkernel.errors import InterfaceError, NonFiniteError, PairError, SpecError, StoppedError
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_upstream
from modkernel.features.sources import Features
from modkernel.modules.stored import build_module
from modkernel.pairs.source import PairSource
from modkernel.plan import plan_hidden
from modkernel.spec import BackboneSpec, HiddenSpec, KernelSpec, ObjectiveSpec, OutputSpec, Recipe
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training.hidden import train_hidden
from modkernel.training.loop import minimise
from modkernel.training.pair_data import PairData
from modkernel.training.schedule import make_optimizer
from tests.modkernel.helpers.devices import DEVICE, FLOAT32
from tests.modkernel.helpers.training_examples import (
    FACTS,
    MLP,
    PREPROCESSING,
    RESNET,
    labelled,
    made_images,
    output_spec_on,
    paired,
    plans,
    trained,
)

pytestmark = pytest.mark.gpu

PLAIN = Recipe(epochs=2, batch_size=32)
AUGMENTED = Recipe(epochs=2, batch_size=32, crop_padding=1, flip=True)
RECIPES = {
    "plain": PLAIN,
    "augmented": AUGMENTED,
    "adamw-cosine": Recipe(
        epochs=2, batch_size=32, optimizer="adamw", learning_rate=0.01, schedule="cosine"
    ),
    "multistep-clipped": Recipe(
        epochs=2, batch_size=32, schedule="multistep", milestones=(1,), clip_norm=0.5
    ),
    "adam-constant": Recipe(
        epochs=2, batch_size=32, optimizer="adam", learning_rate=0.01, schedule="constant"
    ),
}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n].cpu(), b[n].cpu()) for n in a)


def fit(
    recipe: Recipe, control: Control = UNWATCHED
) -> tuple[dict[str, Tensor], tuple[float, ...]]:
    (plan,) = plans(RESNET, recipe)
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=3)
    weights, report = train_hidden(
        spec, paired(96), paired(30, 1), arithmetic=FLOAT32, control=control
    )
    return weights, tuple(line.objective for line in report.history)


undisturbed = functools.cache(fit)
"""Results of whole runs, by the recipe."""


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop_after", [1, 4], ids=["mid-epoch-1", "mid-epoch-2"])
def test_stopped_and_resumed_is_bitwise_the_undisturbed_run(
    recipe: Recipe, stop_after: int, tmp_path: Path
) -> None:
    whole = undisturbed(recipe)
    asked = itertools.count()
    control = Control(checkpoints=tmp_path, stop=lambda: next(asked) >= stop_after)
    with pytest.raises(StoppedError, match="the same command resumes"):
        fit(recipe, control)
    torch.rand(7)  # The state of the global generator in between must not matter.
    resumed = fit(recipe, Control(checkpoints=tmp_path))
    assert equal(whole[0], resumed[0])
    assert whole[1] == resumed[1]


def test_a_resumed_optimiser_has_the_layout_of_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.optim.Optimizer] = []

    def remember(*args: Any) -> torch.optim.Optimizer:
        made.append(make_optimizer(*args))
        return made[-1]

    monkeypatch.setattr("modkernel.training.loop.make_optimizer", remember)
    (plan,) = plans(BackboneSpec(name="resnet18", width=8), Recipe(epochs=2, batch_size=32))
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=3)
    parts = paired(96), paired(30, 1)
    asked = itertools.count()
    control = Control(checkpoints=tmp_path, stop=lambda: next(asked) >= 1)
    with pytest.raises(StoppedError):
        train_hidden(spec, *parts, arithmetic=FLOAT32, control=control)
    # Stopped again before its first step: what is looked at is what the checkpoint gave.
    control = Control(checkpoints=tmp_path, stop=lambda: True)
    with pytest.raises(StoppedError):
        train_hidden(spec, *parts, arithmetic=FLOAT32, control=control)
    stopped, resumed = (
        [
            state["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)
            for parameter, state in optimizer.state.items()
            if parameter.ndim == 4
        ]
        for optimizer in made
    )
    assert len(resumed) == len(stopped) > 10
    assert all(stopped) == all(resumed) == FLOAT32.channels_last


def test_a_run_killed_after_an_epoch_repeats_nothing_of_it(tmp_path: Path) -> None:
    def die(event: Mapping[str, Any]) -> None:
        if event["epoch"] == 1:
            raise KeyboardInterrupt

    whole = undisturbed(PLAIN)
    with pytest.raises(KeyboardInterrupt):
        fit(PLAIN, Control(checkpoints=tmp_path, progress=die))
    seen: list[int] = []
    resumed = fit(
        PLAIN, Control(checkpoints=tmp_path, progress=lambda event: seen.append(event["epoch"]))
    )
    assert seen == [2]
    assert equal(whole[0], resumed[0])


def test_a_damaged_checkpoint_starts_again(tmp_path: Path) -> None:
    fit(PLAIN, Control(checkpoints=tmp_path))
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert equal(fit(PLAIN, Control(checkpoints=tmp_path))[0], undisturbed(PLAIN)[0])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    fit(PLAIN)
    assert torch.equal(before, torch.get_rng_state())


def test_the_objective_rises_and_the_best_epoch_is_kept() -> None:
    (plan,) = plans(RESNET, Recipe(epochs=6, batch_size=32))
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    _, report = train_hidden(spec, paired(96), paired(30, 1), arithmetic=FLOAT32)
    assert report.history[-1].objective > report.history[0].objective
    values = [line.validation for line in report.history]
    best = max(value for value in values if value is not None)
    assert report.history[report.best_epoch - 1].validation == best


def test_the_upstream_is_frozen_and_in_eval_mode(tmp_path: Path) -> None:
    (below,) = trained(tmp_path, Recipe(epochs=1, batch_size=32))
    chain = frozen_upstream(output_spec_on(below, OutputSpec()), [below])
    assert not any(parameter.requires_grad for parameter in chain.parameters())
    assert not any(module.training for module in chain.modules())


@pytest.mark.parametrize("recipe", [PLAIN, AUGMENTED], ids=["cached", "augmented"])
def test_the_whole_chain_is_bitwise_unchanged_by_a_module_on_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very tensors that training used, not a copy read from the files."""
    chains = []

    def remember(*args: Any) -> torch.nn.Sequential:
        chain = frozen_upstream(*args)
        chains.append((chain, {n: v.clone() for n, v in chain.state_dict().items()}))
        return chain

    monkeypatch.setattr("modkernel.training.hidden.frozen_upstream", remember)
    trained(tmp_path, recipe, modules=3)
    assert len(chains) == 3
    for chain, before in chains:
        assert equal(before, chain.state_dict())
        assert all(parameter.grad is None for parameter in chain.parameters())


def test_a_stop_is_heard_while_the_upstream_runs(tmp_path: Path) -> None:
    first, second = trained(tmp_path, Recipe(epochs=1, batch_size=32), modules=2)
    with pytest.raises(StoppedError, match="modules below"):
        train_hidden(
            second.spec,
            paired(96),
            paired(30, 1),
            [first],
            arithmetic=FLOAT32,
            control=Control(stop=lambda: True),
        )


def test_features_are_the_chain_s_output(tmp_path: Path) -> None:
    (stored,) = trained(tmp_path, Recipe(epochs=1, batch_size=32))
    above = output_spec_on(stored, OutputSpec())
    data = labelled(50)
    chain = FLOAT32.place(frozen_upstream(above, [stored]))
    features = compute_features(chain, data.examples, FLOAT32)
    images, _ = made_images(50)
    direct = build_module(stored)((images / 255 - 0.5) / 0.25)
    torch.testing.assert_close(features.values.cpu(), direct.detach())


def test_bfloat16_trains_to_float32_weights() -> None:
    (plan,) = plans(RESNET, PLAIN)
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    arithmetic = Arithmetic(DEVICE, torch.bfloat16)
    weights, report = train_hidden(spec, paired(96), paired(30, 1), arithmetic=arithmetic)
    assert report.precision == "bfloat16"
    assert report.threads == (torch.get_num_threads() if DEVICE.type == "cpu" else None)
    floating = [w for w in weights.values() if w.is_floating_point()]
    assert {w.dtype for w in floating} == {torch.float32}
    assert all(w.isfinite().all() for w in floating)
    exact, _ = train_hidden(spec, paired(96), paired(30, 1), arithmetic=FLOAT32)
    assert not equal(weights, exact)


def test_a_class_id_cannot_be_passed_to_hidden_training() -> None:
    images = paired(30).examples
    labels: Any = torch.arange(30) % 3
    with pytest.raises(PairError, match="PairSource"):
        PairData(images, labels)


def test_renaming_the_classes_changes_nothing() -> None:
    _, labels = made_images(96)
    renamed = torch.tensor([41, 7, 1000])[labels]
    (plan,) = plans(MLP, PLAIN, kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    results = [
        train_hidden(
            spec,
            PairData(paired(96).examples, PairSource.from_classes(each)),
            paired(30, 1),
            arithmetic=FLOAT32,
        )[0]
        for each in (labels, renamed)
    ]
    assert equal(*results)


def test_a_pair_list_trains_a_module() -> None:
    data = paired(60)
    _, labels = made_images(60)
    i, j = torch.combinations(torch.arange(60)).unbind(1)
    picks = torch.randperm(len(i), generator=torch.Generator().manual_seed(0))[:300]
    i, j = i[picks], j[picks]
    source = PairSource.from_pairs(60, i, j, labels[i] == labels[j])
    first, second = source.split(0.2, seed=0)
    (plan,) = plans(MLP, Recipe(epochs=6, batch_size=32), kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    _, report = train_hidden(
        spec,
        PairData(data.examples, first),
        PairData(data.examples, second),
        arithmetic=FLOAT32,
    )
    assert report.history[-1].objective > report.history[0].objective


def test_pairs_no_two_of_which_share_an_example_train_the_default_objective() -> None:
    i = torch.arange(0, 60, 2)
    pairs = PairSource.from_pairs(60, i, i + 1, i < 30)
    data = PairData(paired(60).examples, pairs)
    (plan,) = plans(MLP, Recipe(epochs=2, batch_size=32), kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    _, report = train_hidden(spec, data, data, arithmetic=FLOAT32)
    first, last = (line.validation for line in report.history)
    assert first != last < 0


@pytest.mark.parametrize("objective", ["anchor_contrastive", "group_contrastive"])
def test_an_objective_that_is_the_same_in_every_epoch_is_told_of(objective: str) -> None:
    (plan,) = plans(MLP, Recipe(epochs=2, batch_size=32), kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    spec = spec.changed(hidden=spec.hidden.changed(objective=ObjectiveSpec(name=objective)))
    images, labels = made_images(30)
    alike = PairData(Resident.whole(images[:1].expand_as(images)), PairSource.from_classes(labels))
    told: list[Any] = []
    control = Control(progress=told.append)
    train_hidden(spec, paired(60), alike, arithmetic=FLOAT32, control=control)
    (note,) = [event["text"] for event in told if event["event"] == "note"]
    assert "another learning rate" in note


def test_both_parts_of_a_pair_list_share_the_upstream_s_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = trained(tmp_path, Recipe(epochs=1, batch_size=32), modules=2)
    data = paired(60)
    i, j = torch.combinations(torch.arange(60)).unbind(1)
    source = PairSource.from_pairs(60, i, j, i % 3 == j % 3)
    parts = [PairData(data.examples, part) for part in source.split(0.2, seed=0)]
    counted = []

    def count(*args: Any, **options: Any) -> Features:
        counted.append(args)
        return compute_features(*args, **options)

    monkeypatch.setattr("modkernel.training.pair_data.compute_features", count)
    train_hidden(second.spec, *parts, [first], arithmetic=FLOAT32)
    assert len(counted) == 1


def test_pairs_of_other_examples_are_refused() -> None:
    with pytest.raises(PairError, match="Pairs of 30 examples do not belong to 31"):
        PairData(paired(31).examples, paired(30).pairs)


def test_a_projection_head_is_used_and_thrown_away() -> None:
    (plan,) = plans(RESNET, PLAIN)
    bare = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    hidden = bare.hidden
    assert hidden is not None
    headed = bare.model_copy(update={"hidden": hidden.changed(tail={"projection": 8})})
    without, _ = train_hidden(bare, paired(96), paired(30, 1), arithmetic=FLOAT32)
    with_head, report = train_hidden(headed, paired(96), paired(30, 1), arithmetic=FLOAT32)
    assert with_head.keys() == without.keys()
    assert not equal(with_head, without)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [value for name, value in with_head.items() if not name.endswith(buffers)]
    assert report.parameters == sum(value.numel() for value in parameters)


def test_an_infinite_loss_stops_with_a_remedy() -> None:
    with pytest.raises(NonFiniteError, match="learning_rate"):
        fit(Recipe(epochs=3, batch_size=32, learning_rate=1e30, schedule="constant"))


def test_a_validation_value_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    class Undefined:
        model = torch.nn.Linear(2, 1)
        steps = 1

        def batches(self, generator: torch.Generator) -> list[Tensor]:
            return [torch.arange(4)]

        def load(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
            return (torch.ones(len(indices), 2) for indices in order)

        def loss(self, raw: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
            return self.model(raw).square().mean()

        def validate(self) -> float:
            return float("nan")

    control = Control(checkpoints=tmp_path)
    with pytest.raises(NonFiniteError, match="value on the validation part"):
        minimise(Undefined(), recipe=Recipe(epochs=2), seed=0, control=control)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_bfloat16_is_chosen_where_the_processor_has_it(
    avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_arithmetic("cpu").name == ("bfloat16" if avx512 or amx else "float32")
    assert choose_arithmetic("cpu", "float32").name == "float32"
    assert choose_arithmetic("cpu", "bfloat16").name == "bfloat16"


def test_another_upstream_is_refused(tmp_path: Path) -> None:
    first, second = trained(tmp_path, Recipe(epochs=1, batch_size=32), modules=2)
    with pytest.raises(InterfaceError, match="whole chain"):
        train_hidden(second.spec, paired(96), paired(30, 1), arithmetic=FLOAT32)
    with pytest.raises(InterfaceError, match="whole chain"):
        train_hidden(first.spec, paired(96), paired(30, 1), [first], arithmetic=FLOAT32)


def test_an_output_module_is_not_trained_here(tmp_path: Path) -> None:
    (stored,) = trained(tmp_path, Recipe(epochs=1, batch_size=32))
    spec = output_spec_on(stored, OutputSpec())
    with pytest.raises(SpecError, match="train_output"):
        train_hidden(spec, paired(96), paired(30, 1), [stored], arithmetic=FLOAT32)


def test_one_class_has_no_pair_to_learn_from() -> None:
    single = PairData(paired(30).examples, PairSource.from_classes(torch.zeros(30).long()))
    (plan,) = plans(MLP, PLAIN, kernel="relu")
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    with pytest.raises(PairError, match="different classes"):
        train_hidden(spec, single, single, arithmetic=FLOAT32)


def test_negative_pairs_alone_train_a_tanh_module() -> None:
    hidden = HiddenSpec(
        kernel=KernelSpec(name="tanh"),
        objective=ObjectiveSpec(name="nmse_neo"),
        recipe=Recipe(epochs=5, batch_size=32),
    )
    (plan,) = plan_hidden(MLP, [hidden], PREPROCESSING.shape)
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    _, report = train_hidden(spec, paired(96), paired(30, 1), arithmetic=FLOAT32)
    assert report.history[-1].objective > report.history[0].objective
