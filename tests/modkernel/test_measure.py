"""Measuring a module: against features and moments that are computed by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modkernel.data import Dataset, Resident, Split
from modkernel.errors import DataError, InterfaceError, MomentsError, StoppedError
from modkernel.features import measure as measuring
from modkernel.features.cache import FeatureCache
from modkernel.features.extractor import frozen_chain
from modkernel.features.fold import fold_norms
from modkernel.features.measure import held_out, measure, measured_features
from modkernel.kernels import make_kernel
from modkernel.modules.stored import StoredModule, build_module, write_module
from modkernel.reuse.moments import ClassMoments, ModuleMoments
from modkernel.spec import KernelSpec, OutputSpec, Recipe
from modkernel.system.seeding import generator_for
from modkernel.training.hidden import train_hidden
from modkernel.training.output import train_output
from tests.modkernel.helpers.training_examples import (
    FACTS,
    FLOAT32,
    PREPROCESSING,
    RESNET,
    labelled,
    made_images,
    output_spec_on,
    paired,
    plans,
    trained,
)

pytestmark = pytest.mark.gpu

PLENTY = 1 << 30
RECIPE = Recipe(epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[StoredModule]:
    return trained(tmp_path_factory.mktemp("chain"), RECIPE, modules=2)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "EXAMPLES_PER_CLASS", 10)
    monkeypatch.setattr(measuring, "VALIDATION_PER_CLASS", 4)


def split(count: int, seed: int) -> Split:
    images, labels = made_images(count, seed)
    return Split([f"{seed}/{i}" for i in range(count)], labels, Resident.whole(images))


def data(fingerprint: str = "f" * 64) -> Dataset:
    parts = split(96, 0), split(30, 1), split(12, 2)
    return Dataset("made", FACTS.classes, fingerprint, PREPROCESSING, *parts)


def phi_of(chain: list[StoredModule], images: Tensor, kernel: KernelSpec) -> Tensor:
    """Features without our pass: no folding, no pieces, float64 from the last output on."""
    h = (images / 255 - 0.5) / 0.25
    for stored in chain:
        h = build_module(stored)(h)
    return make_kernel(kernel).features(h.detach().double())


def assert_moments(found: ClassMoments, phi: Tensor, labels: Tensor) -> None:
    for number in range(3):
        mine = phi[labels == number]
        assert int(found.counts[number]) == len(mine)
        torch.testing.assert_close(found.sums[number], mine.sum(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.products[number], mine.T @ mine, rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_the_features_computed_by_hand(chain: list[StoredModule]) -> None:
    made = data()
    found = measure(chain, made, FLOAT32)
    assert found.module_id == chain[-1].id
    assert found.seconds > 0
    kernel = chain[-1].spec.interface.kernel
    for moments, part in ((found.train, made.train), (found.validation, made.validation)):
        assert (moments.classes, moments.fingerprint) == (FACTS.classes, "f" * 64)
        assert isinstance(part.examples, Resident)
        assert part.labels is not None
        assert_moments(moments, phi_of(chain, part.examples.tensor, kernel), part.labels)


@pytest.mark.usefixtures("few")
def test_at_most_so_many_of_a_class_and_the_same_for_every_module(
    chain: list[StoredModule], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    first, second = (measure(some, data(), FLOAT32, cache=cache) for some in (chain[:1], chain))
    assert first.train.counts.tolist() == [10, 10, 10]
    assert first.validation.counts.tolist() == [4, 4, 4]
    one, two = (measured_features(cache, stored.id, "f" * 64) for stored in chain)
    assert one is not None
    assert two is not None
    images, labels = made_images(96)
    picks = []
    for number, name in enumerate(FACTS.classes):
        rows = (labels == number).nonzero().flatten()
        order = generator_for("measured", "f" * 64, "train", name)
        picks.append(rows[torch.randperm(len(rows), generator=order)[:10]])
    rows = torch.cat(picks).sort().values
    for kept, some, moments in ((one, chain[:1], first), (two, chain, second)):
        assert torch.equal(kept.train_labels, labels[rows])
        phi = phi_of(some, images[rows], some[-1].spec.interface.kernel)
        torch.testing.assert_close(kept.train.double(), phi, rtol=1e-4, atol=1e-5)
        assert_moments(moments.train, kept.train.double(), kept.train_labels)
        assert kept.validation.shape[0] == len(kept.validation_labels) == 12
    other = measure(chain, data("e" * 64), FLOAT32, cache=cache)
    again = measured_features(cache, chain[-1].id, "e" * 64)
    assert again is not None
    assert not torch.equal(again.train, two.train), "other data, other examples"
    assert other.train.fingerprint == "e" * 64


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("told_apart", [True, False])
def test_borrowed_training_examples_and_copies_of_them_are_not_held_out(
    chain: list[StoredModule], tmp_path: Path, told_apart: bool
) -> None:
    whole = data()
    train = replace(whole.train, digests=torch.arange(96) if told_apart else None)
    rows = torch.tensor([2, 3, 4, 9])  # Of classes 2, 0, 1, 0: one has its own validation example.
    images, labels = made_images(30, 1)
    own = Split(
        [f"1/{row}" for row in rows.tolist()],
        labels[rows],
        Resident.whole(images[rows]),
        torch.tensor([1000, 1001, 1002, 1003]) if told_apart else None,
    )
    borrowed = torch.tensor([5, 10])
    made = replace(whole, train=train, validation=own, borrowed=borrowed)
    cache = FeatureCache(tmp_path, PLENTY)
    measure(chain[:1], made, FLOAT32, cache=cache)
    found = measured_features(cache, chain[0].id, made.fingerprint)
    assert found is not None
    assert found.validation_labels.tolist() == [*labels[rows].tolist(), 2, 1]
    assert held_out(found, made.info().n_borrowed).tolist() == [True] * 4 + [False] * 2
    assert held_out(found, 0).sum() >= 4
    if told_apart:
        assert found.train_digests is not None
        copied = own.digests.clone()  # type: ignore[union-attr]
        copied[1] = found.train_digests[0]
        other = replace(found, validation_digests=torch.cat([copied, borrowed + 5000]))
        assert held_out(other, 2).tolist() == [True, False, True, True, False, False]


def test_kept_features_are_not_computed_again(
    chain: list[StoredModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    assert measured_features(cache, chain[-1].id, "f" * 64) is None
    first = measure(chain, data(), FLOAT32, cache=cache)

    def refuse(*_: object) -> None:
        pytest.fail("they are kept")

    monkeypatch.setattr("modkernel.features.compute._forward", refuse)
    second = measure(chain, data(), FLOAT32, cache=cache)
    assert torch.equal(first.train.products, second.train.products)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
        break
    assert measured_features(cache, chain[-1].id, "f" * 64) is None, "both parts or none"


def test_a_gaussian_module_is_measured_at_the_centres_of_an_output_module(tmp_path: Path) -> None:
    kernel = KernelSpec(name="gaussian", sigma=2.0, centres=7)
    (plan,) = plans(RESNET, RECIPE)
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=3)
    assert spec.hidden is not None
    spec = spec.model_copy(
        update={
            "interface": spec.interface.changed(kernel=kernel),
            "hidden": spec.hidden.changed(kernel=kernel),
        }
    )
    weights, _ = train_hidden(spec, paired(96), paired(30, 1), arithmetic=FLOAT32)
    stored = write_module(tmp_path / "m", spec, weights)
    cache = FeatureCache(tmp_path / "cache", PLENTY)
    found = measure([stored], data(), FLOAT32, cache=cache)
    assert found.train.dimension == 7
    output = output_spec_on(stored, OutputSpec(method="ridge"))
    made, _ = train_output(output, labelled(96), labelled(12, 2), [stored], arithmetic=FLOAT32)
    images, _ = made_images(96)
    h = build_module(stored)((images / 255 - 0.5) / 0.25).detach()
    kept = measured_features(cache, stored.id, "f" * 64)
    assert kept is not None
    expected = make_kernel(kernel).feature_map(h, made["centres"])
    # ‖u‖² + ‖v‖² - 2⟨u, v⟩ in float32 is not exact where an example is its own centre.
    torch.testing.assert_close(kept.train, expected, rtol=1e-3, atol=0.01)
    assert expected.std() > 0.05


def test_folded_norms_give_the_same_but_for_rounding(chain: list[StoredModule]) -> None:
    images, _ = made_images(40)
    whole = frozen_chain(chain)
    norms = [part for part in whole.modules() if isinstance(part, nn.BatchNorm2d)]
    # As after a long training: neither means nor variances are near what they begin with.
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.2, 3)
    expected = whole(images)
    folded = fold_norms(copy.deepcopy(whole))
    left = [part for part in folded.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) > 15
    assert not left
    torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)
    assert all(not parameter.requires_grad for parameter in folded.parameters())


def test_norms_that_follow_no_convolution_stay() -> None:
    class Own(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flip(1))

    def pair() -> tuple[nn.Module, nn.Module]:
        return nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    conv, norm = pair()
    kept = [
        nn.Sequential(norm, conv),
        nn.Sequential(conv, nn.ReLU(), norm),
        Own(*pair()),
        nn.Sequential(conv, nn.BatchNorm2d(3, track_running_stats=False)),
    ]
    for chain in kept:
        fold_norms(chain.eval())
        assert any(isinstance(part, nn.BatchNorm2d) for part in chain.modules())
    training = fold_norms(nn.Sequential(*pair()).train())
    assert any(isinstance(part, nn.BatchNorm2d) for part in training.modules())


def test_what_cannot_be_measured_is_refused(
    chain: list[StoredModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = output_spec_on(chain[0], OutputSpec(method="ridge"))
    made, _ = train_output(output, labelled(96), labelled(12, 2), chain[:1], arithmetic=FLOAT32)
    top = write_module(tmp_path / "o", output, made)
    with pytest.raises(InterfaceError, match="output module"):
        measure([chain[0], top], data(), FLOAT32)
    with pytest.raises(InterfaceError, match="was trained on upstream"):
        measure(chain[1:], data(), FLOAT32)
    bare = Split(["a"], None, Resident.whole(made_images(1)[0]))
    with pytest.raises(DataError, match="no class labels"):
        measure(chain, Dataset("bare", (), "f" * 64, PREPROCESSING, bare, bare, bare), FLOAT32)
    with pytest.raises(StoppedError):
        measure(chain, data(), FLOAT32, stop=lambda: True)
    monkeypatch.setattr("modkernel.reuse.moments.MOMENTS_LIMIT", 100)
    with pytest.raises(MomentsError, match="pool"):
        measure(chain, data(), FLOAT32)


def test_measuring_leaves_the_modules_as_they_are(chain: list[StoredModule]) -> None:
    before = [(stored.folder / "weights.safetensors").read_bytes() for stored in chain]
    found = measure(chain, data(), FLOAT32)
    assert isinstance(found, ModuleMoments)
    assert before == [(stored.folder / "weights.safetensors").read_bytes() for stored in chain]


def test_a_part_without_examples_of_a_class_is_named(chain: list[StoredModule]) -> None:
    some = split(30, 1)
    assert some.labels is not None
    none = Split(some.ids, torch.full_like(some.labels, -1), some.examples)
    lacking = Dataset("lacking", FACTS.classes, "f" * 64, PREPROCESSING, some, none, some)
    with pytest.raises(DataError, match="validation part of data set 'lacking'"):
        measure(chain, lacking, FLOAT32)
