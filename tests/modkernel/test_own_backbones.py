"""A user's own backbone, named by import path: taken, or refused by what is wrong with it."""

from __future__ import annotations

import itertools

import pytest
from torch import Tensor, nn

from modkernel.backbones import (
    Block,
    blocks_of,
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
