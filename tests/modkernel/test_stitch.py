"""Stitches: the closed form and the fit by brute force, what is stored, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modkernel.control import Control
from modkernel.data import Resident
from modkernel.errors import DataError, InterfaceError, StoppedError
from modkernel.features.extractor import frozen_chain
from modkernel.features.sources import Features
from modkernel.kernels import make_kernel
from modkernel.modules.network import assemble
from modkernel.modules.plain_names import plain_tensors
from modkernel.modules.stitch import MapOfMaps, MapOfVectors, make_map
from modkernel.modules.stored import StoredModule, build_module, read_module, write_module
from modkernel.plan import plan_hidden
from modkernel.spec import (
    BackboneSpec,
    HiddenModuleSpec,
    HiddenSpec,
    Interface,
    KernelSpec,
    Recipe,
    Shape,
    StitchModuleSpec,
    StitchSpec,
)
from modkernel.training.stitch import closed_form, fit_stitch, fitted_rows, likeness
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.helpers.stored_examples import (
    FACTS,
    PREPROCESSING,
    make_hidden,
    store_hidden,
)
from tests.modkernel.helpers.training_examples import made_images

MLP = BackboneSpec(name="mlp", width=64, depth=2)
FEW = StitchSpec(
    examples=60, recipe=Recipe(epochs=3, batch_size=16, optimizer="adam", learning_rate=1e-3)
)


def stitched(
    lower: StoredModule, upper: StoredModule, stitch: StitchSpec = FEW
) -> StitchModuleSpec:
    spec = upper.spec
    assert isinstance(spec, HiddenModuleSpec)
    return StitchModuleSpec(
        interface=Interface(
            upstream=lower.id,
            takes=lower.spec.interface.gives,
            gives=spec.interface.gives,
            kernel=spec.interface.kernel,
        ),
        dataset=FACTS,
        seed=0,
        preprocessing=lower.spec.preprocessing,
        upper=spec,
        upper_id=upper.id,
        stitch=stitch,
    )


def maps(folder: Path, seed: int) -> list[StoredModule]:
    first, _ = store_hidden(folder / f"first-{seed}", ("stem",), (1, 8, 8), PREPROCESSING.id, seed)
    second, _ = store_hidden(
        folder / f"second-{seed}", ("layer1.0",), (2, 8, 8), first.id, seed + 100
    )
    return [first, second]


@pytest.fixture
def raw() -> Tensor:
    return made_images(80)[0]


def brute_force(rows: Tensor, wanted: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Penalised least squares as plain least squares of rows that are stacked below."""
    middle, level = rows.mean(0), wanted.mean(0)
    x, y = rows - middle, wanted - level
    penalty = ridge * len(x) * x.var(0, correction=0).mean()
    below = penalty.sqrt() * torch.eye(x.shape[1], dtype=torch.float64)
    stacked = torch.cat([x, below])
    right = torch.cat([y, torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)])
    weight = torch.linalg.lstsq(stacked, right).solution.T
    return weight, level - weight @ middle


def test_the_closed_form_is_penalised_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(700, size, generator=generator).double() for size in (5, 3))
    found = closed_form(MapOfVectors((5,), (3,)), Features(x), Features(y), 0.02, x.device)
    for have, want in zip(found, brute_force(x, y, 0.02), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-12)

    x, y = (torch.randn(600, *size, generator=generator) for size in ((4, 6, 6), (3, 3, 3)))
    map_ = MapOfMaps((4, 6, 6), (3, 3, 3))
    found = closed_form(map_, Features(x), Features(y), 0.02, x.device)
    # To half the side, interpolation takes the mean of each four pixels.
    rows = torch.nn.functional.avg_pool2d(x.double(), 2).permute(0, 2, 3, 1).reshape(-1, 4)
    wanted = y.double().permute(0, 2, 3, 1).reshape(-1, 3)
    for have, want in zip(found, brute_force(rows, wanted, 0.02), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-12)
    map_.start(*found)
    by_pixel = rows @ found[0].T + found[1]
    torch.testing.assert_close(
        map_(x).double(), by_pixel.view(600, 3, 3, 3).permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5
    )


def test_likeness_is_the_kernel_of_both_features() -> None:
    h, other = torch.randn(6, 4), torch.randn(6, 4)
    relu = make_kernel(KernelSpec(name="relu"))
    by_gram = relu.gram(h, other).diagonal()
    torch.testing.assert_close(likeness(relu, h, relu.features(other)), by_gram)
    wide = make_kernel(KernelSpec(name="gaussian", sigma=100.0))
    of_second_order = ((h - other).square().sum(1) / (2 * 100.0**2)).square() / 2
    left = wide.gram(h, other).diagonal() - likeness(wide, h, other)
    assert bool((left.abs() <= of_second_order + 1e-6).all())


