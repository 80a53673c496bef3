"""Fit scales, bucket bounds and base rates on training rows.

The results do not depend on the order or the partitions of the rows: sums are exact (`exact_sums`), and quantiles are
computed from a sample that is selected by a hash of `impression_id`. Numbers are computed by the same function that
encodes them (`row_encoder.compute_numbers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import NumericSource
from star_ctr.features.encoding.exact_sums import ExactSums
from star_ctr.features.encoding.number_encoder import Floats, compute_numbers

QUANTILE_ROWS = 200_000
"""Approximate size of the sample for quantiles and fences, in rows."""
FENCE_ROWS = 100
"""Minimum number of values in the sample; with fewer, no value is an outlier."""
FENCE_SHARE = 1_000
"""The usual range excludes one in this many values at each end."""
FENCE_RANGES = 100.0
"""Distance from the usual range beyond which a value is an outlier, as a multiple of the width of that range."""
_ROUNDING = 1e-12
"""Relative standard deviation up to which a rate counts as constant, because it varies only by rounding."""
_SUMS = "name string, count long, total binary, total_squares binary"
_ARROW_SUMS = pa.schema(
    [("name", pa.string()), ("count", pa.int64()), ("total", pa.binary()), ("total_squares", pa.binary())]
)
_NO_FENCE = (-np.inf, np.inf)


class Scale(NamedTuple):
    """The mean and the population standard deviation of a number."""

    mean: float
    deviation: float


def compute_base_rates(train: DataFrame, sources: Mapping[str, NumericSource]) -> dict[str, float]:
    """Compute the overall rate of each smoothed rate.

    Args:
        train: The training rows.
        sources: The source of each number, by name; each has a denominator.

    Returns:
        By name, the sum of the column divided by the sum of the denominator; 0 if the denominator is 0.
    """
    columns = sorted({column for s in sources.values() for column in (s.column, str(s.denominator))})
    sums = _sum_inliers(train, {column: NumericSource(column=column) for column in columns}, {}, squares=False)

    def rate(source: NumericSource) -> float:
        numerator, denominator = sums[source.column].total, sums[str(source.denominator)].total
        return float(Fraction(numerator, denominator)) if denominator else 0.0

    return {name: rate(source) for name, source in sources.items()}


def fit_scales(train: DataFrame, sources: Mapping[str, NumericSource]) -> dict[str, Scale]:
    """Fit the mean and standard deviation of each number.

    Outliers, as defined by `compute_fence`, are excluded: a single 1e18 among numbers from 1 to 5 would make all others
    look equal. Missing values are ignored.

    Args:
        train: The training rows, with `impression_id`.
        sources: The source of each number, by name.

    Returns:
        The finite scale of each number, by name. The standard deviation is 0 only if the number is constant or missing
        in all rows.
    """
    if not sources:
        return {}
    fences = _apply_to_sample(train, sources, dict.fromkeys(sources, compute_fence))
    sums = _sum_inliers(train, sources, {name: (low, high) for name, (low, high) in fences.items()})
    return {name: _fit_scale(source, sums[name]) for name, source in sources.items()}


def _fit_scale(source: NumericSource, sums: ExactSums) -> Scale:
    mean, deviation = sums.mean(), sums.deviation()
    is_rounding = source.denominator is not None and deviation <= _ROUNDING * abs(mean)
    return Scale(mean, 0.0 if is_rounding else deviation)


def fit_bounds(train: DataFrame, sources: Mapping[str, tuple[NumericSource, int]]) -> dict[str, list[float]]:
    """Fit the bucket bounds of each number.

    Args:
        train: The training rows, with `impression_id`.
        sources: The source and the number of buckets of each number, by name.

    Returns:
        The distinct quantiles of each number in ascending order, by name. The list is empty if a number has no values,
        or if it is constant (for a rate: up to rounding); then a later night may fit it.
    """
    if not sources:
        return {}
    cuts = {name: _make_quantile_function(source, count) for name, (source, count) in sources.items()}
    return _apply_to_sample(train, {name: source for name, (source, _) in sources.items()}, cuts)


def _make_quantile_function(source: NumericSource, count: int) -> Callable[[Floats], list[float]]:
    """Return a function that computes the distinct bounds of `count` buckets from sorted values."""

    def compute_bounds(values: Floats) -> list[float]:
        if not len(values):
            return []
        lowest, highest = float(values[0]), float(values[-1])
        rounding = _ROUNDING * abs(highest) if source.denominator is not None else 0.0
        # The difference is infinite if it overflows.
        if highest - lowest <= rounding:
            return []
        return sorted({compute_quantile(values, k / count) for k in range(1, count)})

    return compute_bounds


def compute_fence(values: Floats) -> list[float]:
    """Compute the bounds outside which a value is an outlier.

    The usual range excludes one value in 1000 at each end, but at least one. The bounds are 100 times the width of the
    usual range away from it. They are infinite if there are fewer than 100 values, or if nearly all are equal.

    Args:
        values: The sorted values, of shape (n,).

    Returns:
        The lower and the upper bound.
    """
    least = max(1, len(values) // FENCE_SHARE)
    if len(values) < FENCE_ROWS or values[least] == values[-1 - least]:
        return list(_NO_FENCE)
    low, high = float(values[least]), float(values[-1 - least])
    # Use Python floats: if the range overflows a double, the fence is infinite.
    distance = FENCE_RANGES * (high - low)
    return [low - distance, high + distance]


def compute_quantile(values: Floats, share: float) -> float:
    """Compute a quantile by linear interpolation, without overflow.

    Args:
        values: The sorted values, of shape (n,) with n > 0.
        share: The share of values below the quantile, in [0, 1].

    Returns:
        The quantile.
    """
    position = (len(values) - 1) * share
    below = int(position)
    low, high = float(values[below]), float(values[min(below + 1, len(values) - 1)])
    return low if low == high or position == below else (below + 1 - position) * low + (position - below) * high


def _apply_to_sample(
    train: DataFrame, sources: Mapping[str, NumericSource], functions: Mapping[str, Callable[[Floats], list[float]]]
) -> dict[str, list[float]]:
    """Apply a function to the sorted values of each number, in a sample of about QUANTILE_ROWS rows.

    Args:
        train: The training rows.
        sources: The source of each number, by name.
        functions: The function to apply to each number, with the same keys.

    Returns:
        The results by name.
    """
    rows = train.count()
    if rows > QUANTILE_ROWS:
        share = QUANTILE_ROWS / rows
        train = train.where(F.pmod(F.xxhash64("impression_id"), F.lit(1_000_000)) < int(share * 1_000_000))

    def apply(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts: dict[str, list[Floats]] = {name: [] for name in sources}
        for table in map(_convert_to_table, batches):
            for name, source in sources.items():
                parts[name].append(_drop_missing(compute_numbers(table, source)))
        found = [functions[name](np.sort(np.concatenate([*parts.pop(name), np.empty(0)]))) for name in sources]
        yield pa.RecordBatch.from_arrays(
            [pa.array(list(sources)), pa.array(found, pa.list_(pa.float64()))], names=["name", "found"]
        )

    results = _select_columns(train, sources).repartition(1).mapInArrow(apply, "name string, found array<double>")
    # Spark may run no task for a table that is known to be empty, and then returns no rows.
    found = {row.name: list(row.found) for row in results.collect()}
    return {name: found[name] if name in found else functions[name](np.empty(0)) for name in sources}


def _sum_inliers(
    train: DataFrame,
    sources: Mapping[str, NumericSource],
    fences: Mapping[str, tuple[float, float]],
    squares: bool = True,
) -> dict[str, ExactSums]:
    """Sum each number over all rows, without values outside its fence; a number without a fence has no outliers."""

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = {name: ExactSums(squares) for name in sources}
        for table in map(_convert_to_table, batches):
            for name, source in sources.items():
                x = _drop_missing(compute_numbers(table, source))
                low, high = fences.get(name, _NO_FENCE)
                sums[name].add(x[(low <= x) & (x <= high)])
        yield _pack_sums(sums)

    def merge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = {name: ExactSums(squares) for name in sources}
        for batch in batches:
            for row in batch.to_pylist():
                _merge_row(sums[row["name"]], row)
        yield _pack_sums(sums)

    # Merge in a separate task, so that the driver receives one row per number, whatever the number of partitions.
    merged = _select_columns(train, sources).mapInArrow(add, _SUMS).repartition(1).mapInArrow(merge, _SUMS)
    totals = {name: ExactSums(squares) for name in sources}
    for row in merged.collect():
        _merge_row(totals[row.name], row.asDict())
    return totals


def _select_columns(train: DataFrame, sources: Mapping[str, NumericSource]) -> DataFrame:
    """Select the columns that the numbers are computed from."""
    needed = {column for s in sources.values() for column in (s.column, s.denominator) if column}
    return train.select(*(F.col(f"`{column}`") for column in sorted(needed)))


def _convert_to_table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def _drop_missing(x: Floats) -> Floats:
    return x[~np.isnan(x)]


def _pack_sums(sums: Mapping[str, ExactSums]) -> pa.RecordBatch:
    rows = [
        {"name": name, "count": s.count, "total": _to_bytes(s.total), "total_squares": _to_bytes(s.total_squares)}
        for name, s in sums.items()
    ]
    return pa.RecordBatch.from_pylist(rows, schema=_ARROW_SUMS)


def _merge_row(sums: ExactSums, row: Mapping[str, object]) -> None:
    total, squares = (int.from_bytes(bytes(row[key]), "big", signed=True) for key in ("total", "total_squares"))  # type: ignore[call-overload]
    sums.merge(int(str(row["count"])), total, squares)


def _to_bytes(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
