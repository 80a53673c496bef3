"""The bootstrap over users: their weights in each replicate, and the sums of metrics under them. NumPy alone.

Users are what is drawn anew, since a user's impressions go together. A user counts Poisson(1) times in a replicate, a
pure function of user, replicate and seed: the same however rows are dealt out, and for two models that are compared
on the same rows, so that what both owe to the draw of users cancels in their difference. The first weight of all is 1:
the data themselves. Weights, wins and counts are integers, which add up the same in whatever order they come.

Shapes: n rows, m users, C columns of weights (the data and the replicates).
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
"""Bits behind the point of a summed GAUC: exact sums of 100 million users fit 63 bits."""


def _make_poisson_table() -> Weights:
    """The Poisson(1) number for each of 65,536 equally likely draws: its chances are right to 2^-17."""
    chances = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    bounds = np.rint(chances * 65_536)
    return np.searchsorted(bounds, np.arange(65_536), side="right").astype(np.uint8)


_POISSON = _make_poisson_table()


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The output function of splitmix64: every bit of the result hangs on every bit of `z`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw_weights(keys: Ints, replicates: int, seed: int) -> Weights:
    """How often each user counts, (C, n): 1 in the first row, then one row a replicate.

    `keys`: (n,) a 64-bit hash of each row's user, which starts a splitmix64 stream; 64 bits of it make four draws.
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
    """Weighted AUC of rows that come in the order of their score, a block at a time, for all columns of weights.

    `positive`, `negative`: (C,) weights so far; `wins`: (C,) twice the pairs that positives win, where a tie is half a
    win. Exact up to some four billion rows.
    """

    def __init__(self, columns: int) -> None:
        self.positive, self.negative, self.wins = (np.zeros(columns, np.int64) for _ in range(3))
        self.lowest = np.nan
        self._score = np.nan
        self._tied = np.zeros((2, columns), np.int64)

    def add(self, score: Floats, positive: Bools, weight: Weights) -> None:
        """Rows (n > 0) whose scores are not below any before, with their weights (C, n)."""
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

        def tied(start: int, end: int) -> Ints:
            """Positive and negative weight of some rows, (2, C)."""
            negative = below[:, end] - below[:, start]
            return np.stack([weight[:, start:end].sum(axis=1, dtype=np.int64) - negative, negative])

        first, last = tied(0, ends[0]), tied(starts[-1], ends[-1])
        if self._score == score[0]:
            # Pairs with equal scores of earlier blocks were counted as whole wins, or as none.
            self.wins += self._tied[0] * first[1] - self._tied[1] * first[0]
            last = last + self._tied if len(starts) == 1 else last
        self._score, self._tied = score[-1], last
        self.lowest = score[0] if np.isnan(self.lowest) else self.lowest
        self.positive += added
        self.negative += below[:, -1]


def compute_auc(positive: Ints, negative: Ints, wins: Ints) -> Floats:
    """AUC of summed wins; NaN where a class is missing."""
    pairs = 2.0 * positive * negative
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


class UserSums:
    """Impression-weighted user AUC (eq. 9) summed over users with both classes.

    `rows`: (C,) their weighted impressions; `whole`, `part`: (C,) the weighted sum of impressions x AUC, its
    integer part and the rest in units of 2^-36. Unweighted: `users`, all users; `with_both`, those with both classes;
    `squares`, the sum of the squared impressions of the latter.
    """

    def __init__(self, columns: int) -> None:
        self.users = self.with_both = self.squares = 0
        self.rows, self.whole, self.part = (np.zeros(columns, np.int64) for _ in range(3))

    def add(self, rows: Ints, of_auc: Floats, weight: Weights) -> None:
        """Users with both classes: their rows (m,), AUC (m,) and weights (C, m)."""
        value = rows * of_auc
        whole = np.floor(value)
        part = np.rint(np.ldexp(value - whole, _FRACTION))
        sums = weight.astype(np.int64) @ np.stack([rows, whole, part], axis=1).astype(np.int64)
        self.with_both += len(rows)
        self.squares += int(np.square(rows).sum())
        self.rows += sums[:, 0]
        self.whole += sums[:, 1]
        self.part += sums[:, 2]


def compute_gauc(rows: Ints, whole: Ints, part: Ints) -> Floats:
    """GAUC of summed users; NaN where there are none."""
    value = whole + np.ldexp(part.astype(np.float64), -_FRACTION)
    return np.divide(value, rows, out=np.full(len(rows), np.nan), where=rows > 0)


def compute_interval(replicates: Floats, level: float) -> tuple[float | None, float | None]:
    """The percentile interval; none where more of the replicates are undefined than it may leave out."""
    defined = replicates[~np.isnan(replicates)]
    if len(defined) == 0 or len(defined) < level * len(replicates):
        return None, None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compute_deviation(replicates: Floats, level: float) -> float | None:
    """Return the standard deviation of the replicates (the bootstrap standard error); None if `compute_interval` is None."""
    defined = replicates[~np.isnan(replicates)]
    if len(defined) < 2 or len(defined) < level * len(replicates):
        return None
    return float(np.std(defined, ddof=1))


def find_ties(group: Ints, score: Floats, positive: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """Of rows sorted by group and score: each group's first row, rows, positives and twice the pairs that they win."""
    n = len(group)
    changes = np.r_[True, group[1:] != group[:-1]]
    starts = np.flatnonzero(changes)
    tie = np.flatnonzero(changes | np.r_[True, score[1:] != score[:-1]])
    below = np.r_[0, np.cumsum(~positive)]
    beaten = np.repeat(below[tie] + below[np.r_[tie[1:], n]], np.diff(np.r_[tie, n]))
    rows = np.diff(np.r_[starts, n])
    won = np.where(positive, beaten - np.repeat(2 * below[starts], rows), 0)
    return starts, rows, np.add.reduceat(positive.astype(np.int64), starts), np.add.reduceat(won, starts)
