"""A user's own backbone, named by import path: taken, or refused by what is wrong with it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from modkernel.backbones import (
    Block,
    blocks_of,
    build_hidden,
    build_skeleton,
    output_shape,
)
from modkernel.errors import InterfaceError, SpecError
from modkernel.spec import BackboneSpec
from tests.modkernel.test_backbones import names_of, whole

HERE = "tests.modkernel.test_own_backbones"


def two_linear(spec: BackboneSpec) -> list[Block]:
    units = int(spec.options["units"])
    return [
        Block("first", lambda takes: nn.Linear(takes[0], units)),
        Block("second", lambda takes: nn.Sequential(nn.ReLU(), nn.Linear(takes[0], units))),
    ]


def endless(spec: BackboneSpec):
    return (Block(f"block{i}", nn.Identity) for i in itertools.count())


def no_blocks(spec: BackboneSpec) -> list[Block]:
    return []


def bare_modules(spec: BackboneSpec) -> list[nn.Module]:
    return [nn.Linear(2, 2)]


def same_names(spec: BackboneSpec) -> list[Block]:
    return [Block("a.b", lambda takes: nn.Identity()), Block("a_b", lambda takes: nn.Identity())]


def raises(spec: BackboneSpec) -> list[Block]:
    raise KeyError("units")


def gives_pairs(spec: BackboneSpec) -> list[Block]:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    return [Block("pair", lambda takes: Pair())]


def builds_a_number(spec: BackboneSpec) -> list[Block]:
    return [Block("seven", lambda takes: 7)]  # type: ignore[arg-type, return-value]


def breaks(spec: BackboneSpec) -> list[Block]:
    return [Block("broken", lambda takes: {}[takes])]


class InPlace(nn.Linear):
    """Its code alters what it takes, with no layer that says so."""

    def forward(self, x: Tensor) -> Tensor:
        x.relu_()
        return super().forward(x)


def in_place(spec: BackboneSpec) -> list[Block]:
    """Blocks that alter what they take, the last one in train mode alone; all of three units."""
    return [
        Block("first", lambda takes: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(takes), 3))),
        Block("layer", lambda takes: nn.Sequential(nn.SiLU(inplace=True), nn.Linear(3, 3))),
        Block("code", lambda takes: InPlace(3, 3)),
        Block("dropout", lambda takes: nn.Sequential(nn.Dropout(0.5, True), nn.Linear(3, 3))),
    ]


def test_own_backbone_by_import_path():
    spec = BackboneSpec(name=f"{HERE}:two_linear", options={"units": 5})
    assert names_of(spec) == ("first", "second")
    assert output_shape(whole(spec, (3,)), (3,)) == (5,)
    skeleton, gives = build_skeleton(spec, ("first", "second"), (3,))
    assert gives == (5,)
    assert not any(value.is_meta for value in skeleton.state_dict().values())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_blocks", "at least one"),
        ("bare_modules", "a Linear among them"),
        ("same_names", "a_b more than once"),
        ("raises", "KeyError: 'units'"),
        ("absent", "Cannot import backbone"),
        ("HERE", "failed: TypeError"),
        ("endless", "more than 1000 blocks"),
    ],
)
def test_own_backbone_that_is_wrong(function, message):
    with pytest.raises(SpecError, match=message):
        blocks_of(BackboneSpec(name=f"{HERE}:{function}"))


@pytest.mark.parametrize(
    ("function", "message"),
    [("gives_pairs", "'pair': .* gave tuple"), ("builds_a_number", "'seven': it built a int")],
)
def test_own_block_that_is_wrong(function, message):
    spec = BackboneSpec(name=f"{HERE}:{function}")
    with pytest.raises(InterfaceError, match=message):
        whole(spec, (3,))


def test_own_code_that_fails_while_it_builds_or_is_imported(tmp_path, monkeypatch):
    with pytest.raises(
        SpecError, match=r"'broken' failed on examples of shape \[3\] with KeyError"
    ):
        whole(BackboneSpec(name=f"{HERE}:breaks"), (3,))
    (tmp_path / "own_and_broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="its code raised SyntaxError"):
        blocks_of(BackboneSpec(name="own_and_broken:f"))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["layer", "code", "dropout"])
def test_own_block_leaves_what_it_takes_as_it_is(name, inference):
    spec, taken = BackboneSpec(name=f"{HERE}:in_place"), torch.randn(8, 3)
    before = taken.clone()
    with torch.inference_mode(inference):
        built = build_hidden(spec, (name,), (3,), 0)
        skeleton, _ = build_skeleton(spec, (name,), (3,))
        skeleton.load_state_dict(built.state_dict())
        skeleton(taken)
        torch.testing.assert_close(skeleton.eval()(taken), built.eval()(taken))
        assert torch.equal(taken, before)
        if name == "code":
            (block,) = built
            expected = nn.functional.linear(taken.relu(), block.weight, block.bias)
            torch.testing.assert_close(block(taken), expected)
