"""Tails: what 'auto' comes to, which blocks fit, and what is stored of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from modkernel.backbones import Block, blocks_of
from modkernel.backbones.build import course_of
from modkernel.backbones.tail import AUTO_BLOCKS
from modkernel.errors import InterfaceError, UnknownNameError
from modkernel.lookup import trusting
from modkernel.modules.tail import build_tail
from modkernel.plan import plan_hidden
from modkernel.spec import (
    BackboneSpec,
    DatasetFacts,
    HiddenModuleSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    Preprocessing,
    Projection,
    Recipe,
    parse_module_spec,
)

RESNET18 = BackboneSpec(name="resnet18", width=2)
RESNET50 = BackboneSpec(name="resnet50", width=1)
LENET = BackboneSpec(name="lenet5")
MLP = BackboneSpec(name="mlp", width=4, depth=6)
OWN = BackboneSpec(name="tests.modkernel.test_tail:widening")
TORCHVISION = BackboneSpec(name="torchvision/resnet18")
IMAGE = (1, 16, 16)
FACTS = DatasetFacts(name="digits", fingerprint="0" * 64, classes=("0", "1", "2"))
PREPROCESSING = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.3,), std=(0.2,))


def widening(spec: BackboneSpec) -> list[Block]:
    """Two stages; the second layer of each gives more channels than the first, so that the next
    stage's first block does not take what this stage's first block gives."""

    def layer(channels: int) -> Any:
        return lambda takes: nn.Conv2d(takes[0], channels, 1)

    return [
        Block("a0", layer(2), stage="a"),
        Block("a1", layer(3), stage="a"),
        Block("b0", layer(3), stage="b"),
        Block("b1", layer(4), stage="b"),
        Block("c", layer(4)),
    ]


def tails(backbone: BackboneSpec, untils: tuple[str, ...], **fields: Any) -> list[Any]:
    hidden = [HiddenSpec(until=until, **fields) for until in untils]
    return [plan.hidden.tail for plan in plan_hidden(backbone, hidden, IMAGE, to_end=False)]


@pytest.mark.parametrize(
    ("backbone", "until", "expected"),
    [
        (RESNET18, "stem", ("layer2.0", "layer3.0", "layer4.0")),
        (RESNET18, "layer1.1", ("layer2.0", "layer3.0", "layer4.0")),
        (RESNET18, "layer2.0", ("layer3.0", "layer4.0")),
        (RESNET18, "layer3.1", ("layer4.0",)),
        (RESNET18, "layer4.0", ("layer4.1",)),  # No later stage: what follows.
        (RESNET18, "layer4.1", "none"),  # Nothing follows.
        # A stem gives fewer channels than layer2.0 takes: by layer1.0, three in all.
        (RESNET50, "stem", ("layer1.0", "layer2.0", "layer3.0")),
        (RESNET50, "layer1.2", ("layer2.0", "layer3.0", "layer4.0")),
        (LENET, "conv1", ("conv2", "fc1", "fc2")),
        (LENET, "fc1", ("fc2",)),
        (MLP, "linear1", ("linear2", "linear3", "linear4")),
        (MLP, "linear5", ("linear6",)),
        (OWN, "a0", ("a1", "b0", "b1")),
        (OWN, "a1", ("b0", "b1", "c")),
        (OWN, "b0", ("b1", "c")),
        # Its blocks are sums, and the ReLU after each.
        (TORCHVISION, "layer1", ("layer2.0.add", "layer3.0.add", "layer4.0.add")),
        # Neither the average nor the classifier of a whole network.
        (TORCHVISION, "layer4.0", ("layer4.1.add",)),
        (TORCHVISION, "layer4", "none"),
    ],
)
def test_what_auto_comes_to(backbone: BackboneSpec, until: str, expected: object) -> None:
    image = (3, 64, 64) if backbone is TORCHVISION else IMAGE
    with trusting((OWN.name,)):
        (plan,) = plan_hidden(backbone, [HiddenSpec(until=until)], image, to_end=False)
    assert plan.hidden.tail == expected


def test_the_last_module_of_a_network_has_none_unless_it_is_asked_for() -> None:
    plans = plan_hidden(RESNET18, [HiddenSpec()] * 4, IMAGE)
    assert [plan.hidden.tail for plan in plans] == [
        ("layer2.0", "layer3.0", "layer4.0"),
        ("layer3.0", "layer4.0"),
        ("layer4.0",),
        "none",
    ]
    asked = HiddenSpec(tail=("layer4.1",))
    (alone,) = plan_hidden(RESNET18, [asked], IMAGE)
    assert alone.hidden.tail == ("layer4.1",)
    whole = [HiddenSpec(until="layer1"), HiddenSpec(until="layer3")]
    assert plan_hidden(TORCHVISION, whole, (3, 64, 64))[1].hidden.tail == "none"


def test_a_number_is_of_following_blocks_as_many_as_there_are() -> None:
    untils = ("layer1.0", "layer3.1", "layer4.1")
    assert tails(RESNET18, untils, tail=3) == [
        ("layer1.1", "layer2.0", "layer2.1"),
        ("layer4.0", "layer4.1"),
        "none",
    ]


@settings(max_examples=12, deadline=None)
@given(
    backbone=st.sampled_from([RESNET18, LENET, MLP, OWN]),
    cut=st.integers(0, 30),
    tail=st.sampled_from(["auto", 1, 2, 5]),
    side=st.sampled_from([12, 17]),
)
def test_each_block_of_a_tail_follows_the_module_and_takes_what_it_gets(
    backbone: BackboneSpec, cut: int, tail: Any, side: int
) -> None:
    with trusting((OWN.name,)):
        names = [block.name for block in blocks_of(backbone)]
        until = names[cut % len(names)]
        hidden = HiddenSpec(until=until, tail=tail)
        (plan,) = plan_hidden(backbone, [hidden], (1, side, side), to_end=False)
        course = {one.name: one for one in course_of(backbone, (1, side, side), None)}
        spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
        built, kernel = build_tail(spec)
    blocks = () if plan.hidden.tail == "none" else plan.hidden.tail
    assert isinstance(blocks, tuple)
    assert bool(blocks) == (until != names[-1])
    assert len(blocks) <= (AUTO_BLOCKS if tail == "auto" else tail)
    assert [name for name in names if name in blocks] == list(blocks)
    assert not set(blocks) & set(names[: names.index(until) + 1])
    shape = plan.gives
    for name in blocks:
        assert course[name].takes == shape
        shape = course[name].gives
    if built is not None:
        assert built.eval()(torch.zeros(2, *plan.gives)).shape == (2, *shape)
        assert kernel.name == ("relu_avgpool" if len(shape) == 3 else "relu")


def test_a_pool_that_the_tail_leaves_no_map_for_is_of_the_whole_map() -> None:
    hidden = HiddenSpec(until="layer1.1", kernel=KernelSpec(pool=4))
    (plan,) = plan_hidden(RESNET18, [hidden], IMAGE, to_end=False)
    _, kernel = build_tail(plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0))
    assert kernel == KernelSpec(pool=None, sigma=1.0), "the last stage gives maps of 2 x 2"
    (small,) = plan_hidden(RESNET18, [hidden.changed(tail=1)], IMAGE, to_end=False)
    _, kernel = build_tail(small.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0))
    assert kernel == KernelSpec(pool=4, sigma=1.0)


@pytest.mark.parametrize(
    ("tail", "error", "message"),
    [
        (
            ("layer3.0",),
            InterfaceError,
            r"hidden\[0\].tail: Block 'layer3.0' takes \[4, 8, 8\], and gets \[2, 16, 16\] from "
            "'layer1.1'",
        ),
        (
            ("layer2.0", "layer2.0.x"),
            UnknownNameError,
            r"hidden\[0\].tail: .*'layer2.0.x'.*layer4.1",
        ),
        (("layer2.0", "layer4.0"), InterfaceError, "gets .* from 'layer2.0'"),
    ],
)
def test_blocks_that_do_not_fit_are_named(
    tail: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tails(RESNET18, ("layer1.1",), tail=tail)


@pytest.mark.parametrize(
    "tail", [0, -1, True, 1.5, "2", "never", [], ["a", "a"], ["a", 1], {"projection": 0},
             {"units": 3}, {"projection": 3, "more": 1}, None],
)  # fmt: skip
def test_what_is_no_tail_is_refused(tail: Any) -> None:
    with pytest.raises(ValidationError, match="tail"):
        HiddenSpec(tail=tail)


def test_a_projection_is_one_kind_of_tail() -> None:
    assert HiddenSpec(projection=8) == HiddenSpec(tail={"projection": 8})
    assert HiddenSpec(projection=8).tail == Projection(projection=8)
    assert HiddenSpec(projection=None).tail == "auto"
    with pytest.raises(ValidationError, match="give one of the two"):
        HiddenSpec(projection=8, tail=2)
    changed = HiddenSpec(projection=8).changed(tail="none")
    assert changed.tail == "none"


@pytest.mark.parametrize(
    "tail", ["auto", "none", 2, ("layer2.0", "layer3.0"), Projection(projection=8)]
)
def test_specs_keep_their_tails_as_json(tail: Any) -> None:
    spec = NetworkSpec(name="a", hidden=(HiddenSpec(tail=tail),))
    assert NetworkSpec.model_validate_json(spec.model_dump_json()) == spec
    assert NetworkSpec(**spec.model_dump(mode="json")) == spec


def stored(
    hidden: list[HiddenSpec], place: int, takes: tuple[int, ...] = (3, 8, 8),
    backbone: BackboneSpec = RESNET18,
) -> HiddenModuleSpec:  # fmt: skip
    upstream = "preprocessing-" + "0" * 64 if place == 0 else "1" * 64
    plan = plan_hidden(backbone, hidden, takes)[place]
    return plan.spec(upstream, PREPROCESSING, FACTS, 3)


NONE, EIGHT = HiddenSpec(tail="none"), HiddenSpec(projection=8)


@pytest.mark.parametrize(
    ("hidden", "place", "digest"),
    [
        ([HiddenSpec()], 0, "59d124a225c58f68e10cf187e386805b12ac1b5f17f240deb53aae19509370dd"),
        ([HiddenSpec()] * 2, 1, "caf6437b9bbe2fbeb13cb95da7487b29d0f0d051ac4401087bd918abc4f64cf7"),
        ([EIGHT], 0, "e6fb25e9c1f610794e08406e718e968b7a6c74895d026a3efb292c2a8e770b68"),
        ([NONE] * 2, 0, "3d3b97eae2b862d123f48957236a53a3d1fcef79b620552ad1704f04154b3f04"),
        ([EIGHT, NONE], 0, "5ed60719b744ad2cd7bbcc5d1c7e0c9d403f29d49274e40ff461a40696a6a5cb"),
    ],
)
def test_recipes_without_blocks_as_a_tail_have_the_digests_that_they_had_before_tails(
    hidden: list[HiddenSpec], place: int, digest: str
) -> None:
    spec = stored(hidden, place)
    assert spec.digest() == digest
    again = parse_module_spec(spec.canonical_json(), strict=True)
    assert again == spec
    assert again.digest() == digest


def test_a_digest_of_before() -> None:
    mlp = stored([HiddenSpec(recipe=Recipe(epochs=3))], 0, (64,), BackboneSpec())
    assert mlp.digest() == "0eb197d16f81b5dbc0114496b410e71dc9ade201c5e716ee24db42fd894c3662"


def test_a_tail_of_blocks_is_in_the_recipe_by_name() -> None:
    auto, none = stored([HiddenSpec()] * 2, 0), stored([NONE] * 2, 0)
    named = stored([HiddenSpec(tail=("layer3.0", "layer4.0")), NONE], 0)
    assert auto == named
    assert auto.digest() == named.digest() != none.digest()
    assert parse_module_spec(auto.canonical_json(), strict=True) == auto
    with pytest.raises(ValidationError, match="to be planned"):
        auto.changed(hidden=HiddenSpec(tail="auto"))
