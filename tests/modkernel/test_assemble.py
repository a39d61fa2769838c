from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from modkernel.errors import InterfaceError
from modkernel.modules.network import assemble, check_chain
from modkernel.modules.output import OutputModule
from modkernel.modules.preprocess import Normalise
from modkernel.modules.stored import StoredModule, write_module
from modkernel.spec import KernelSpec
from tests.modkernel.helpers.stored_examples import (
    PREPROCESSING,
    output_spec,
    store_hidden,
    store_output,
)

FIRST, SECOND = ("stem", "layer1.0"), ("layer1.1", "layer2.0")


@dataclass(frozen=True)
class Chain:
    stored: tuple[StoredModule, StoredModule, StoredModule]
    live: tuple[nn.Module, nn.Module, OutputModule]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    one, live_one = store_hidden(tmp_path / "1", FIRST, (1, 8, 8), PREPROCESSING.id)
    two, live_two = store_hidden(tmp_path / "2", SECOND, (2, 8, 8), one.id)
    out, live_out = store_output(tmp_path / "3", (4, 4, 4), two.id)
    return Chain((one, two, out), (live_one, live_two, live_out))


@pytest.fixture
def raw() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_a_network_is_its_modules_one_after_the_other(chain, raw):
    network = assemble(chain.stored)
    one, two, out = chain.live
    x = Normalise(PREPROCESSING)(raw)
    assert torch.equal(network.features(raw, upto=0), x)
    assert torch.equal(network.features(raw, upto=1), one(x))
    assert torch.equal(network.features(raw), two(one(x)))
    assert torch.equal(network(raw), out(two(one(x))))
    assert network.classes == ("0", "1", "2")
    assert network.stored == chain.stored


def test_predict_gives_probabilities(chain, raw):
    network = assemble(chain.stored)
    probabilities = network.predict(raw)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))
    assert torch.equal(probabilities.argmax(1), network(raw).argmax(1))
    torch.testing.assert_close(probabilities, torch.softmax(network(raw), 1))


def test_a_network_is_frozen_even_in_train_mode(chain, raw):
    network = assemble(chain.stored).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    logits = network(raw)
    assert not logits.requires_grad
    assert not any(part.training for part in network.modules())
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_hidden_modules_alone_give_features_only(chain, raw):
    network = assemble(chain.stored[:2])
    assert network.output is None
    assert network.classes is None
    assert network.features(raw).shape == (6, 4, 4, 4)
    with pytest.raises(InterfaceError, match=r"no output module.*train an output module"):
        network(raw)
    with pytest.raises(InterfaceError, match="no output module"):
        network.predict(raw)


def test_equal_shapes_do_not_suffice(tmp_path, chain):
    """A twin of module 1: same spec but for the seed, so the same shapes, and other weights."""
    _, two, out = chain.stored
    twin, _ = store_hidden(tmp_path / "twin", FIRST, (1, 8, 8), PREPROCESSING.id, seed=1)
    assert twin.spec.interface == chain.stored[0].spec.interface
    expected, found = two.spec.interface.stands_on[0][:12], twin.id[:12]
    message = f"Position 2 of 3 .* was trained on upstream {expected}, but stands on {found} here"
    with pytest.raises(InterfaceError, match=message):
        assemble([twin, two, out])


def test_the_first_module_must_stand_on_its_preprocessing(chain):
    with pytest.raises(InterfaceError, match=r"Position 1 of 2 .* stands on preprocessing "):
        check_chain(chain.stored[1:])


def test_a_gap_is_found_at_its_position(chain):
    with pytest.raises(InterfaceError, match=r"Position 2 of 2 .output module "):
        check_chain([chain.stored[0], chain.stored[2]])


def test_nothing_stands_on_an_output_module(tmp_path, chain):
    more, _ = store_output(tmp_path / "4", (3,), chain.stored[2].id, KernelSpec(name="relu"))
    with pytest.raises(InterfaceError, match=r"Position 3 of 4 .* must be the last"):
        check_chain([*chain.stored, more])


def test_shapes_must_meet_even_where_ids_do(tmp_path, chain):
    two, live = chain.stored[1], chain.live[2]
    wrong = write_module(
        tmp_path / "4", output_spec((4, 9, 9), two.id, KernelSpec()), live.state_dict()
    )
    message = r"Position 3 of 3 .* takes \[4, 9, 9\], but is given \[4, 4, 4\]"
    with pytest.raises(InterfaceError, match=message):
        check_chain([*chain.stored[:2], wrong])


def test_one_preprocessing_for_the_whole_chain(tmp_path, chain):
    other = PREPROCESSING.changed(mean=(0.5,))
    spec = chain.stored[2].spec.changed(preprocessing=other)
    wrong = write_module(tmp_path / "4", spec, chain.live[2].state_dict())
    with pytest.raises(InterfaceError, match=r"Position 3 of 3 .* names preprocessing"):
        check_chain([*chain.stored[:2], wrong])


def test_no_module_at_all():
    with pytest.raises(InterfaceError, match="no module to assemble"):
        assemble([])


def test_raw_examples_of_another_kind_are_refused(chain):
    network = assemble(chain.stored)
    with pytest.raises(InterfaceError, match=r"\[N, 1, 8, 8\]"):
        network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("upto", [-1, 3])
def test_there_is_no_such_hidden_module(chain, raw, upto):
    with pytest.raises(InterfaceError, match="2 hidden modules"):
        assemble(chain.stored).features(raw, upto=upto)
