from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modkernel.data.augment import augment
from modkernel.errors import InterfaceError
from tests.modkernel.helpers.devices import needs_gpu

pytestmark = pytest.mark.gpu


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(image: torch.Tensor, padding: int, flip: bool) -> list[torch.Tensor]:
    """Every picture that may come out, made one at a time."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    found = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return found + ([crop.flip(2) for crop in found] if flip else [])


@given(
    batch=st.integers(1, 5),
    channels=st.sampled_from((1, 3)),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    dtype=st.sampled_from((torch.uint8, torch.float32, torch.bfloat16)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_each_example_is_one_of_its_crops(
    batch, channels, height, width, padding, flip, dtype, seed
):
    x = torch.randint(1, 256, (batch, channels, height, width), generator=seeded(seed)).to(dtype)
    before = x.clone()
    out = augment(x, padding, flip, seeded(seed))
    assert out.shape == x.shape
    assert out.dtype == dtype
    assert torch.equal(x, before)
    for image, result in zip(x, out, strict=True):
        assert any(torch.equal(result, crop) for crop in crops(image, padding, flip))


def test_examples_get_choices_of_their_own_and_all_choices_occur():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    out = augment(image.expand(2000, 1, 5, 5), 1, True, seeded(0))
    distinct, counts = torch.unique(out.flatten(1), dim=0, return_counts=True)
    assert len(distinct) == 3 * 3 * 2
    assert counts.min() > 2000 / 18 / 2


def test_the_same_generator_gives_the_same_result_in_every_type():
    x = torch.randint(0, 256, (16, 3, 8, 8), generator=seeded(1)).to(torch.uint8)
    first = augment(x, 2, True, seeded(5))
    assert torch.equal(first, augment(x, 2, True, seeded(5)))
    assert torch.equal(first.float(), augment(x.float(), 2, True, seeded(5)))
    assert not torch.equal(first, augment(x, 2, True, seeded(6)))


def test_nothing_is_done_or_drawn_when_nothing_is_asked_for():
    generator = seeded(0)
    state = generator.get_state()
    x = torch.zeros(2, 3, 4, 4)
    assert augment(x, 0, False, generator) is x
    assert torch.equal(generator.get_state(), state)


def test_channels_last_images():
    x = torch.rand(4, 3, 8, 8, generator=seeded(0))
    other = x.to(memory_format=torch.channels_last)
    assert torch.equal(augment(x, 2, True, seeded(1)), augment(other, 2, True, seeded(1)))


def test_vectors_are_refused():
    with pytest.raises(InterfaceError, match="crop_padding to 0"):
        augment(torch.zeros(4, 10), 1, False, seeded(0))


@needs_gpu
def test_a_gpu_gives_the_same_as_the_cpu():
    x = torch.randint(0, 256, (16, 3, 8, 8), generator=seeded(1)).to(torch.uint8)
    assert torch.equal(augment(x, 2, True, seeded(5)), augment(x.cuda(), 2, True, seeded(5)).cpu())
