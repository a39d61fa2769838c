"""Hidden modules that start from stored ones: from the very weights, frozen blocks untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from modkernel.control import UNWATCHED, Control
from modkernel.errors import InterfaceError, SpecError, StoppedError
from modkernel.modules.imported import read_weights, write_network
from modkernel.modules.stored import StoredModule, stored_weights
from modkernel.plan import HiddenPlan, plan_hidden
from modkernel.spec import BackboneSpec, HiddenModuleSpec, HiddenSpec, Recipe
from modkernel.spec.recipe import ADAPTING_RATE
from modkernel.training.hidden import train_hidden
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.training_examples import FACTS, PREPROCESSING, RESNET, paired, trained
from tests.modkernel.test_imported import TINY, Tiny, saved
from tests.modkernel.test_training_hidden import equal

SHORT = Recipe(epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> StoredModule:
    (stored,) = trained(tmp_path_factory.mktemp("source"), SHORT)
    return stored


def planned(source: StoredModule, backbone: BackboneSpec = RESNET, **fields: object) -> HiddenPlan:
    values = {"start_from": "net.hidden-1", "recipe": SHORT, "until": source.spec.blocks[-1]}
    hidden = HiddenSpec.model_validate(values | fields)
    (plan,) = plan_hidden(backbone, [hidden], PREPROCESSING.shape, to_end=False)
    return plan.starting_from(source.id, "net.hidden-1", source.spec)


def spec_of(plan: HiddenPlan) -> HiddenModuleSpec:
    return plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=3)


def adapt(
    spec: HiddenModuleSpec, source: StoredModule | None, control: Control = UNWATCHED
) -> dict[str, Tensor]:
    weights, _ = train_hidden(
        spec, paired(96), paired(30, 1), arithmetic=FLOAT32, control=control, start=source
    )
    return weights


def test_training_starts_from_the_very_weights(source):
    spec = spec_of(planned(source, recipe=SHORT.changed(learning_rate=1e-30)))
    found, started = adapt(spec, source), stored_weights(source)
    learnt = [name for name in found if "running" not in name and "num_batches" not in name]
    assert learnt
    assert all(torch.equal(found[name], started[name]) for name in learnt)
    assert not equal(found, adapt(spec_of(planned(source)), source))


def test_frozen_blocks_stay_bit_for_bit(source):
    spec = spec_of(planned(source, freeze=0.5, recipe=Recipe(epochs=2, batch_size=32)))
    # 9 blocks: 4 are frozen, with the statistics of their batch norms.
    blocks = [block.replace(".", "_") for block in spec.blocks[:4]]
    found, started = adapt(spec, source), stored_weights(source)
    for name, value in found.items():
        kept = name.partition(".")[0] in blocks
        assert torch.equal(value, started[name]) == kept or value.numel() == 1, name


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_resumed_adaptation_is_the_undisturbed_one(source, tmp_path: Path, stop_after: int):
    spec = spec_of(planned(source, freeze=0.3, recipe=Recipe(epochs=3, batch_size=32)))
    calls = iter(range(100))
    stopping = Control(checkpoints=tmp_path, stop=lambda: next(calls) == stop_after)
    with pytest.raises(StoppedError):
        adapt(spec, source, stopping)
    resumed = adapt(spec, source, Control(checkpoints=tmp_path))
    assert equal(resumed, adapt(spec, source))


def test_the_digest_covers_source_and_share(source, tmp_path):
    (other,) = trained(tmp_path, SHORT.changed(weight_decay=0.1))
    plans = [planned(source), planned(source, freeze=0.5), planned(other)]
    (fresh,) = plan_hidden(RESNET, [HiddenSpec(recipe=plans[0].hidden.recipe)], (1, 8, 8))
    digests = {spec_of(plan).digest() for plan in (*plans, fresh)}
    assert len(digests) == 4
    # However the reference was written.
    again = planned(source, start_from=source.id)
    assert spec_of(again).digest() == spec_of(plans[0]).digest()
    assert spec_of(again).source == "net.hidden-1"
    with pytest.raises(SpecError, match="start_from names by its id"):
        adapt(spec_of(plans[0]), other)
    with pytest.raises(SpecError, match="fresh weights"):
        adapt(spec_of(fresh), source)


def test_the_rate_is_a_tenth_unless_one_is_given():
    for recipe, rate in (
        ({}, ADAPTING_RATE),
        (Recipe(epochs=3), ADAPTING_RATE),
        ({"learning_rate": 0.1}, 0.1),
        (Recipe(learning_rate=0.2), 0.2),
    ):
        hidden = HiddenSpec.model_validate({"start_from": "a", "recipe": recipe})
        assert hidden.recipe.learning_rate == rate
        assert HiddenSpec.model_validate_json(hidden.model_dump_json()) == hidden
    assert HiddenSpec(start_from="a").recipe.learning_rate == ADAPTING_RATE
    assert HiddenSpec().recipe.learning_rate == 0.1


def test_an_imported_module_is_adapted(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        path = saved(Tiny(), tmp_path / "tiny.safetensors")
    made = write_network(tmp_path, TINY, read_weights(path), ["add_1"], PREPROCESSING, "mit")
    spec = spec_of(planned(made.modules[0], TINY, freeze=0.25))
    assert spec.blocks == ("stem", "add", "mul", "add_1")
    found, started = adapt(spec, made.modules[0]), stored_weights(made.modules[0])
    assert torch.equal(found["stem.stem.weight"], started["stem.stem.weight"])
    assert not torch.equal(found["add.body.1.weight"], started["add.body.1.weight"])
    none_left = spec_of(planned(made.modules[0], TINY, freeze=0.8))
    with pytest.raises(SpecError, match="no weights to train"):
        adapt(none_left, made.modules[0])


def test_what_cannot_be_started_from(source):
    with pytest.raises(InterfaceError, match=r"of width 2.*must be of the same blocks.*of width 4"):
        planned(source, RESNET.changed(width=4))
    with pytest.raises(InterfaceError, match=r"not stem to layer2\.1"):
        planned(source, until="layer2.1")
    with pytest.raises(SpecError, match="is none of them"):
        planned(source, freeze=0.1)
    with pytest.raises(ValidationError, match="'start_from' names"):
        HiddenSpec(freeze=0.5)
    unresolved = plan_hidden(RESNET, [HiddenSpec(start_from="a")], (1, 8, 8))[0]
    with pytest.raises(SpecError, match="'train', 'train-module' and 'retrain' alone"):
        spec_of(unresolved)
