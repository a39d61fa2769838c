"""Whole networks as traced: they compute what the network does, in training too, cut anywhere."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from modkernel.backbones import blocks_of, build_hidden, build_skeleton
from modkernel.errors import CutError, SpecError
from modkernel.lookup import trusting
from modkernel.modules.imported import read_weights, write_network
from modkernel.plan import plan_hidden
from modkernel.spec import BackboneSpec, HiddenSpec, Preprocessing

HERE = "tests.modkernel.test_traced"
SHAPE = (3, 8, 8)
PIXELS = Preprocessing(shape=SHAPE, dtype="uint8", mean=(0.5,) * 3, std=(0.25,) * 3)


class Norm(nn.BatchNorm2d):
    """As timm's: a batch norm with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(x))


class Moving(nn.Module):
    """What depends on the mode, by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm = Norm(4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.norm(self.conv1(x)))
        h = functional.batch_norm(h, self.mean, self.var, training=self.training)
        return functional.dropout(h, 0.5 if self.training else 0.0, self.training).flatten(1)


class Statements(nn.Module):
    """Changes in place whose results nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        kept = h
        self.act(h)
        h.clamp_(max=1)
        torch.relu_(h)
        h = self.conv2(h + kept)
        functional.hardtanh(h, inplace=True)
        return h.flatten(1)


class InPlace(nn.Module):
    """An activation in place after an affine result, where modules are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.act = nn.BatchNorm2d(4), nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm(self.conv1(x)))).flatten(1)


class Views(nn.Module):
    """Changes a tensor through another name of it, which tracing cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = kept = self.conv1(x)
        h += 1
        h = h * kept
        return self.conv2(h).flatten(1)


class Shared(nn.Module):
    """One layer that is used three times, and an activation beside one of its second use's name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.step = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.act_1, self.fc = nn.ReLU(), nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.step(self.act(x))
        return self.fc(self.act_1(x).mean((2, 3)))


class Alike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
        self.block_0 = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_0(self.block(x)).flatten(1)


def whole(network: type[nn.Module]) -> BackboneSpec:
    return BackboneSpec(name=f"{HERE}:{network.__name__}", whole=True)


def built(network: type[nn.Module], source: nn.Module) -> nn.Sequential:
    """All blocks of a network, one after the other, with the weights of a network."""
    names = tuple(block.name for block in blocks_of(whole(network)))
    module, _ = build_skeleton(whole(network), names, SHAPE)
    values = source.state_dict()
    module.load_state_dict({key: values[key.partition(".")[2]] for key in module.state_dict()})
    return module


@pytest.fixture(autouse=True)
def trusted():
    with trusting(frozenset({"tests"})), torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("network", [Moving, Statements, Shared])
def test_blocks_compute_what_the_network_does(network):
    source = network().eval()
    example = torch.randn(5, *SHAPE)
    assert torch.equal(built(network, source).eval()(example), source(example))


def test_in_training_too():
    source = Moving().train()
    module = built(Moving, source).train()
    example = torch.randn(5, *SHAPE)
    torch.manual_seed(1)
    expected = source(example)
    torch.manual_seed(1)
    assert torch.equal(module(example), expected)
    moved = {key.partition(".")[2]: value for key, value in module.state_dict().items()}
    for name, value in source.state_dict().items():
        assert torch.equal(moved[name], value), name
    assert moved["var"].sub(1).abs().min() > 0
    assert moved["norm.num_batches_tracked"] == 1


def test_no_block_changes_what_it_takes():
    names = tuple(block.name for block in blocks_of(whole(InPlace)))
    assert names[:3] == ("conv1", "norm", "act")
    below = build_hidden(whole(InPlace), names[:2], SHAPE, 0).eval()
    features = below(torch.randn(2, *SHAPE))
    before = features.clone()
    _, gives = build_skeleton(whole(InPlace), names[:2], SHAPE)
    build_hidden(whole(InPlace), names[2:4], gives, 0).train()(features)
    assert torch.equal(features, before)


def test_a_layer_that_is_used_again_is_not_cut_into_several():
    names = [block.name for block in blocks_of(whole(Shared))]
    assert names == ["stem", "act", "step_2", "act_1", "mean", "fc"]
    module = build_hidden(whole(Shared), tuple(names), SHAPE, 0)
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in Shared().parameters()
    )


def test_layers_whose_names_are_one_are_refused():
    with pytest.raises(SpecError, match="block_0 more than once"):
        blocks_of(whole(Alike))


def test_what_tracing_cannot_see_is_not_imported(tmp_path):
    for network, seen in ((Statements, True), (Views, False)):
        path = tmp_path / f"{network.__name__}.safetensors"
        save_file(network().state_dict(), path)
        arguments = (tmp_path, whole(network), read_weights(path), ["conv2"], PIXELS, "mit")
        if seen:
            assert len(write_network(*arguments).modules) == 1
        else:
            with pytest.raises(SpecError, match="something else than what could be traced"):
                write_network(*arguments)


def test_a_module_without_weights_is_refused_before_any_trains():
    backbone = BackboneSpec(name="torchvision/resnet18")
    hidden = [HiddenSpec(until="layer4"), HiddenSpec(until="avgpool")]
    with pytest.raises(CutError, match=r"hidden\[1\]: A module of avgpool would have no weights"):
        plan_hidden(backbone, hidden, (3, 32, 32), to_end=False)
