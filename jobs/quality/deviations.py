"""Comparison of a share, a count or a number with those of earlier days.

A value deviates if it differs from the median of the earlier days by more than random variation, by more than the
smallest change that matters, and in the same direction from every earlier day of the same weekday. Random variation is
the variation between days (from the median absolute deviation) and the sampling error of counts.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

MIN_DAYS = 3
"""Minimum number of earlier days; with fewer, nothing is compared."""
_MIN_SCORE = 5.0
"""Minimum number of standard deviations. It is large, because a day has hundreds of measures."""
_MEDIAN_VARIANCE = 1.57
"""Variance of a median, relative to that of a mean of as many normal values."""


class ShareLimits(NamedTuple):
    """The smallest change of a share that matters.

    Attributes:
        direction: 1 if only a rise matters, -1 if only a fall does, 0 for both.
        points: Minimum difference of the shares.
        odds: Minimum factor between the odds of the shares.
        spread: Minimum standard deviation between days, of the logarithm of the odds.
    """

    direction: int
    points: float
    odds: float
    spread: float


class Deviation(NamedTuple):
    """A deviation from earlier days.

    Attributes:
        usual: The median of the earlier days.
        size: The difference from it, as the logarithm of the factor between the odds or counts.
    """

    usual: float
    size: float


def compare_shares(
    ds: str, now: tuple[int, int], earlier: Mapping[str, tuple[int, int]], limits: ShareLimits
) -> Deviation | None:
    """Compare a share with those of earlier days.

    Args:
        ds: The day.
        now: The hits and the rows of the day.
        earlier: The hits and the rows of earlier days.
        limits: The smallest change that matters.

    Returns:
        The deviation; None if there is none, the day has no rows, or there are too few earlier days with rows.
    """
    earlier = {day: counts for day, counts in earlier.items() if counts[1]}
    if not now[1] or len(earlier) < MIN_DAYS:
        return None
    shares = {day: hits / rows for day, (hits, rows) in earlier.items()}
    share, usual = now[0] / now[1], median(shares.values())
    sign = 1 if share > usual else -1
    if limits.direction == -sign:
        return None
    for other in (usual, *_select_weekday(ds, shares)):
        if sign * (share - other) < limits.points or sign * _compute_log_odds_ratio(share, other) < math.log(
            limits.odds
        ):
            return None
    scale = [_compute_log_odds(hits, rows) for hits, rows in earlier.values()]
    size = _compute_log_odds(*now) - median(scale)
    rows = sum(rows for _, rows in earlier.values()) / _MEDIAN_VARIANCE
    sampling = _compute_share_score(now[0], now[1], usual * rows, rows)
    score = _combine_scores(sampling, abs(size) / max(limits.spread, estimate_spread(scale)))
    return Deviation(usual, size) if score >= _MIN_SCORE else None


def compare_counts(
    ds: str, now: float, earlier: Mapping[str, float], factor: float, spread: float, sampled: bool
) -> Deviation | None:
    """Compare a count, or another number that is not negative, with those of earlier days.

    Args:
        ds: The day.
        now: The count of the day.
        earlier: The counts of earlier days.
        factor: The smallest factor that matters.
        spread: Minimum standard deviation between days, of the logarithm.
        sampled: Whether the count has the sampling error of independent rows.

    Returns:
        The deviation; None if there is none, the usual count is 0, or there are too few earlier days.
    """
    usual = median(earlier.values()) if len(earlier) >= MIN_DAYS else 0.0
    if not usual:
        return None
    # Half a row keeps the logarithm of 0 finite. Numbers that are no counts of rows have no natural unit.
    offset = 0.5 if sampled else 1e-9 * usual
    sign = 1 if now > usual else -1
    for other in (usual, *_select_weekday(ds, earlier)):
        if sign * math.log((now + offset) / (other + offset)) < math.log(factor):
            return None
    scale = [math.log(n + offset) for n in earlier.values()]
    size = math.log(now + offset) - median(scale)
    score = abs(size) / max(spread, estimate_spread(scale))
    if sampled:
        days = len(earlier) / _MEDIAN_VARIANCE
        score = _combine_scores(_compute_count_score(now, usual * days, days), score)
    return Deviation(usual, size) if score >= _MIN_SCORE else None


def compare_medians(
    ds: str, now: float, earlier: Mapping[str, float], ranges: Sequence[float], factor: float
) -> Deviation | None:
    """Compare the median of a column with those of earlier days, relative to the interquartile range of its values.

    Args:
        ds: The day.
        now: The median of the day.
        earlier: The medians of earlier days.
        ranges: The interquartile ranges of earlier days.
        factor: The smallest change that matters, in interquartile ranges.

    Returns:
        The deviation, with a size of log(1 + number of ranges); None if there is none, or there are too few days.
    """
    if len(earlier) < MIN_DAYS:
        return None
    usual, width = median(earlier.values()), median(ranges)
    others = (usual, *_select_weekday(ds, earlier))
    # A range of 0 means that most values are equal. Then the median must change by half of its value.
    least = factor * width if width else 0.5 * max(abs(usual), abs(now))
    if now == usual or any((now - other) * (now - usual) <= 0 or abs(now - other) < least for other in others):
        return None
    if abs(now - usual) < _MIN_SCORE * estimate_spread(list(earlier.values())):
        return None
    return Deviation(usual, math.log1p(abs(now - usual) / (width or least)))


def estimate_spread(values: Sequence[float]) -> float:
    """Estimate the standard deviation of values, robustly; with few values, the estimate is increased."""
    middle = median(values)
    return 1.4826 * median(abs(v - middle) for v in values) * (1 + MIN_DAYS / len(values))


def _select_weekday(ds: str, values: Mapping[str, float]) -> list[float]:
    """Return the values of earlier days of the same weekday."""
    weekday = dt.date.fromisoformat(ds).weekday()
    return [value for day, value in values.items() if dt.date.fromisoformat(day).weekday() == weekday]


def _compute_log_odds(hits: float, rows: float) -> float:
    return math.log((hits + 0.5) / (rows - hits + 0.5)) if hits <= rows else math.log(2 * rows + 1)


def _compute_log_odds_ratio(share: float, other: float) -> float:
    """Return the logarithm of the odds ratio of two shares, which is infinite if only one of them is 0 or 1."""
    if share == other:
        return 0.0
    tiny = 1e-300
    odds, other_odds = (max(p, tiny) / max(1 - p, tiny) for p in (share, other))
    return math.log(odds / other_odds) if 0 < odds / other_odds < math.inf else math.copysign(math.inf, share - other)


def _combine_scores(*scores: float) -> float:
    """Combine the scores of independent errors, whose variances add up."""
    return 0.0 if min(scores) == 0 else 1 / math.sqrt(sum(score**-2 for score in scores))


def _compute_share_score(hits: float, rows: float, other_hits: float, other_rows: float) -> float:
    """Return the number of standard deviations between two shares, from the likelihood ratio."""
    pooled = (hits + other_hits) / (rows + other_rows)
    pairs = [(hits, rows * pooled), (other_hits, other_rows * pooled)]
    pairs += [(rows - hits, rows * (1 - pooled)), (other_rows - other_hits, other_rows * (1 - pooled))]
    return _compute_deviance_root(pairs)


def _compute_count_score(count: float, other: float, days: float) -> float:
    """Return the number of standard deviations between a count of one day and a count of several days."""
    total = count + other
    return _compute_deviance_root([(count, total / (1 + days)), (other, total * days / (1 + days))])


def _compute_deviance_root(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the square root of the deviance of observed from expected counts."""
    return math.sqrt(max(0.0, 2 * sum(o * math.log(o / e) for o, e in pairs if o > 0 and e > 0)))
