"""Modules side by side: what they give together, by hand; each run once; what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from modkernel.backbones import build_hidden
from modkernel.errors import InterfaceError
from modkernel.features.cache import FeatureCache
from modkernel.features.compute import cache_entry, compute_features
from modkernel.features.extractor import frozen_upstream
from modkernel.features.sources import Features
from modkernel.modules.export import export
from modkernel.modules.join import JOINED_KERNEL, check_join
from modkernel.modules.network import assemble, check_chain
from modkernel.modules.output import OutputModule
from modkernel.modules.stored import StoredModule, write_module
from modkernel.pairs.source import PairSource
from modkernel.spec import BackboneSpec, KernelSpec, Preprocessing, Upstream
from modkernel.training.hidden import train_hidden
from modkernel.training.pair_data import PairData
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.stored_examples import (
    PREPROCESSING,
    hidden_spec,
    store_hidden,
    store_joined_output,
    store_output,
)

OTHER = PREPROCESSING.changed(mean=(0.5,), std=(0.4,))
WEIGHTS = (1.0, 2.0, 0.25)


@dataclass(frozen=True)
class Branches:
    """Two modules on one stem, and one of its own data: a network of five modules."""

    stored: tuple[StoredModule, ...]
    live: tuple[nn.Module, ...]

    @property
    def tops(self) -> tuple[StoredModule, ...]:
        return self.stored[1:4]


@pytest.fixture
def branches(tmp_path: Path) -> Branches:
    stem, live_stem = store_hidden(tmp_path / "stem", ("stem",), (1, 8, 8), PREPROCESSING.id)
    one, live_one = store_hidden(tmp_path / "1", ("layer1.0",), (2, 8, 8), stem.id)
    two, live_two = store_hidden(tmp_path / "2", ("layer1.0",), (2, 8, 8), stem.id, seed=1)
    three, live_three = store_hidden(
        tmp_path / "3", ("stem",), (1, 8, 8), OTHER.id, seed=2, preprocessing=OTHER
    )
    out, live_out = store_joined_output(tmp_path / "out", (one, two, three), WEIGHTS)
    return Branches(
        (stem, one, two, three, out), (live_stem, live_one, live_two, live_three, live_out)
    )


@pytest.fixture
def raw() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=generator)


def prepared(raw: Tensor, spec: Preprocessing) -> Tensor:
    return (raw.double() / 255 - spec.mean[0]) / spec.std[0]


def unit(h: Tensor) -> Tensor:
    rows = h.relu().mean((2, 3))
    return rows / rows.norm(dim=1, keepdim=True)


def by_hand(branches: Branches, raw: Tensor) -> Tensor:
    """The joined features in float64: √w φ of each, one after the other."""
    stem, one, two, three = (module.double() for module in branches.live[:4])
    below = stem(prepared(raw, PREPROCESSING))
    outputs = one(below), two(below), three(prepared(raw, OTHER))
    parts = [w**0.5 * unit(h) for w, h in zip(WEIGHTS, outputs, strict=True)]
    return torch.cat(parts, 1)


@torch.no_grad()
def test_a_joined_network_gives_what_the_concatenation_gives_by_hand(branches, raw):
    network = assemble(branches.stored)
    joined = by_hand(branches, raw)
    output = branches.live[4]
    logits = joined @ output.weight.double().T + output.bias.double()
    torch.testing.assert_close(network.features(raw).double(), joined, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(raw).double(), logits, rtol=1e-5, atol=1e-5)
    found = network.features(raw)
    summed = sum(
        w * unit(h) @ unit(h).T for w, h in zip(WEIGHTS, _outputs(branches, raw), strict=True)
    )
    torch.testing.assert_close((found @ found.T).double(), summed, rtol=1e-5, atol=1e-6)


def _outputs(branches: Branches, raw: Tensor) -> tuple[Tensor, ...]:
    stem, one, two, three = branches.live[:4]
    below = stem(prepared(raw, PREPROCESSING))
    return one(below), two(below), three(prepared(raw, OTHER))


def test_a_shared_prefix_is_run_once(branches, raw):
    network = assemble(branches.stored)
    calls: Counter[int] = Counter()
    for place, module in enumerate(network.hidden):
        module.register_forward_hook(lambda *_, place=place: calls.update([place]))
    network(raw)
    assert calls == dict.fromkeys(range(4), 1)


@torch.no_grad()
def test_features_below_are_cached_by_modules_and_weights(tmp_path, branches, raw):
    cache, spec = FeatureCache(tmp_path / "features", 1 << 20), branches.stored[4].spec
    expected = by_hand(branches, raw)

    def joined(weights: tuple[float, ...]) -> Tensor:
        upstream = [
            Upstream(id=one.id, weight=weight)
            for one, weight in zip(branches.tops, weights, strict=True)
        ]
        changed = spec.changed(interface=spec.interface.changed(upstream=upstream))
        chain = frozen_upstream(changed, branches.stored[:4])
        entry = cache_entry(cache, changed, "train", FLOAT32)
        return compute_features(chain, Features(raw), FLOAT32, entry=entry).values

    for _ in range(2):
        torch.testing.assert_close(joined(WEIGHTS).double(), expected, rtol=1e-5, atol=1e-6)
    assert len(list(cache.files())) == 1
    equal = joined((1.0, 1.0, 1.0))
    second = expected[:, 2:4] / 2**0.5
    torch.testing.assert_close(equal[:, 2:4].double(), second, rtol=1e-5, atol=1e-6)
    ids = " ".join(one.id for one in branches.tops)
    assert [module for _, module, _ in cache.files()] == [ids, ids]


@pytest.mark.parametrize("maps", [False, True], ids=["features", "maps"])
def test_a_hidden_module_is_trained_on_a_join(tmp_path, branches, raw, maps):
    one, two, _ = branches.tops
    if maps:
        backbone, blocks, takes = BackboneSpec(name="resnet18", width=2), ("layer1.0",), (4, 8, 8)
    else:
        backbone, blocks, takes = BackboneSpec(name="mlp", width=5), ("linear1",), (4,)
    with torch.no_grad():
        built = build_hidden(backbone, blocks, takes, 0)
        gives = tuple(built(torch.zeros(2, *takes)).shape[1:])
    spec = hidden_spec(blocks, takes, gives, one.id, backbone=backbone)
    upstream = (Upstream(id=one.id), Upstream(id=two.id))
    kernel = KernelSpec(name="relu_avgpool" if maps else "relu")
    interface = spec.interface.changed(upstream=upstream, kernel=kernel)
    spec = spec.changed(
        interface=interface,
        hidden=spec.hidden.changed(
            kernel=kernel, recipe=spec.hidden.recipe.changed(epochs=1, batch_size=6)
        ),
    )
    pairs = PairData(Features(raw), PairSource.from_classes(torch.tensor([0, 0, 0, 1, 1, 1])))
    below = branches.stored[:3]
    weights, _ = train_hidden(spec, pairs, pairs, below, arithmetic=FLOAT32)
    stored = write_module(tmp_path / "joined", spec, weights)
    network = assemble([*below, stored])
    with torch.no_grad():
        shared = branches.live[0].float()(prepared(raw, PREPROCESSING).float())
        outputs = [module(shared) for module in branches.live[1:3]]
        taken = torch.cat(outputs if maps else [unit(h) for h in outputs], 1)
        found = network.hidden[3](taken)
        torch.testing.assert_close(network.features(raw), found)


@pytest.mark.parametrize("form", ["state-dict", "torch-export"])
def test_a_joined_network_is_exported(tmp_path, branches, raw, form):
    assert export(assemble(branches.stored), form, tmp_path / "file", raw) < 1e-5


def test_the_order_is_checked(tmp_path, branches):
    stem, one, two, three, out = branches.stored
    check_chain([three, stem, two, one, out])  # any in which each comes after what it stands on
    for wrong, told in (
        ([one, stem, two, three, out], rf"Position 1 of 5 .* upstream {stem.id[:12]}"),
        ([stem, one, two, out], rf"Position 4 of 4 .* upstream {three.id[:12]}"),
        ([stem, one, one, two, three, out], "Position 3 of 6 .* is there twice"),
        ([stem, one, two, three], r"Position 2 of 4 .*nothing here stands on it"),
    ):
        with pytest.raises(InterfaceError, match=told):
            check_chain(wrong)


def test_an_output_module_that_stands_on_itself_is_refused(branches):
    """Ids chain, so nobody can make one; a forged one is not followed for ever."""
    out = branches.stored[4]
    ids = [*out.spec.interface.stands_on, out.id]
    looped = out.spec.changed(
        interface=out.spec.interface.changed(upstream=[Upstream(id=one) for one in ids])
    )
    forged = StoredModule(out.id, looped, out.folder, out.weights_sha256, out.spec_sha256)
    with pytest.raises(InterfaceError, match=rf"Position 5 of 5 .* upstream {out.id[:12]}"):
        check_chain([*branches.stored[:4], forged])


def test_joined_shapes_and_kernels_must_be_those_of_a_join(tmp_path, branches):
    stem, one, two, three, out = branches.stored
    for changes, told in (
        ({"takes": (7,)}, r"takes \[7\], but is given \[6\]"),
        ({"kernel": KernelSpec(name="relu")}, "has the kernel 'relu': 'joined' is that of"),
    ):
        wrong = out.spec.changed(interface=out.spec.interface.changed(**changes))
        stored = StoredModule(out.id, wrong, out.folder, out.weights_sha256, out.spec_sha256)
        with pytest.raises(InterfaceError, match=told):
            check_chain([stem, one, two, three, stored])


def test_chains_of_other_raw_examples_are_refused_in_a_network(tmp_path, branches):
    larger = PREPROCESSING.changed(shape=(1, 9, 9))
    four, _ = store_hidden(tmp_path / "4", ("stem",), (1, 9, 9), larger.id, preprocessing=larger)
    out, _ = store_joined_output(tmp_path / "wrong", (branches.stored[1], four))
    with pytest.raises(InterfaceError, match=r"Position 4 of 4 .* different shapes.*image_size"):
        check_chain([*branches.stored[:2], four, out])


def test_what_cannot_stand_side_by_side(tmp_path, branches):
    stem, one, two, three, _ = branches.stored
    larger = PREPROCESSING.changed(shape=(1, 9, 9))
    four, _ = store_hidden(tmp_path / "4", ("stem",), (1, 9, 9), larger.id, preprocessing=larger)
    gaussian = two.spec.changed(
        interface=two.spec.interface.changed(kernel=KernelSpec(name="gaussian", sigma=1.0))
    )
    output, _ = store_output(tmp_path / "5", (2, 8, 8), one.id)
    check_join([("A", one.spec), ("B", two.spec), ("C", three.spec), ("D", stem.spec)])
    for modules, told in (
        ([("A", one.spec), ("A", one.spec)], "A is named twice"),
        ([("A", one.spec), ("B", output.spec)], "B is an output module: join the hidden modules"),
        ([("A", one.spec), ("B", four.spec)],
         r"A and B take raw examples of different shapes, \[1, 8, 8\] uint8 and \[1, 9, 9\] uint8: "
         r".*images of 8 x 8 pixels and 1 channels \(dataset.image_size"),
        ([("A", one.spec), ("B", gaussian)], "kernel 'gaussian' has no features"),
    ):  # fmt: skip
        with pytest.raises(InterfaceError, match=told):
            check_join(modules)


@pytest.mark.parametrize(
    "upstream",
    [
        [],
        [{"id": "a"}, {"id": "a"}],
        [{"id": "a", "weight": 2.0}],
        [{"id": "a"}, {"id": PREPROCESSING.id}],
        [{"id": "a"}, {"id": "b", "weight": 0.0}],
        [{"id": "a"}, {"id": "b", "weight": float("inf")}],
    ],
)
def test_upstreams_that_say_nothing_are_refused(branches, upstream: list[dict[str, Any]]):
    with pytest.raises(ValidationError):
        branches.stored[4].spec.interface.changed(upstream=upstream)


def test_one_upstream_is_stored_as_it_always_was(branches):
    one, out = branches.stored[1].spec, branches.stored[4].spec
    assert '"upstream":"' + branches.stored[0].id in one.canonical_json()
    assert '"upstream":[{"id":"' in out.canonical_json()
    again = type(out).model_validate_json(out.canonical_json(), strict=True)
    assert (again, again.digest()) == (out, out.digest())
    other = out.interface.changed(
        upstream=[one.changed(weight=3.0) for one in out.interface.upstream]
    )
    assert out.changed(interface=other).digest() != out.digest(), "weights are part of the recipe"


def test_the_joined_kernel_takes_features_as_they_are():
    output = OutputModule(JOINED_KERNEL, (3,), 2)
    rows = torch.tensor([[2.0, -1.0, 0.5]])
    assert torch.equal(output.feature_map(rows), rows)
