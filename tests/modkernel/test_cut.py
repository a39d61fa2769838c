from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modkernel.backbones import blocks_of
from modkernel.backbones.cut import cut
from modkernel.errors import CutError
from modkernel.spec import BackboneSpec, HiddenSpec

RESNET18 = BackboneSpec(name="resnet18")
MLP4 = BackboneSpec(name="mlp", depth=4)


def until(*ends: str | None) -> list[HiddenSpec]:
    return [HiddenSpec(until=end) for end in ends]


def evenly(count: int) -> list[HiddenSpec]:
    return until(*[None] * count)


@pytest.mark.parametrize(
    ("count", "ends"),
    [
        (1, ["layer4.1"]),
        (2, ["layer2.1", "layer4.1"]),
        (3, ["layer2.1", "layer3.1", "layer4.1"]),
        (4, ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        (5, ["layer1.0", "layer2.0", "layer3.0", "layer4.0", "layer4.1"]),
    ],
)
def test_resnet_is_shared_out_by_stages_while_there_are_enough(count, ends):
    assert [names[-1] for names in cut(RESNET18, evenly(count))] == ends


@given(
    spec=st.sampled_from(
        [RESNET18, MLP4, BackboneSpec(name="lenet5"), BackboneSpec(name="resnet34")]
    ),
    data=st.data(),
)
def test_shares_are_even_and_lose_no_block(spec, data):
    names = [block.name for block in blocks_of(spec)]
    count = data.draw(st.integers(1, len(names)))
    shares = cut(spec, evenly(count))
    assert list(chain(*shares)) == names
    sizes = [len(share) for share in shares]
    assert min(sizes) >= 1
    if spec.name in ("mlp", "lenet5") or count > 4:
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1


@given(data=st.data())
def test_any_increasing_ends_cut_and_any_other_order_does_not(data):
    names = [block.name for block in blocks_of(RESNET18)]
    ends = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=5))
    positions = [names.index(end) for end in ends]
    valid = positions == sorted(set(positions)) and ends[-1] == names[-1]
    if valid:
        shares = cut(RESNET18, until(*ends))
        assert list(chain(*shares)) == names
        assert [share[-1] for share in shares] == ends
    else:
        with pytest.raises(CutError):
            cut(RESNET18, until(*ends))


def test_start_after_cuts_only_what_is_left():
    assert cut(RESNET18, until("layer3.1", "layer4.1"), start_after="layer3.0") == (
        ("layer3.1",),
        ("layer4.0", "layer4.1"),
    )
    assert [share[-1] for share in cut(RESNET18, evenly(2), start_after="layer2.0")] == [
        "layer3.1",
        "layer4.1",
    ]


def test_first_modules_alone_need_not_reach_the_end():
    assert cut(MLP4, until("linear1", "linear2"), to_end=False) == (("linear1",), ("linear2",))


@pytest.mark.parametrize(
    ("hidden", "options", "message"),
    [
        (until("linear9"), {}, "no block 'linear9' .* one of linear1, linear2, linear3, linear4"),
        (until("linear2", "linear1"), {}, "module 2 ends at 'linear1', which does not come after"),
        (until("linear2", "linear2", "linear4"), {}, "module 2 ends at 'linear2'"),
        (until("linear3"), {}, "leaves linear4 to no module: let it end at 'linear4'"),
        (until("linear2", None), {}, "Only 1 of 2 hidden modules say 'until'"),
        (evenly(5), {}, "5 hidden modules cannot be cut from 4 blocks"),
        ([], {}, "no hidden module"),
        (evenly(1), {"start_after": "linear4"}, "left after its last block 'linear4'"),
        (evenly(1), {"start_after": "fc1"}, "no block 'fc1'"),
        (evenly(3), {"start_after": "linear2"}, "cut from 2 blocks"),
        (until("linear1", "linear4"), {"start_after": "linear2"}, "no block 'linear1'"),
    ],
)
def test_impossible_cuts(hidden, options, message):
    with pytest.raises(CutError, match=message):
        cut(MLP4, hidden, **options)
