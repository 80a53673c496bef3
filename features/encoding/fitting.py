"""Fit scales, bucket bounds and base rates on training rows; the result does not depend on the order of rows.

Numbers are computed by the function that encodes them (`packing.numbers`). Sums are exact (`exact_sums`). Quantiles are
taken from a sample that is chosen by a hash of each row.
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
from star_ctr.features.encoding.row_encoder import Floats, compute_numbers

QUANTILE_ROWS = 200_000
FENCE_ROWS = 100
"""No value is an outlier if the sample has fewer rows than this."""
FENCE_SHARE = 1_000
"""The usual range excludes one number in this many at each end."""
FENCE_RANGES = 100.0
"""Distance from the usual range, in widths of that range, beyond which a number is an outlier."""
_ROUNDING = 1e-12
"""A rate with a smaller relative standard deviation than this is constant up to rounding."""
_SUMS = "name string, count long, total binary, total_squares binary"
_ARROW_SUMS = pa.schema(
    [("name", pa.string()), ("count", pa.int64()), ("total", pa.binary()), ("total_squares", pa.binary())]
)
_EVERYTHING = (-np.inf, np.inf)


class Fit(NamedTuple):
    """Mean and standard deviation of a number."""

    mean: float
    deviation: float


def compute_base_rates(train: DataFrame, sources: Mapping[str, NumericSource]) -> dict[str, float]:
    """Return the overall rate of each number: the sum of its column over that of its denominator, or 0."""
    columns = sorted({column for s in sources.values() for column in (s.column, str(s.denominator))})
    sums = _sum_inliers(train, {column: NumericSource(column=column) for column in columns}, {}, squares=False)

    def rate(source: NumericSource) -> float:
        events, of = sums[source.column].total, sums[str(source.denominator)].total
        return float(Fraction(events, of)) if of else 0.0

    return {name: rate(source) for name, source in sources.items()}


def fit_scales(train: DataFrame, sources: Mapping[str, NumericSource]) -> dict[str, Fit]:
    """Fit mean and standard deviation by number, both finite; the latter is 0 only if the number is constant.

    Outliers (outside `compute_fence`) are left out: a single 1e18 among numbers from 1 to 5 would make all others look equal.
    """
    if not sources:
        return {}
    fences = _apply_to_sample(train, sources, dict.fromkeys(sources, compute_fence))
    sums = _sum_inliers(train, sources, {name: (low, high) for name, (low, high) in fences.items()})
    return {name: _fit_scale(source, sums[name]) for name, source in sources.items()}


def _fit_scale(source: NumericSource, sums: ExactSums) -> Fit:
    mean, deviation = sums.mean(), sums.deviation()
    is_rounding = source.denominator is not None and deviation <= _ROUNDING * abs(mean)
    return Fit(mean, 0.0 if is_rounding else deviation)


def fit_bounds(train: DataFrame, sources: Mapping[str, tuple[NumericSource, int]]) -> dict[str, list[float]]:
    """Fit bucket bounds by number: the distinct quantiles, ascending. `sources`: source and number of buckets."""
    if not sources:
        return {}
    cuts = {name: _cut_into(count) for name, (_, count) in sources.items()}
    return _apply_to_sample(train, {name: source for name, (source, _) in sources.items()}, cuts)


def _cut_into(count: int) -> Callable[[Floats], list[float]]:
    return lambda values: sorted({compute_quantile(values, k / count) for k in range(1, count)}) if len(values) else []


def compute_fence(values: Floats) -> list[float]:
    """Return the bounds outside which a number is an outlier, from sorted `values` (n,).

    The usual range excludes one number in 1000 at each end, but at least one. The fence is 100 times the width of that
    range away from it. It is infinite if there are few numbers, or if nearly all are equal.
    """
    least = max(1, len(values) // FENCE_SHARE)
    if len(values) < FENCE_ROWS or values[least] == values[-1 - least]:
        return list(_EVERYTHING)
    low, high = float(values[least]), float(values[-1 - least])
    # Python floats: if the range overflows a double, the fence is infinite.
    away = FENCE_RANGES * (high - low)
    return [low - away, high + away]


def compute_quantile(values: Floats, share: float) -> float:
    """Return a quantile of sorted numbers (n > 0,), interpolated linearly without overflow."""
    position = (len(values) - 1) * share
    below = int(position)
    low, high = float(values[below]), float(values[min(below + 1, len(values) - 1)])
    return low if low == high or position == below else (below + 1 - position) * low + (position - below) * high


def _apply_to_sample(
    train: DataFrame, sources: Mapping[str, NumericSource], wanted: Mapping[str, Callable[[Floats], list[float]]]
) -> dict[str, list[float]]:
    """Apply `wanted` to each number's sorted values in a sample of about QUANTILE_ROWS rows."""
    rows = train.count()
    if rows > QUANTILE_ROWS:
        share = QUANTILE_ROWS / rows
        train = train.where(F.pmod(F.xxhash64("impression_id"), F.lit(1_000_000)) < int(share * 1_000_000))

    def make(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts: dict[str, list[Floats]] = {name: [] for name in sources}
        for table in map(_convert_to_table, batches):
            for name, source in sources.items():
                parts[name].append(_drop_missing(compute_numbers(table, source)))
        found = [wanted[name](np.sort(np.concatenate([*parts.pop(name), np.empty(0)]))) for name in sources]
        yield pa.RecordBatch.from_arrays(
            [pa.array(list(sources)), pa.array(found, pa.list_(pa.float64()))], names=["name", "found"]
        )

    made = _select_columns(train, sources).repartition(1).mapInArrow(make, "name string, found array<double>")
    # Spark may run no task at all for a table that is known to be empty.
    found = {row.name: list(row.found) for row in made.collect()}
    return {name: found[name] if name in found else wanted[name](np.empty(0)) for name in sources}


def _sum_inliers(
    train: DataFrame,
    sources: Mapping[str, NumericSource],
    fences: Mapping[str, tuple[float, float]],
    squares: bool = True,
) -> dict[str, ExactSums]:
    """Sum each number over all rows, without outliers."""

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = {name: ExactSums(squares) for name in sources}
        for table in map(_convert_to_table, batches):
            for name, source in sources.items():
                x = _drop_missing(compute_numbers(table, source))
                low, high = fences.get(name, _EVERYTHING)
                sums[name].add(x[(low <= x) & (x <= high)])
        yield _pack(sums)

    def merge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = {name: ExactSums(squares) for name in sources}
        for batch in batches:
            for row in batch.to_pylist():
                _merge_row(sums[row["name"]], row)
        yield _pack(sums)

    # Merged in a separate task, so that the driver receives one row per number for any number of partitions.
    merged = _select_columns(train, sources).mapInArrow(add, _SUMS).repartition(1).mapInArrow(merge, _SUMS)
    totals = {name: ExactSums(squares) for name in sources}
    for row in merged.collect():
        _merge_row(totals[row.name], row.asDict())
    return totals


def _select_columns(train: DataFrame, sources: Mapping[str, NumericSource]) -> DataFrame:
    """Select the columns that numbers are computed from."""
    needed = {column for s in sources.values() for column in (s.column, s.denominator) if column}
    return train.select(*(F.col(f"`{column}`") for column in sorted(needed)))


def _convert_to_table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def _drop_missing(x: Floats) -> Floats:
    return x[~np.isnan(x)]


def _pack(sums: Mapping[str, ExactSums]) -> pa.RecordBatch:
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
