"""Scales, bounds and base rates are finite, exact, robust, and independent of row order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import NumericSource
from star_ctr.features.encoding import fitting
from star_ctr.features.encoding.fitting import (
    compute_base_rates,
    compute_fence,
    compute_quantile,
    fit_bounds,
    fit_scales,
)
from star_ctr.features.encoding.number_encoder import compute_numbers, standardize

DOUBLES = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(DOUBLES, min_size=1, max_size=30), st.lists(st.integers(1, 99), min_size=2, max_size=5, unique=True))
def test_quantiles_are_finite_and_between_their_neighbors(values: list[float], shares: list[int]) -> None:
    x = np.sort(np.array(values))
    for share in shares:
        found, position = compute_quantile(x, share / 100), (len(x) - 1) * (share / 100)
        low, high = x[int(position)], x[min(int(position) + 1, len(x) - 1)]
        assert low <= found <= high or found == pytest.approx(low, rel=1e-15)


def test_quantiles_match_numpy() -> None:
    x = np.sort(np.random.default_rng(0).normal(size=1001))
    assert [compute_quantile(x, k / 20) for k in range(1, 20)] == pytest.approx(
        np.quantile(x, np.arange(1, 20) / 20), abs=1e-14
    )


def test_ordinary_numbers_are_not_outliers() -> None:
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=200_000), rng.exponential(size=200_000), rng.lognormal(0, 2, 200_000)):
        low, high = compute_fence(np.sort(x))
        assert low < x.min()
        assert x.max() < high
    for still in (np.zeros(1000), np.r_[np.zeros(1999), 1.0], np.arange(99.0), np.empty(0)):
        assert compute_fence(still) == [-np.inf, np.inf]
    low, high = compute_fence(np.array([-1e308, 0.0, 1e308] * 100).astype(float))
    assert (low, high) == (-np.inf, np.inf)


@pytest.mark.parametrize("wild", [1e18, -1e18, 1e308, -1.0])
def test_one_extreme_value_in_a_hundred_is_an_outlier(wild: float) -> None:
    usual = 1.77e12 + 1e6 * np.arange(99.0)
    low, high = compute_fence(np.sort(np.r_[usual, wild]))
    assert not low <= wild <= high
    assert low < usual.min() < usual.max() < high


@settings(max_examples=200, deadline=None)
@given(st.lists(DOUBLES, min_size=2, max_size=20))
def test_standardization_is_exact_over_the_full_range(values: list[float]) -> None:
    from fractions import Fraction

    from star_ctr.features.encoding.exact_sums import ExactSums

    sums = ExactSums()
    sums.add(np.array(values))
    mean, std = sums.mean(), sums.deviation()
    if std == 0.0:
        return
    found = standardize(np.array(values), mean, std)
    exact = [(Fraction(v) - Fraction(mean)) / Fraction(std) for v in values]
    np.testing.assert_allclose(found, [float(max(-4, min(4, x))) for x in exact], rtol=1e-14, atol=1e-14)


def test_non_finite_values_are_missing() -> None:
    rows = pa.table(
        {
            "x": [np.nan, np.inf, -np.inf, None, 1.0, -5.0, 1.7e308],
            "of": [1.0, 1.0, 1.0, 1.0, -2.0, np.inf, 1e-300],
            "flag": [True, False, None, True, True, True, True],
        }
    )
    nan = np.nan
    np.testing.assert_array_equal(
        compute_numbers(rows, NumericSource(column="x")), [nan, nan, nan, nan, 1.0, -5.0, 1.7e308]
    )
    logs = compute_numbers(rows, NumericSource(column="x", log=True))
    np.testing.assert_allclose(logs, [nan, nan, nan, nan, np.log(2.0), 0.0, np.log(1.7e308)])
    rate = NumericSource(column="x", denominator="of", prior=2.0, base=0.5)
    np.testing.assert_array_equal(compute_numbers(rows, rate)[:6], [nan] * 6)
    np.testing.assert_array_equal(
        compute_numbers(rows, NumericSource(column="flag")), [1.0, 0.0, nan, 1.0, 1.0, 1.0, 1.0]
    )
    missing = NumericSource(column="x", log=True, missing=True)
    np.testing.assert_array_equal(compute_numbers(rows, missing), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


N = 10_000
COLUMNS = {
    "small": 1e-6 * (1 + np.arange(N) % 5),
    "large": 3e13 + 1e9 * (1 + np.arange(N) % 5),
    "time": 1.77e12 + 60_000.0 * np.arange(N),
    "hundred trillion": 1e14 + np.arange(N) % 7,
    "tiny": 1e-300 * (np.arange(N) % 11),
    "huge": 1e300 * (np.arange(N) % 11 - 5.0),
    "broken": np.r_[1e18, 1.0 + np.arange(N - 1) % 5],
    "gaps": np.r_[np.nan, np.inf, -np.inf, 1.0 + np.arange(N - 3) % 5],
    "still": np.full(N, 0.0323),
    "empty": np.full(N, np.nan),
    "normal": np.random.default_rng(0).normal(5.0, 2.0, N),
    "shown": np.floor(np.random.default_rng(1).exponential(30, N)),
}
SOURCES = {name: NumericSource(column=name) for name in COLUMNS}
SOURCES |= {f"log {name}": NumericSource(column=name, log=True) for name in COLUMNS}
SOURCES["missing gaps"] = NumericSource(column="gaps", missing=True)
SOURCES["missing shown"] = NumericSource(column="shown", missing=True)
SOURCES["rate"] = NumericSource(column="small", denominator="shown", prior=20.0, base=0.1)
SOURCES["half"] = NumericSource(column="shown", denominator="shown", prior=20.0, base=1.0)


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    frame = pd.DataFrame(COLUMNS).assign(impression_id=[f"i{n}" for n in range(N)])
    return spark.createDataFrame(frame).persist()


@pytest.mark.spark
def test_scales_over_all_ranges(rows: DataFrame) -> None:
    scales = fit_scales(rows, SOURCES)
    assert all(np.isfinite(fit).all() for fit in scales.values())
    for name in (
        "small",
        "large",
        "time",
        "hundred trillion",
        "normal",
        "shown",
        "log normal",
        "log shown",
        "log time",
    ):
        x = np.log1p(np.maximum(COLUMNS[name[4:]], 0.0)) if name.startswith("log ") else COLUMNS[name]
        shift = x[0]
        assert scales[name].mean == pytest.approx((x - shift).mean() + shift, rel=1e-14)
        assert scales[name].deviation == pytest.approx((x - shift).std(), rel=1e-11), name
    for name, unit in (("tiny", 1e-300), ("huge", 1e300)):
        assert scales[name].mean / unit == pytest.approx((COLUMNS[name] / unit).mean())
        assert scales[name].deviation / unit == pytest.approx((COLUMNS[name] / unit).std())
    for name, usual in (("broken", COLUMNS["broken"][1:]), ("gaps", COLUMNS["gaps"][3:])):
        assert scales[name] == (pytest.approx(usual.mean(), rel=1e-14), pytest.approx(usual.std(), rel=1e-12))
        standardized = standardize(COLUMNS[name], *scales[name])
        assert len(np.unique(standardized[3:].astype(np.float32))) == 5
        assert np.abs(standardized).max() <= 4.0
    assert scales["still"] == (0.0323, 0.0)
    assert scales["empty"] == (0.0, 0.0)
    assert scales["missing gaps"] == (pytest.approx(3 / N), pytest.approx(np.sqrt(3 / N * (1 - 3 / N))))
    assert scales["missing shown"] == (0.0, 0.0)
    assert scales["half"].deviation == 0.0
    assert scales["rate"].deviation > 0.0


@pytest.mark.spark
def test_the_fit_does_not_depend_on_order_or_partitions(rows: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if quantiles come from a sample."""
    buckets = {name: (source, 20) for name, source in SOURCES.items()}
    rates = {"rate": SOURCES["rate"]}
    for limit in (200_000, 3_000):
        monkeypatch.setattr(fitting, "QUANTILE_ROWS", limit)
        fitted = [
            (fit_scales(partitioned, SOURCES), fit_bounds(partitioned, buckets), compute_base_rates(partitioned, rates))
            for partitioned in (
                rows.repartition(1),
                rows.repartition(7, "normal"),
                rows.orderBy(F.xxhash64("impression_id")),
            )
        ]
        assert fitted[0] == fitted[1] == fitted[2]
        for bounds in fitted[0][1].values():
            assert np.isfinite(bounds).all()
            assert (np.diff(bounds) > 0).all()
    assert fitted[0][2]["rate"] == pytest.approx(COLUMNS["small"].sum() / COLUMNS["shown"].sum(), rel=1e-14)


