"""Training under a tail: it learns, is thrown away, resumes, and leaves what is below alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modkernel.backbones import build_hidden
from modkernel.control import UNWATCHED, Control
from modkernel.errors import StoppedError
from modkernel.modules.stored import StoredModule, build_module, write_module
from modkernel.plan import plan_hidden
from modkernel.spec import BackboneSpec, HiddenModuleSpec, HiddenSpec, Recipe
from modkernel.training.hidden import train_hidden
from modkernel.training.loop import minimise
from modkernel.training.with_tail import WithTail, with_tail
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.training_examples import FACTS, PREPROCESSING, paired

pytestmark = pytest.mark.gpu

RESNET = BackboneSpec(name="resnet18", width=8)
BRIEF = Recipe(epochs=2, batch_size=32)
FIRST, SECOND = "layer1.1", "layer2.1"


def module_spec(until: str, below: StoredModule | None = None, **hidden: Any) -> HiddenModuleSpec:
    asked = HiddenSpec(until=until, recipe=BRIEF, **hidden)
    takes = PREPROCESSING.shape if below is None else below.spec.interface.gives
    start = None if below is None else FIRST
    (plan,) = plan_hidden(RESNET, [asked], takes, start, to_end=False)
    upstream = PREPROCESSING.id if below is None else below.id
    return plan.spec(upstream, PREPROCESSING, FACTS, seed=0)


def fit(
    spec: HiddenModuleSpec, chain: tuple[StoredModule, ...] = (), control: Control = UNWATCHED
) -> tuple[dict[str, Tensor], Any]:
    return train_hidden(spec, paired(96), paired(30, 1), chain, arithmetic=FLOAT32, control=control)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> StoredModule:
    spec = module_spec(FIRST)
    weights, _ = fit(spec)
    return write_module(tmp_path_factory.mktemp("first") / "module", spec, weights)


def test_nothing_of_a_tail_is_stored(first: StoredModule) -> None:
    assert first.spec.kind == "hidden"
    assert first.spec.hidden.tail == ("layer2.0", "layer3.0", "layer4.0")
    alone = build_hidden(RESNET, first.spec.blocks, PREPROCESSING.shape, seed=0)
    assert build_module(first).state_dict().keys() == alone.state_dict().keys()


def test_a_tail_decides_the_weights_and_not_the_initial_ones(first: StoredModule) -> None:
    bare = module_spec(FIRST, tail="none")
    assert equal(with_tail(bare)[0].module.state_dict(), initial(first).module.state_dict())
    assert not equal(fit(bare)[0], build_module(first).state_dict())


def initial(stored: StoredModule) -> WithTail:
    assert stored.spec.kind == "hidden"
    return with_tail(stored.spec)[0]


def test_a_tail_has_weights_of_its_own_by_the_seed_alone(first: StoredModule) -> None:
    torch.manual_seed(1)
    one = initial(first).tail
    torch.manual_seed(2)
    other = initial(first).tail
    assert one is not None
    assert other is not None
    assert equal(one.state_dict(), other.state_dict())
    later = build_hidden(RESNET, ("layer2.0",), (8, 8, 8), seed=0).state_dict()
    assert not torch.equal(
        one.state_dict()["layer2_0.body.conv1.weight"], later["layer2_0.body.conv1.weight"]
    )


def test_every_weight_of_module_and_tail_learns_and_none_below(
    first: StoredModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def keep(problem: Any, **options: Any) -> Any:
        before = {name: value.clone() for name, value in problem.model.state_dict().items()}
        result = minimise(problem, **options)
        seen.append((problem, before))
        return result

    monkeypatch.setattr("modkernel.training.hidden.minimise", keep)
    stored = {name: value.clone() for name, value in build_module(first).state_dict().items()}
    spec = module_spec(SECOND, first)
    assert spec.hidden.tail == ("layer3.0", "layer4.0")
    fit(spec, (first,))
    ((problem, before),) = seen
    for name, value in problem.model.named_parameters():
        assert value.grad is not None, name
        assert not torch.equal(value, before[name]), name
    assert any(name.startswith("tail.layer4_0") for name, _ in problem.model.named_parameters())
    below = problem.chain.state_dict()
    assert all(parameter.grad is None for parameter in problem.chain.parameters())
    found = [value for name, value in below.items() if name.endswith("stem.conv.weight")]
    assert found
    assert torch.equal(found[0].cpu(), stored["stem.conv.weight"])
    assert equal(build_module(first).state_dict(), stored)


@pytest.mark.parametrize("after", [1, 2, 4], ids=["first-epoch", "middle", "second-epoch"])
def test_stopped_in_an_epoch_and_resumed_is_bitwise_the_undisturbed_run(
    first: StoredModule, after: int, tmp_path: Path
) -> None:
    spec = module_spec(SECOND, first)
    whole, report = fit(spec, (first,))
    asked = itertools.count()
    looks: list[int] = []
    fit(spec, (first,), Control(stop=lambda: bool(looks.append(0))))
    # Before the first step it is asked while the inputs are computed.
    before = len(looks) - 2 * len(list(paired(96).pairs.batches(32, torch.Generator())))
    control = Control(checkpoints=tmp_path, stop=lambda: next(asked) >= before + after)
    with pytest.raises(StoppedError, match="the same command resumes"):
        fit(spec, (first,), control)
    weights, resumed = fit(spec, (first,), Control(checkpoints=tmp_path))
    assert equal(whole, weights)
    untimed = [line.changed(seconds=0.0) for line in report.history]
    assert [line.changed(seconds=0.0) for line in resumed.history] == untimed
