"""Poisson bootstrap over users: weights of users in each bootstrap sample, and weighted sums of metrics.

Users are resampled, not rows, because the impressions of a user are correlated. In each bootstrap sample, a user has a
Poisson(1) weight that is a pure function of the user, the sample and the seed. The weights are therefore the same
however rows are partitioned, and for two models that are compared on the same rows: the variation that both share
cancels in their difference. In the first column of weights, all weights are 1; it represents the data themselves.
Weights, wins and counts are integers, so that sums do not depend on the order of rows.

Shapes: n rows, m users, C columns of weights (the data and the bootstrap samples).

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
_FRACTION = 36
"""Number of fractional bits in a summed GAUC: exact sums of 100 million users fit into 63 bits."""


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


def draw_weights(keys: Ints, replicates: int, seed: int) -> Weights:
    """Draw the bootstrap weights of users.

    Args:
        keys: (n,) 64-bit hash of each row's user. It seeds a splitmix64 stream, of which each 64-bit output gives four
            draws.
        replicates: Number of bootstrap samples.
        seed: Seed of all draws. More samples with the same seed keep the first ones unchanged.

    Returns:
        Weights of shape (C, n): 1 in the first row, then one row per bootstrap sample.
    """
    drawn = np.ones((1 + replicates, len(keys)), np.uint8)
    steps = -(-replicates // _LANES)
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


class RankSums:
    """Sums of weighted AUC over rows that are added in the order of their score, for all columns of weights.

    The sums are exact up to about four billion rows.

    Attributes:
        positive: (C,) weight of the positive rows.
        negative: (C,) weight of the negative rows.
        wins: (C,) twice the weight of the pairs in which the positive row has the higher score; a tie counts as half a
            win.
        lowest: Lowest score, NaN without rows.

    Args:
        columns: Number of columns of weights, C.
    """

    def __init__(self, columns: int) -> None:
        self.positive, self.negative, self.wins = (np.zeros(columns, np.int64) for _ in range(3))
        self.lowest = np.nan
        self._score = np.nan
        self._tied = np.zeros((2, columns), np.int64)

    def add(self, score: Floats, positive: Bools, weight: Weights) -> None:
        """Add a block of rows.

        Args:
            score: (n,) scores in ascending order, n > 0, none below the scores of earlier blocks.
            positive: (n,) whether each row is positive.
            weight: (C, n) weights.
        """
        starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
        ends = np.r_[starts[1:], len(score)]
        below = np.zeros((len(weight), len(score) + 1), np.int32)
        np.cumsum(weight * ~positive, axis=1, dtype=np.int32, out=below[:, 1:])
        found = np.flatnonzero(positive)
        tie = np.searchsorted(starts, found, side="right") - 1
        counts = weight[:, found].astype(np.int64)
        added = counts.sum(axis=1)
        self.wins += np.einsum("cp,cp->c", counts, below[:, starts[tie]] + below[:, ends[tie]])
        self.wins += 2 * self.negative * added

        def sum_weights(start: int, end: int) -> Ints:
            """Return the positive and negative weight of a range of rows, (2, C)."""
            negative = below[:, end] - below[:, start]
            return np.stack([weight[:, start:end].sum(axis=1, dtype=np.int64) - negative, negative])

        first, last = sum_weights(0, ends[0]), sum_weights(starts[-1], ends[-1])
        if self._score == score[0]:
            # Pairs with equal scores of earlier blocks were counted as whole wins or as none: make them half wins.
            self.wins += self._tied[0] * first[1] - self._tied[1] * first[0]
            last = last + self._tied if len(starts) == 1 else last
        self._score, self._tied = score[-1], last
        self.lowest = score[0] if np.isnan(self.lowest) else self.lowest
        self.positive += added
        self.negative += below[:, -1]


def compute_auc(positive: Ints, negative: Ints, wins: Ints) -> Floats:
    """Return the AUC from the sums of `RankSums`, (C,); NaN if a class is missing."""
    pairs = 2.0 * positive * negative
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


class UserSums:
    """Sums of impression-weighted user AUC (eq. 9) over users with both classes, for all columns of weights.

    Attributes:
        rows: (C,) weighted number of impressions of users with both classes.
        whole: (C,) weighted sum of impressions x AUC, integer part.
        part: (C,) weighted sum of impressions x AUC, fractional part in units of 2^-36.
        users: Number of all users, unweighted.
        with_both: Number of users with both classes, unweighted.
        squares: Sum of the squared number of impressions over users with both classes, unweighted.

    Args:
        columns: Number of columns of weights, C.
    """

    def __init__(self, columns: int) -> None:
        self.users = self.with_both = self.squares = 0
        self.rows, self.whole, self.part = (np.zeros(columns, np.int64) for _ in range(3))

    def add(self, rows: Ints, auc: Floats, weight: Weights) -> None:
        """Add users with both classes. `users` is not updated.

        Args:
            rows: (m,) number of impressions of each user.
            auc: (m,) AUC of each user.
            weight: (C, m) weights.
        """
        value = rows * auc
        whole = np.floor(value)
        part = np.rint(np.ldexp(value - whole, _FRACTION))
        sums = weight.astype(np.int64) @ np.stack([rows, whole, part], axis=1).astype(np.int64)
        self.with_both += len(rows)
        self.squares += int(np.square(rows).sum())
        self.rows += sums[:, 0]
        self.whole += sums[:, 1]
        self.part += sums[:, 2]


def compute_gauc(rows: Ints, whole: Ints, part: Ints) -> Floats:
    """Return the GAUC (eq. 9) from the sums of `UserSums`, (C,); NaN if no user has both classes."""
    value = whole + np.ldexp(part.astype(np.float64), -_FRACTION)
    return np.divide(value, rows, out=np.full(len(rows), np.nan), where=rows > 0)


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


def compute_deviation(samples: Floats, level: float) -> float | None:
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


def find_ties(group: Ints, score: Floats, positive: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """Count rows, positive rows and wins by group; tied pairs count as half wins.

    Args:
        group: (n,) group of each row, in ascending order.
        score: (n,) scores, in ascending order within a group.
        positive: (n,) whether each row is positive.

    Returns:
        For each group its first row number, its number of rows, its number of positive rows, and twice the number of
        pairs that positive rows win.
    """
    n = len(group)
    changes = np.r_[True, group[1:] != group[:-1]]
    starts = np.flatnonzero(changes)
    tie = np.flatnonzero(changes | np.r_[True, score[1:] != score[:-1]])
    below = np.r_[0, np.cumsum(~positive)]
    beaten = np.repeat(below[tie] + below[np.r_[tie[1:], n]], np.diff(np.r_[tie, n]))
    rows = np.diff(np.r_[starts, n])
    won = np.where(positive, beaten - np.repeat(2 * below[starts], rows), 0)
    return starts, rows, np.add.reduceat(positive.astype(np.int64), starts), np.add.reduceat(won, starts)