@pytest.mark.spark
def test_bounds_are_empty_only_if_a_number_is_constant(spark: SparkSession) -> None:
    """With empty bounds, a warm start or a grown vocabulary fits the number on a later night."""
    columns = {
        "still": np.full(N, 3.0),
        "nearly": np.r_[np.full(N - 5, 3.0), np.full(5, 9.0)],
        "two": np.r_[np.full(N - 10, 3.0), np.full(10, 1.0)],
        "rate": np.full(N, 1.0),
    }
    frame = pd.DataFrame(columns).assign(views=1.0 + np.arange(N) % 7, impression_id=[f"i{n}" for n in range(N)])
    frame["clicks"] = frame["views"] * 0.1
    sources = {name: NumericSource(column=name) for name in columns}
    sources["rate"] = NumericSource(column="clicks", denominator="views", prior=3.0, base=0.1)
    bounds = fit_bounds(spark.createDataFrame(frame), {name: (source, 5) for name, source in sources.items()})
    assert bounds == {"still": [], "nearly": [3.0], "two": [3.0], "rate": []}


@pytest.mark.spark
def test_the_fit_of_an_empty_table(spark: SparkSession) -> None:
    none = spark.createDataFrame([], "impression_id string, x double, y double")
    source = NumericSource(column="x", denominator="y", prior=1.0)
    assert fit_scales(none, {"x": source}) == {"x": (0.0, 0.0)}
    assert fit_bounds(none, {"x": (source, 5)}) == {"x": []}
    assert compute_base_rates(none, {"x": source}) == {"x": 0.0}
