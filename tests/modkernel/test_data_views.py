"""Random views: each batched change against torchvision's, one image at a time."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from modkernel.data import views
from modkernel.data.views import ImageChanges, change_images, draw_changes, draw_views, viewed
from tests.modkernel.helpers.devices import needs_gpu

pytestmark = pytest.mark.gpu

ONE = torch.ones(1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=seeded(0), dtype=torch.uint8)


def two_views(x: Tensor, flip: bool, spread: Tensor, generator: torch.Generator) -> Tensor:
    return viewed(x, draw_views(x, flip, spread, generator).to(x.device))


def by_hand(image: Tensor, changes: ImageChanges, row: int) -> Tensor:
    """One image [C, H, W] by torchvision's own functions, in floating point."""
    value = {field.name: float(getattr(changes, field.name)[row]) for field in fields(changes)}
    places = [int(value[name]) for name in ("top", "left", "height", "width")]
    x = V.resized_crop(image.float() / 255, *places, list(image.shape[1:]), antialias=False)
    x = V.horizontal_flip(x) if value["mirrored"] else x
    x = V.adjust_brightness(x, value["brightness"])
    x = V.adjust_contrast(x, value["contrast"])
    if len(image) == 3:
        x = V.adjust_saturation(x, value["saturation"])
        x = V.adjust_hue(x, value["hue"])
        x = V.rgb_to_grayscale(x, 3) if value["grey"] else x
    return x * 255


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 4),
    channels=st.sampled_from((1, 3)),
    height=st.integers(4, 12),
    width=st.integers(4, 12),
    flip=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_a_batch_changes_as_torchvision_changes_each_image(
    rows: int, channels: int, height: int, width: int, flip: bool, seed: int
) -> None:
    images = torch.randint(
        256, (rows, channels, height, width), generator=seeded(seed), dtype=torch.uint8
    )
    changes = draw_changes(rows, (height, width), flip, seeded(seed + 1))
    changed = change_images(images, changes)
    assert changed.dtype == torch.uint8
    for row in range(rows):
        expected = by_hand(images[row], changes, row)
        # Half a step of rounding, and that of float32.
        torch.testing.assert_close(changed[row].float(), expected, rtol=0, atol=0.51)


def test_changes_cover_their_ranges_and_no_more() -> None:
    changes = draw_changes(4000, (28, 32), True, seeded(0))
    assert int((changes.top + changes.height).max()) == 28
    assert int((changes.left + changes.width).max()) == 32
    assert int(changes.top.min()) == int(changes.left.min()) == 0
    share = changes.height * changes.width / (28 * 32)
    assert 0.15 < float(share.min()) < 0.25
    assert float(share.max()) > 0.9
    assert abs(float(changes.mirrored.mean()) - 0.5) < 0.05
    assert abs(float(changes.grey.mean()) - views.GREYED) < 0.05
    plain = (changes.brightness == 1) & (changes.contrast == 1) & (changes.hue == 0)
    assert abs(float(plain.float().mean()) - (1 - views.JITTERED)) < 0.05
    for factor in (changes.brightness, changes.contrast, changes.saturation):
        assert 1 - views.STRENGTH <= float(factor.min()) < 0.65
        assert 1.35 < float(factor.max()) <= 1 + views.STRENGTH
    assert views.HUE * 0.9 < float(changes.hue.abs().max()) <= views.HUE
    assert not draw_changes(100, (28, 28), False, seeded(0)).mirrored.any()


def test_two_views_of_each_example_first_all_of_one_then_of_the_other() -> None:
    # Images of one grey each tell by themselves which image a view is of.
    images = torch.arange(0, 250, 50, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 8, 8)
    x = two_views(images, True, ONE, seeded(0))
    assert x.shape == (10, 1, 8, 8)
    assert x.dtype == torch.uint8
    order = x.float().mean((1, 2, 3))
    assert order[0] == order[5] == 0
    for row in range(1, 5):
        for view in (order[row], order[row + 5]):
            assert 50 * row * (1 - views.STRENGTH) - 1 <= view <= 50 * row * 1.41
    assert not torch.equal(x[1:5], x[6:])


def test_a_seed_decides_the_views_and_nothing_else() -> None:
    images = noise(6, 3, 10, 10)
    first = two_views(images, True, ONE, seeded(1))
    torch.manual_seed(5)
    assert torch.equal(first, two_views(images.clone(), True, ONE, seeded(1)))
    assert not torch.equal(first, two_views(images, True, ONE, seeded(2)))


@needs_gpu
def test_a_seed_means_the_same_on_a_gpu() -> None:
    images = noise(32, 3, 32, 32)
    on_cpu = two_views(images, True, ONE, seeded(1))
    on_gpu = two_views(images.cuda(), True, ONE, seeded(1)).cpu()
    assert int((on_cpu.int() - on_gpu.int()).abs().max()) <= 1  # Rounding of a half.
    vectors = torch.randn(32, 9, generator=seeded(3))
    found = two_views(vectors.cuda(), False, ONE, seeded(1)).cpu()
    expected = two_views(vectors, False, ONE, seeded(1))
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_vectors_lack_columns_and_have_noise_by_their_spread() -> None:
    vectors = torch.zeros(3000, 3)
    spread = torch.tensor([0.0, 1.0, 100.0])
    x = two_views(vectors, False, spread, seeded(0))
    assert x.shape == (6000, 3)
    assert abs(float(x.isnan().float().mean()) - views.MASKED) < 0.02
    deviation = torch.stack([column[~column.isnan()].std() for column in x.unbind(1)])
    torch.testing.assert_close(deviation, views.NOISE * spread, rtol=0.05, atol=0)
    assert not torch.equal(x[:3000].isnan(), x[3000:].isnan())
