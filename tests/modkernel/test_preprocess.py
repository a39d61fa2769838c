from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modkernel.errors import InterfaceError, SpecError
from modkernel.modules.preprocess import Normalise
from modkernel.spec import Preprocessing

COLOUR = Preprocessing(shape=(3, 4, 5), dtype="uint8", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
VECTORS = Preprocessing(shape=(6,), dtype="float32", mean=(1.5,), std=(4.0,))
COLUMNS = Preprocessing(
    shape=(3,), dtype="float32", mean=(1, 0, 5), std=(2, 1, 5), bounds=(None, (-3, 4), None)
)


@given(seed=st.integers(0, 1000), count=st.integers(0, 3))
def test_uint8_images_are_scaled_then_normalised_by_channel(seed, count):
    raw = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 5), dtype=np.uint8)
    expected = np.stack(
        [(raw[:, c].astype(np.float64) / 255 - COLOUR.mean[c]) / COLOUR.std[c] for c in range(3)],
        axis=1,
    )
    got = Normalise(COLOUR)(torch.from_numpy(raw))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_float32_vectors_are_not_divided_by_255_and_the_input_stays():
    raw = torch.arange(12.0).view(2, 6)
    kept = raw.clone()
    torch.testing.assert_close(Normalise(VECTORS)(raw), (kept - 1.5) / 4)
    assert torch.equal(raw, kept)


def test_columns_are_clipped_then_standardised_and_missing_values_become_the_mean():
    nan, inf = torch.nan, torch.inf
    raw = torch.tensor([[3.0, -999, 5], [nan, nan, nan], [1, inf, 0]])
    expected = torch.tensor([[1.0, -3, 0], [0, 0, 0], [0, 4, -1]])
    assert torch.equal(Normalise(COLUMNS)(raw), expected)
    with pytest.raises(InterfaceError, match=r"\[N, 3\].*columns .* in their order"):
        Normalise(COLUMNS)(raw[:, :2])


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (torch.zeros(2, 1, 4, 5, dtype=torch.uint8), r"uint8 of shape \[2, 1, 4, 5\]"),
        (torch.zeros(2, 3, 5, 4, dtype=torch.uint8), r"uint8 of shape \[2, 3, 5, 4\]"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), r"uint8 of shape \[3, 4, 5\]"),
        (torch.zeros(2, 3, 4, 5), r"float32 of shape \[2, 3, 4, 5\]"),
    ],
    ids=["channels", "size", "no batch", "dtype"],
)
def test_other_batches_are_refused_with_the_remedy(batch, found):
    message = rf"takes uint8 batches of shape \[N, 3, 4, 5\], but got {found}.*image_size"
    with pytest.raises(InterfaceError, match=message):
        Normalise(COLOUR)(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.1, 0.2)}, "2 values of mean"),
        ({"std": ()}, "0 values of std"),
        ({"std": (1.0, 0.0, 1.0)}, "not positive"),
        ({"bounds": ((0, 1), None, None)}, "3 bounds"),
    ],
)
def test_unfit_statistics_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        Normalise(COLOUR.model_copy(update=change))


def test_statistics_move_with_the_network_but_are_not_weights():
    module = Normalise(COLOUR)
    assert module.state_dict() == {}
    assert module.to("meta").mean.is_meta
