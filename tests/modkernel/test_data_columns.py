"""Columns of vectors: each has a scale of its own, and wild values decide none without a word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modkernel.data.rounded import rounded_findings
from modkernel.data.sources import Resident
from modkernel.data.statistics import preprocessing_of
from modkernel.modules.preprocess import Normalise

RNG = np.random.default_rng(0)
ORDINARY = RNG.normal(3, 2, 400)


def scaled(*columns: np.ndarray):
    """The columns as a network sees them, and what was told of them."""
    raw = torch.from_numpy(np.stack(columns, 1).astype(np.float32))
    preprocessing, findings = preprocessing_of(Resident.whole(raw))
    return Normalise(preprocessing)(raw).numpy().T, findings


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    scales=st.lists(st.sampled_from([1e-30, 1e-9, 1e-3, 1.0, 1e6, 1e15]), min_size=1, max_size=4),
    offset=st.sampled_from([0.0, -1.0, 300.0]),
)
def test_scale_and_offset_of_a_column_do_not_show(seed, scales, offset):
    base = np.random.default_rng(seed).normal(size=(100, len(scales)))
    columns = ((base + offset) * scales).astype(np.float32)
    found, findings = scaled(*columns.T)
    assert findings == ()
    wide = columns.astype(np.float64)
    expected = (wide - wide.mean(0)) / wide.std(0)
    np.testing.assert_allclose(found, expected.T, atol=2e-4)


@pytest.mark.parametrize(
    ("wild", "at"),
    [(1e9, slice(0, 1)), (-999, slice(0, 8)), (-9999, slice(0, 120)), (np.finfo("f4").max, [3])],
    ids=["one error", "sentinel", "sentinel in 30 %", "greatest float"],
)
def test_wild_values_do_not_take_the_scale_and_are_told(wild, at):
    column = ORDINARY.copy()
    column[at] = wild
    (found, plain), findings = scaled(column, ORDINARY)
    kept = np.ones(400, bool)
    kept[at] = False
    assert found[kept].std() > 0.4
    assert np.abs(found).max() < 6
    np.testing.assert_allclose(np.corrcoef(found[kept], plain[kept])[0, 1], 1, atol=1e-6)
    (finding,) = findings
    count = 400 - kept.sum()
    assert (finding.kind, finding.count) == ("outliers", 1)
    assert f"column 0 ({count}, such as {np.float32(wild):g}, set to" in finding.text


@pytest.mark.parametrize(
    "column",
    [
        (np.arange(400) % 40 == 0).astype(float),
        RNG.poisson(0.1, 400),
        np.repeat([0.0, 100.0], 200) + RNG.normal(0, 0.01, 400),
        np.repeat([0.0, 100.0, 200.0, 300.0], 100) + RNG.normal(0, 0.01, 400),
        RNG.standard_t(5, 400),
        np.exp(ORDINARY / 2),
        np.where(np.arange(400) < 390, 0.0, RNG.normal(50, 1, 400)),
    ],
    ids=["rare", "counts", "two clusters", "four clusters", "heavy", "lognormal", "mostly 0"],
)
def test_uneven_columns_that_are_no_fault_keep_all_their_values(column):
    (found,), findings = scaled(column)
    expected = (column - column.mean()) / column.std()
    assert findings == ()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_scale_that_many_far_values_decide_is_told():
    column = np.concatenate([RNG.normal(0, 1, 300), RNG.normal(0, 1, 100) * 1e5])
    (found,), (finding,) = scaled(column)
    assert finding.kind == "outliers"
    assert "logarithms" in finding.text
    np.testing.assert_allclose(found.std(), 1, rtol=1e-3)


@pytest.mark.parametrize("value", [-999.0, 1e9, 99.0])
def test_a_value_that_fills_more_than_half_of_a_column_is_told(value):
    column = np.where(np.arange(400) % 5 < 3, value, ORDINARY)
    (found,), (finding,) = scaled(column)
    assert (finding.kind, finding.count) == ("outliers", 1)
    assert f"column 0 (240, up to {value:g})" in finding.text
    assert "write NaN in place of them" in finding.text
    np.testing.assert_allclose(found.std(), 1, rtol=1e-3)


def test_missing_values_are_the_mean_and_take_no_part_in_it():
    column, empty = ORDINARY.copy(), np.full(400, np.nan)
    column[:40] = np.nan
    (found, nothing), (finding,) = scaled(column, empty)
    assert np.array_equal(nothing, np.zeros(400))
    assert np.array_equal(found[:40], np.zeros(40))
    np.testing.assert_allclose(found[40:].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(found[40:].std(), 1, rtol=1e-5)
    assert (finding.kind, finding.count) == ("missing values", 2)
    assert "column 0 (40), column 1 (400)" in finding.text


@pytest.mark.parametrize("value", [0.0, 5.0, -1e9, 1e-9, 16777216.0])
def test_constant_columns_are_0(value):
    (found,), findings = scaled(np.full(400, value))
    assert np.array_equal(found, np.zeros(400))
    assert findings == ()


TIMES = 1_700_000_000_000 + np.arange(200) * 6_000


@pytest.mark.parametrize(
    ("column", "left"),
    [
        (TIMES, "200 different values are taken for one"),
        (TIMES.astype(float), "200 different values are taken for one"),
        (2**60 + np.arange(200), "200 different values are taken for one"),
        (5_400_000 + ORDINARY / 4, "different values are taken for one"),
        (1e6 + np.linspace(0, 9, 400), "400 different values are 145 after it"),
    ],
    ids=["times", "as floats", "accounts", "metres", "a few steps"],
)
def test_differences_that_float32_loses_are_told(column, left):
    rows = np.stack([column, np.arange(len(column)) % 3], 1).astype(column.dtype)
    (finding,) = rounded_findings(rows, ("time", "x"))
    assert finding.count == 1
    assert "'time' (" in finding.text
    assert left in finding.text
    if column.dtype == float:
        missing = np.vstack([rows, [np.nan, np.nan]])
        assert rounded_findings(missing, ("time", "x")) == (finding,)


@pytest.mark.parametrize(
    "column",
    [
        ORDINARY,
        np.arange(200) + 1_000_000,
        TIMES - TIMES[0],
        TIMES.astype(np.float32),
        np.full(9, np.nan),
        np.full(9, 0.1) * (1 + np.arange(9) * 2e-16),
        np.array([-1e300, 1e300]),
    ],
    ids=["ordinary", "whole", "from a start", "32 bits", "missing", "constant", "huge"],
)
def test_what_float32_keeps_is_not_told(column):
    assert rounded_findings(column[:, None]) == ()
