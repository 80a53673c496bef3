"""Encode numbers: smoothed rates and logarithms, standardized values, and ids of buckets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, UNKNOWN, NumericSource

CLIP = 4.0
"""Limit of standardized numbers, in standard deviations, so that one extreme value does not dominate a row."""
_LARGE = 2.0**512
"""Standard deviation above which `standardize` divides its inputs, to avoid overflow."""

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


def compute_numbers(rows: pa.Table, source: NumericSource) -> Floats:
    """Compute a number of each row: a column or a smoothed rate, optionally as log(1 + x), or whether it is missing.

    Args:
        rows: Feature rows with the columns of the source.
        source: The columns of the number, and how it is computed from them.

    Returns:
        Finite values of shape (n,), or NaN where a value is missing. Infinite values count as missing. With
        `source.missing`, 1 where a value is missing and 0 elsewhere.
    """
    x = _to_floats(rows[source.column])
    if source.denominator:
        with np.errstate(all="ignore"):
            x = (x + source.prior * source.base) / (_to_floats(rows[source.denominator]) + source.prior)
        x = _replace_infinite(x)
    if source.missing:
        return np.isnan(x).astype(np.float64)
    return np.log1p(np.maximum(x, 0.0)) if source.log else x


def _to_floats(column: pa.ChunkedArray) -> Floats:
    """Convert a column to doubles; missing and infinite values become NaN, and vectors that are not missing 0."""
    if pa.types.is_nested(column.type):
        return np.where(np.asarray(pc.is_null(column)), np.nan, 0.0)
    return _replace_infinite(np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan), dtype=np.float64))


def _replace_infinite(x: Floats) -> Floats:
    """Replace infinite values by NaN."""
    infinite = np.isinf(x)
    return np.where(infinite, np.nan, x) if infinite.any() else x


def standardize(x: Floats, mean: float, std: float) -> Floats:
    """Standardize numbers and clip them to `CLIP` standard deviations, without overflow.

    Args:
        x: Finite numbers or NaN, of shape (n,).
        mean: The mean.
        std: The standard deviation, greater than 0.

    Returns:
        (x - mean) / std within [-CLIP, CLIP], of shape (n,); 0 where `x` is NaN.
    """
    if std > _LARGE:
        # The difference may overflow. Dividing all three by the same power of two avoids this and is exact.
        x, mean, std = x / _LARGE, mean / _LARGE, std / _LARGE
    with np.errstate(over="ignore"):
        scaled = (x - mean) / std
    return np.where(np.isnan(scaled), 0.0, np.clip(scaled, -CLIP, CLIP))


def encode_buckets(x: Floats, bounds: list[float]) -> Ints:
    """Encode numbers as bucket ids.

    Args:
        x: Numbers or NaN, of shape (n,).
        bounds: The bucket bounds in ascending order; a number that equals a bound belongs to the bucket above it.

    Returns:
        The ids, of shape (n,), from `FIRST_KNOWN`; `UNKNOWN` where `x` is NaN.
    """
    ids = np.searchsorted(np.asarray(bounds, dtype=np.float64), x, side="right") + FIRST_KNOWN
    return np.where(np.isnan(x), UNKNOWN, ids).astype(np.int32)
