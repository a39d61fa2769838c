from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from modkernel.backbones import (
    BACKBONES,
    blocks_of,
    build_hidden,
    build_skeleton,
    output_shape,
)
from modkernel.errors import InterfaceError, SpecError, UnknownNameError
from modkernel.modules.tail import build_projection
from modkernel.spec import BackboneSpec, KernelSpec, Shape


def names_of(spec: BackboneSpec) -> tuple[str, ...]:
    return tuple(block.name for block in blocks_of(spec))


def whole(spec: BackboneSpec, takes: Shape, seed: int = 0) -> nn.Sequential:
    return build_hidden(spec, names_of(spec), takes, seed)


# ---- an independent post-activation ResNet, written as in the paper


class PlainBlock(nn.Module):
    def __init__(self, takes: int, gives: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(takes, gives, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(gives)
        self.conv2 = nn.Conv2d(gives, gives, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(gives)
        self.shortcut = nn.Sequential()
        if stride != 1 or takes != gives:
            self.shortcut = nn.Sequential(
                nn.Conv2d(takes, gives, 1, stride, bias=False), nn.BatchNorm2d(gives)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return functional.relu(out)


class PlainResNet18(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks, takes = [], width
        for stage in range(4):
            for index in range(2):
                gives = width * 2**stage
                blocks.append(PlainBlock(takes, gives, 2 if stage and not index else 1))
                takes = gives
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(functional.relu(self.bn(self.conv(x))))


def randomise_statistics(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copy tensors by the order in which both networks declare them: the names differ."""
    ours, theirs = source.state_dict(), target.state_dict()
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]
    target.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_resnet18_is_the_classic_one_with_its_last_relu_left_to_the_output_module(training):
    torch.manual_seed(0)
    ours = whole(BackboneSpec(name="resnet18", width=8), (3, 16, 16))
    randomise_statistics(ours)
    theirs = PlainResNet18(3, 8)
    copy_in_order(ours, theirs)
    ours.train(training)
    theirs.train(training)
    x = torch.randn(4, 3, 16, 16)
    mine = ours(x)
    assert mine.min() < 0, "a hidden module ends without nonlinearity"
    torch.testing.assert_close(mine.relu(), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "blocks", "parameters"),
    [
        # torchvision's networks less their classifier (512 or 2048 to 1000, and bias) and with a
        # 3x3 stem for 3 channels in place of the 7x7 one: 64 * 3 * (49 - 9) parameters fewer.
        ("resnet18", 9, 11_689_512 - 513_000 - 7_680),
        ("resnet34", 17, 21_797_672 - 513_000 - 7_680),
        ("resnet50", 17, 25_557_032 - 2_049_000 - 7_680),
        ("resnet101", 34, 44_549_160 - 2_049_000 - 7_680),
        ("resnet152", 51, 60_192_808 - 2_049_000 - 7_680),
    ],
)
def test_resnets_have_the_size_of_the_published_ones(name, blocks, parameters):
    spec = BackboneSpec(name=name)
    module, gives = build_skeleton(spec, names_of(spec), (3, 32, 32))
    assert len(module) == blocks
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert gives == (512 if blocks < 18 and name != "resnet50" else 2048, 4, 4)


def test_lenet5_has_the_usual_sizes():
    spec = BackboneSpec(name="lenet5")
    module = whole(spec, (1, 28, 28))
    shapes, shape = [], (1, 28, 28)
    for block in module:
        shape = output_shape(block, shape)
        shapes.append(shape)
    assert shapes == [(6, 28, 28), (16, 10, 10), (120,), (84,)]
    weights = [p for p in module.parameters() if p.dim() > 1]
    assert sum(p.numel() for p in weights) == 6 * 25 + 16 * 6 * 25 + 120 * 400 + 84 * 120


def test_width_scales_lenet5():
    spec = BackboneSpec(name="lenet5", width=12)
    assert output_shape(whole(spec, (3, 32, 32)), (3, 32, 32)) == (168,)


@given(
    depth=st.integers(1, 4),
    width=st.integers(1, 9),
    takes=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
)
@settings(max_examples=25, deadline=None)
def test_mlp_takes_vectors_and_images(depth, width, takes):
    spec = BackboneSpec(name="mlp", depth=depth, width=width)
    assert names_of(spec) == tuple(f"linear{i}" for i in range(1, depth + 1))
    assert output_shape(whole(spec, takes), takes) == (width,)


@given(
    name=st.sampled_from(["resnet18", "resnet50"]),
    channels=st.integers(1, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
)
@settings(max_examples=8, deadline=None)
def test_resnets_take_images_of_any_size(name, channels, height, width):
    spec = BackboneSpec(name=name, width=2)
    _, gives = build_skeleton(spec, names_of(spec), (channels, height, width))
    expansion = 4 if name == "resnet50" else 1
    assert gives == (16 * expansion, -(-height // 8), -(-width // 8))


SMALL = [
    (BackboneSpec(name="mlp", width=7, depth=4), (1, 4, 4)),
    (BackboneSpec(name="mlp", width=7, depth=3, activation="tanh"), (10,)),
    (BackboneSpec(name="lenet5"), (1, 16, 16)),
    (BackboneSpec(name="resnet18", width=4, activation="sigmoid"), (3, 8, 8)),
    (BackboneSpec(name="resnet50", width=2), (1, 8, 8)),
]


@pytest.mark.parametrize(("spec", "takes"), SMALL, ids=lambda v: getattr(v, "name", None))
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_cutting_anywhere_never_changes_the_function(spec, takes, training):
    names = names_of(spec)
    x = torch.randn(5, *takes)
    kept = x.clone()
    uncut = whole(spec, takes).train(training)
    expected = uncut(x)
    for position in range(1, len(names)):
        first = build_hidden(spec, names[:position], takes, seed=0).train(training)
        middle = output_shape(first, takes)
        second = build_hidden(spec, names[position:], middle, seed=0).train(training)
        h = first(x)
        before = h.clone()
        assert torch.equal(second(h), expected)
        assert torch.equal(h, before), "a module must leave its input alone: it may be stored"
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("spec", "takes"), SMALL, ids=lambda v: getattr(v, "name", None))
def test_only_the_front_of_later_blocks_is_not_affine(spec, takes):
    torch.manual_seed(0)
    shape = takes
    for index, block in enumerate(blocks_of(spec)):
        module = build_hidden(spec, (block.name,), shape, seed=0).eval()
        gives = output_shape(module, shape)
        module.double()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
                nn.init.constant_(part.weight, 10)
        x, y = torch.randn(2, 8, *shape, dtype=torch.float64)
        gap = module(x + y) - module(x) - module(y) + module(torch.zeros_like(x))
        assert (gap.abs().max() < 1e-9) == (index == 0)
        values = module(x)
        assert values.min() < 0, "no ReLU or sigmoid at the end"
        assert values.max() > 1, "no tanh or sigmoid at the end"
        shape = gives


def test_initial_weights_depend_on_seed_and_block_alone_and_leave_global_state():
    spec = BackboneSpec(name="resnet18", width=4)
    names = names_of(spec)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    together = whole(spec, (3, 8, 8), seed=3).state_dict()
    alone = build_hidden(spec, names[3:4], (4, 8, 8), seed=3).state_dict()
    other = build_hidden(spec, names[3:4], (4, 8, 8), seed=4).state_dict()
    build_projection(KernelSpec(name="relu"), (4,), 8, seed=3)
    build_skeleton(spec, names, (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert alone.keys() < together.keys()
    assert all(torch.equal(alone[key], together[key]) for key in alone)
    key = "layer2_0.body.conv1.weight"
    assert not torch.equal(alone[key], other[key])


def test_initial_weights_are_kaiming_fan_out():
    module = build_hidden(BackboneSpec(name="resnet18"), ("stem",), (3, 8, 8), seed=0)
    std = module.get_submodule("stem.conv").weight.std().item()
    assert std == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_projection_is_deterministic_and_ends_without_nonlinearity():
    relu = KernelSpec(name="relu")
    head, again, other = (build_projection(relu, (6,), 9, seed)[0] for seed in (1, 1, 2))
    x = torch.randn(32, 6)
    assert head(x).shape == (32, 9)
    assert torch.equal(head(x), again(x))
    assert not torch.equal(head(x), other(x))
    assert (head(x) < 0).any()


def test_output_shape_leaves_the_module_as_it_was():
    module = whole(BackboneSpec(name="resnet18", width=2), (1, 8, 8))
    module[3].eval()
    modes = [part.training for part in module.modules()]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert output_shape(module, (1, 8, 8)) == (16, 1, 1)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_skeleton_costs_no_memory_and_has_the_same_tensors():
    spec = BackboneSpec(name="resnet18", width=4)
    skeleton, gives = build_skeleton(spec, names_of(spec), (3, 8, 8))
    real = whole(spec, (3, 8, 8))
    assert {key: value.shape for key, value in skeleton.state_dict().items()} == {
        key: value.shape for key, value in real.state_dict().items()
    }
    assert all(value.is_meta for value in skeleton.state_dict().values())
    assert gives == output_shape(real, (3, 8, 8))


# ---- bad input


def test_unknown_backbone_lists_those_there_are():
    with pytest.raises(UnknownNameError, match=", ".join(BACKBONES)):
        blocks_of(BackboneSpec(name="resnet19"))


def test_unknown_block_lists_those_there_are():
    with pytest.raises(UnknownNameError, match="linear1, linear2"):
        build_hidden(BackboneSpec(name="mlp"), ("linear3",), (4,), seed=0)


def test_options_are_refused_by_built_in_backbones():
    with pytest.raises(SpecError, match="takes no options, but got widht"):
        blocks_of(BackboneSpec(name="mlp", options={"widht": 3}))


@pytest.mark.parametrize(
    ("name", "takes", "message"),
    [
        ("lenet5", (1, 8, 8), "at least 12x12 pixels, not 8x8: set dataset.image_size"),
        ("lenet5", (64,), r"not examples of shape \[64\]: use the backbone mlp"),
        ("resnet18", (8, 8), r"not examples of shape \[8, 8\]"),
    ],
)
def test_shapes_that_a_backbone_cannot_take(name, takes, message):
    with pytest.raises(InterfaceError, match=message):
        whole(BackboneSpec(name=name), takes)


def test_lenet5_takes_its_smallest_image_and_nothing_less():
    spec = BackboneSpec(name="lenet5")
    assert output_shape(whole(spec, (1, 12, 12)), (1, 12, 12)) == (84,)
    with pytest.raises(InterfaceError):
        whole(spec, (1, 12, 11))


def test_output_shape_of_a_misfit_names_the_shape():
    module = whole(BackboneSpec(name="resnet18", width=2), (3, 8, 8))
    with pytest.raises(InterfaceError, match=r"shape \[1, 8, 8\] do not fit"):
        output_shape(module, (1, 8, 8))
