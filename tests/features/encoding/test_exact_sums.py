"""Compares exact sums with `Fraction`: any doubles, in any order, split into any parts."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_ctr.features.encoding.exact_sums import ExactSums

DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
RANGES = {
    "money in micros": 3e13 + 1e9 * np.arange(1.0, 6.0).repeat(9),
    "epoch milliseconds": 1.77e12 + 1e3 * np.arange(45_000.0),
    "1e14": np.full(200, 1e14) + np.arange(200),
    "millionths": 1e-6 * np.arange(1.0, 40.0),
    "1e-300": 1e-300 * np.arange(1.0, 40.0),
    "1e300": 1e300 * np.arange(1.0, 40.0),
    "all": np.array([1e-300, -1e300, 1e300, 1.0, 5e-324, -1e-310]),
    "largest": np.array([sys.float_info.max, -sys.float_info.max] * 5),
    "denormal": 5e-324 * np.arange(5.0),
    "a neighbor": np.array([1.0] * 99 + [1.0 + 2.0**-52]),
}


def summed(x: np.ndarray) -> ExactSums:
    sums = ExactSums()
    sums.add(np.asarray(x, np.float64))
    return sums


def exact_mean(x: np.ndarray) -> Fraction:
    return sum(map(Fraction, x.tolist()), Fraction(0)) / len(x)


def exact_variance(x: np.ndarray) -> Fraction:
    mean = exact_mean(x)
    return sum(((Fraction(v) - mean) ** 2 for v in x.tolist()), Fraction(0)) / len(x)


@settings(max_examples=200, deadline=None)
@given(st.lists(DOUBLES, min_size=1, max_size=30))
def test_mean_and_deviation_are_rounded_once(values: list[float]) -> None:
    sums, x = summed(np.array(values)), np.array(values)
    assert sums.mean() == float(exact_mean(x))
    variance, found = exact_variance(x), Fraction(sums.deviation())
    assert (found == 0) == (variance == 0)
    # The square root is accurate to one ulp.
    step = Fraction(math.ulp(float(found)))
    assert max(found - step, Fraction(0)) ** 2 <= variance <= (found + step) ** 2


@pytest.mark.parametrize("name", RANGES)
def test_squares_beyond_the_range_of_doubles(name: str) -> None:
    x = RANGES[name][:500]
    sums = summed(x)
    assert sums.mean() == float(exact_mean(x))
    variance, found = exact_variance(x), Fraction(sums.deviation())
    step = Fraction(math.ulp(float(found)))
    assert found > 0
    assert max(found - step, Fraction(0)) ** 2 <= variance <= (found + step) ** 2


def test_mean_and_deviation_match_numpy() -> None:
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=200_000), rng.lognormal(0, 1, 200_000), rng.integers(0, 50, 200_000).astype(float)):
        sums = summed(x)
        assert sums.mean() == pytest.approx(math.fsum(x.tolist()) / len(x), rel=1e-15)
        assert sums.deviation() == pytest.approx(x.std(), rel=1e-12)


def test_deviation_is_zero_only_for_constants() -> None:
    for value in (0.0323, 1e300, 5e-324, 0.0, -3.0):
        assert summed(np.full(1000, value)).deviation() == 0.0
    assert (summed(np.empty(0)).mean(), summed(np.empty(0)).deviation()) == (0.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(DOUBLES, min_size=1, max_size=40), st.integers(1, 7), st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_order_or_parts(values: list[float], parts: int, random) -> None:  # type: ignore[no-untyped-def]
    whole, shuffled = summed(np.array(values)), list(values)
    random.shuffle(shuffled)
    merged = ExactSums()
    for part in range(parts):
        sums = summed(np.array(shuffled[part::parts]))
        merged.merge(sums.count, sums.total, sums.total_squares)
    for key in ("count", "total", "total_squares"):
        assert getattr(merged, key) == getattr(whole, key)
    assert (merged.mean(), merged.deviation()) == (whole.mean(), whole.deviation())


def test_more_rows_than_one_block() -> None:
    x = np.random.default_rng(1).normal(1e9, 1.0, 200_001)
    sums = summed(x)
    assert sums.total == int(sum(map(Fraction, x.tolist())) * 2**1126)
    assert sums.total_squares == int(sum(Fraction(v) ** 2 for v in x.tolist()) * 2**2252)