@pytest.mark.parametrize("held_out", [0.25, 0.99])
def test_what_is_held_out_has_no_part_in_the_closed_form(tmp_path: Path, held_out: float) -> None:
    """Few images of noise fix no map of 64 columns: only those that it is fitted to come out."""

    def store(name: str, block: str, takes: Shape, upstream: str, seed: int) -> StoredModule:
        spec, module = make_hidden((block,), takes, upstream, seed, MLP)
        spec = spec.changed(interface=spec.interface.changed(kernel=KernelSpec(name="relu")))
        return write_module(tmp_path / name, spec, module.state_dict())

    lower, below = (store(f"{i}", "linear1", (1, 8, 8), PREPROCESSING.id, i) for i in range(2))
    upper = store("upper", "linear2", (64,), below.id, 2)
    noise = torch.randint(256, (440, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    seen, unseen = noise.to(torch.uint8).split([40, 400])
    as_it_starts = Recipe(epochs=1, learning_rate=1e-9)
    spec = stitched(lower, upper, FEW.changed(ridge=1e-9, held_out=held_out, recipe=as_it_starts))
    weights, report = fit_stitch(
        spec, Resident.whole(seen), [lower], [below, upper], arithmetic=FLOAT32
    )
    stitch = write_module(tmp_path / "stitch", spec, weights)
    home, there = frozen_chain([below, upper]), frozen_chain([lower, stitch])
    kernel = make_kernel(spec.interface.kernel)
    found = likeness(kernel, there(unseen), kernel.features(home(unseen))).mean()
    assert report.history[0].validation == pytest.approx(float(found), abs=0.05)
    assert found < 0.9


def test_a_linear_change_below_is_undone(tmp_path: Path, raw: Tensor) -> None:
    """LOWER gives what UPPER's own upstream does, each channel scaled and shifted."""
    below, upper = maps(tmp_path, 1)
    weights = load_file(below.folder / "weights.safetensors")
    for name in ("stem.bn.weight", "stem.bn.bias"):
        weights[name] = weights[name] * torch.tensor([3.0, -0.5])
    weights["stem.bn.bias"] += 0.7
    lower = write_module(tmp_path / "lower", below.spec, weights)
    spec = stitched(lower, upper, FEW.changed(ridge=1e-9, recipe=Recipe(learning_rate=1e-9)))
    fitted, report = fit_stitch(
        spec, Resident.whole(raw), [lower], [below, upper], arithmetic=FLOAT32
    )
    assert min(line.validation or 0 for line in report.history) > 1 - 1e-6
    stored = write_module(tmp_path / "stitch", spec, fitted)
    home, there = frozen_chain([below, upper])(raw), frozen_chain([lower, stored])(raw)
    torch.testing.assert_close(there, home, rtol=1e-4, atol=1e-4)


def test_a_stitch_is_stored_with_the_copy_and_nothing_of_that_changes(
    tmp_path: Path, raw: Tensor
) -> None:
    lower, (below, upper) = maps(tmp_path, 0)[:1], maps(tmp_path, 1)
    spec = stitched(lower[0], upper)
    weights, report = fit_stitch(
        spec, Resident.whole(raw), lower, [below, upper], arithmetic=FLOAT32
    )
    stored = read_module(write_module(tmp_path / "stitch", spec, weights).folder)
    copy = load_file(upper.folder / "weights.safetensors")
    kept = load_file(stored.folder / "weights.safetensors")
    for name, value in copy.items():
        assert torch.equal(kept[f"upper.{name}"], value)
    assert report.examples == 60
    values = [line.validation for line in report.history]
    assert max(values) == values[report.best_epoch - 1]

    network = assemble([*lower, stored])
    by_hand = build_module(upper)(
        torch.nn.functional.conv2d(
            network.features(raw, upto=1),
            kept["map.linear.weight"],
            kept["map.linear.bias"],
            padding=1,
        )
    )
    torch.testing.assert_close(network.features(raw), by_hand)
    names = list(plain_tensors(network))
    assert {"hidden-2.map.weight", "hidden-2.map.bias"} <= set(names)
    assert (
        len(names)
        == len(set(names))
        == 2 + sum(len(module.state_dict()) for module in network.hidden)
    )


def test_the_fit_repeats_and_resumes_bit_for_bit(tmp_path: Path, raw: Tensor) -> None:
    lower, (below, upper) = maps(tmp_path, 0)[:1], maps(tmp_path, 1)
    spec, examples = stitched(lower[0], upper), Resident.whole(raw)

    def fit(control: Control) -> dict[str, Tensor]:
        return fit_stitch(
            spec, examples, lower, [below, upper], arithmetic=FLOAT32, control=control
        )[0]

    once = fit(Control())
    asked = iter([False] * 12 + [True])
    kept = Control(checkpoints=tmp_path / "checkpoint", stop=lambda: next(asked))
    with pytest.raises(StoppedError):
        fit(kept)
    again = fit(replace(kept, stop=lambda: False))
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_what_cannot_be_stitched_is_refused(tmp_path: Path, raw: Tensor) -> None:
    lower, (below, upper) = maps(tmp_path, 0)[:1], maps(tmp_path, 1)
    spec = stitched(lower[0], upper)
    with pytest.raises(InterfaceError, match=r"no map .* \[4\] .* \[2, 8, 8\].* vectors \[d\]"):
        make_map((4,), (2, 8, 8))
    with pytest.raises(InterfaceError, match="no map"):
        make_map((2, 8, 8), (4,))
    with pytest.raises(InterfaceError, match=f"copy of module {upper.id[:12]}"):
        fit_stitch(spec, Resident.whole(raw), lower, [below], arithmetic=FLOAT32)
    with pytest.raises(InterfaceError, match="whole chain below it"):
        fit_stitch(spec, Resident.whole(raw), [], [below, upper], arithmetic=FLOAT32)
    with pytest.raises(DataError, match=r"at least 20 .* are 19"):
        fit_stitch(spec, Resident.whole(raw[:19]), lower, [below, upper], arithmetic=FLOAT32)
    (plan,) = plan_hidden(
        upper.spec.backbone, [HiddenSpec(until="layer1.0")], (2, 8, 8), "stem", to_end=False
    )
    plan.starting_from(upper.id, "upper", upper.spec)
    with pytest.raises(InterfaceError, match="is a stitch, and one that starts from it"):
        plan.starting_from("0" * 64, "stitch", spec)
    assert len(fitted_rows(spec, 50)) == 50
    assert len(fitted_rows(spec, 500).unique()) == 60
