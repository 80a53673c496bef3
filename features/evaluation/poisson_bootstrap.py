"""Poisson bootstrap over users: weights of users in each bootstrap sample, intervals and standard errors.

Users are resampled, not rows, because the impressions of a user are correlated. In each bootstrap sample, a user has a
Poisson(1) weight that is a pure function of the user, the sample and the seed. The weights are therefore the same
however rows are partitioned, and for two models that are compared on the same rows: the variation that both share
cancels in their difference. In the first column of weights, all weights are 1; it represents the data themselves.
Weights are integers, so that weighted sums do not depend on the order of rows.

Shapes: n rows, C columns of weights (the data and the bootstrap samples).

This module uses NumPy only.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.uint8]

_LANES = 4
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _make_poisson_table() -> Weights:
    """Return a table that maps 65,536 equally likely draws to Poisson(1) values, with probabilities exact to 2^-17."""
    chances = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    bounds = np.rint(chances * 65_536)
    return np.searchsorted(bounds, np.arange(65_536), side="right").astype(np.uint8)


_POISSON = _make_poisson_table()


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply the output function of splitmix64: every bit of the result depends on every bit of `z`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw_weights(keys: Ints, samples: int, seed: int) -> Weights:
    """Draw the bootstrap weights of users.

    Args:
        keys: (n,) 64-bit hash of each row's user. It seeds a splitmix64 stream, of which each 64-bit output gives four
            draws.
        samples: Number of bootstrap samples.
        seed: Seed of all draws. More samples with the same seed keep the first ones unchanged.

    Returns:
        Weights of shape (C, n): 1 in the first row, then one row per bootstrap sample.
    """
    drawn = np.ones((1 + samples, len(keys)), np.uint8)
    steps = -(-samples // _LANES)
    if steps == 0:
        return drawn
    start = _mix(keys.astype(np.uint64) ^ _mix(np.array([seed], np.uint64)))
    counters = np.arange(1, steps + 1, dtype=np.uint64)[:, None] * _GOLDEN
    bits = _mix(start + counters)
    for lane in range(_LANES):
        part = drawn[1 + lane :: _LANES]
        shifted = (bits[: len(part)] >> np.uint64(16 * lane)).astype(np.uint16)
        part[:] = _POISSON[shifted]
    return drawn


def compute_interval(samples: Floats, level: float) -> tuple[float | None, float | None]:
    """Return the percentile interval of a metric.

    Args:
        samples: The metric in each bootstrap sample, NaN if undefined.
        level: Confidence level of the interval, such as 0.95.

    Returns:
        The lower and the upper bound. Both are None if the share of undefined samples is larger than 1 - `level`, the
        share that the interval leaves out, or if there are no defined samples.
    """
    defined = samples[~np.isnan(samples)]
    if len(defined) == 0 or len(defined) < level * len(samples):
        return None, None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compute_standard_error(samples: Floats, level: float) -> float | None:
    """Return the standard deviation of bootstrap samples, which is the bootstrap standard error of the metric.

    Args:
        samples: As for `compute_interval`.
        level: As for `compute_interval`.

    Returns:
        The standard deviation; None if the interval is None or if there are fewer than two defined samples.
    """
    defined = samples[~np.isnan(samples)]
    if len(defined) < 2 or len(defined) < level * len(samples):
        return None
    return float(np.std(defined, ddof=1))
