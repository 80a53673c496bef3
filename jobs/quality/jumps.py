"""Find jumps in the data: measures of a day that deviate from those of earlier days. Needs no Spark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import NamedTuple

import numpy as np

from star_ctr.jobs.quality.deviations import (
    MIN_DAYS,
    ShareLimits,
    compare_counts,
    compare_medians,
    compare_shares,
)
from star_ctr.jobs.quality.jump_texts import describe_hours, describe_median, describe_share, format_count
from star_ctr.jobs.quality.measures import (
    CLICKED,
    DISTINCT,
    DOMAIN,
    DUPLICATES,
    EARLY,
    HEAVIEST,
    HOUR,
    LEFT_OUT,
    MATCH,
    MEDIAN,
    NULL,
    QUARANTINED,
    ROWS,
    SPREAD,
    UNPARSABLE,
    UNSEEN,
    Measure,
)

_SHARES = {
    NULL: ShareLimits(0, 0.02, 2.0, 0.13),
    QUARANTINED: ShareLimits(1, 0.01, 2.0, 0.13),
    DUPLICATES: ShareLimits(1, 0.01, 2.0, 0.13),
    LEFT_OUT: ShareLimits(0, 0.05, 2.0, 0.13),
    MATCH: ShareLimits(-1, 0.03, 1.5, 0.08),
    EARLY: ShareLimits(1, 0.01, 2.0, 0.13),
    UNPARSABLE: ShareLimits(1, 0.01, 2.0, 0.13),
    UNSEEN: ShareLimits(1, 0.1, 2.5, 0.18),
    HEAVIEST: ShareLimits(1, 0.03, 3.0, 0.2),
    CLICKED: ShareLimits(0, 0.0, 1.5, 0.08),
}
"""The smallest changes of shares that are reported, by measure."""
_DOMAIN_CLICKED = ShareLimits(0, 0.0, 2.0, 0.13)
_ROWS_FACTOR, _DISTINCT_FACTOR, _MEDIAN_RANGES, _SPREAD_FACTOR = 2.0, 2.5, 1.5, 4.0
"""The smallest factors that are reported; for medians, the number of interquartile ranges."""
_WEIGHTS = {ROWS: 3.0, MATCH: 3.0, CLICKED: 2.5, EARLY: 2.5, DOMAIN: 2.0, QUARANTINED: 2.0, UNPARSABLE: 2.0}
"""Weights of measures in the severity of a jump; 1.5 for all others."""
_LARGEST = 5.0
"""Larger deviations count as this large."""
_NEW_ROWS, _NEW_SHARE = 50, 0.005
"""Minimum rows of a new domain, and minimum share of all rows."""
_VARIED = 4
"""Minimum number of distinct values of a column on all earlier days, to report that it has become constant."""
_HOUR_ROWS, _HOUR_LEFT = 15.0, 0.05
"""Minimum expected rows of an hour, and the share of them below which the hour counts as missing."""
_COLUMN_MEASURES = (NULL, DISTINCT, MEDIAN, SPREAD, UNPARSABLE, UNSEEN)
"""Measures of a column; only the most severe jump of a column is reported."""


class Jump(NamedTuple):
    """A measure that deviates from earlier days.

    Attributes:
        severity: The size of the deviation, weighted; jumps are ranked by it.
        sentence: What jumped, in words.
        log: The log, as in `Measure`.
        name: What is measured, as in `Measure`.
        measure: The kind of measure.
        values: The measure by day, oldest first; None on days without it.
    """

    severity: float
    sentence: str
    log: str
    name: str
    measure: str
    values: dict[str, float | None]


def find_jumps(measures: Iterable[Measure], ds: str, skipped_hours: Iterable[int] = ()) -> list[Jump]:
    """Find the measures of a day that deviate from earlier days.

    Args:
        measures: The measures of the day and of earlier days; later days are ignored.
        ds: The day.
        skipped_hours: Hours that the day does not have, because the clock is set forward.

    Returns:
        The jumps, most severe first. Empty if there are fewer than MIN_DAYS earlier days.
    """
    finder = _Finder(measures, ds, skipped_hours)
    ranked = sorted(finder.find_all(), key=lambda jump: (-jump.severity, jump.sentence))
    found, columns = [], set[tuple[str, str]]()
    for jump in ranked:
        key = (jump.log, jump.name)
        if jump.measure in _COLUMN_MEASURES:
            if key in columns:
                continue
            columns.add(key)
        found.append(jump)
    return found


class _Finder:
    """The measures of a day and of earlier days, by log, name and measure."""

    def __init__(self, measures: Iterable[Measure], ds: str, skipped_hours: Iterable[int]) -> None:
        self.ds, self.skipped_hours = ds, {*skipped_hours}
        self.series: dict[tuple[str, str, str], dict[str, Measure]] = {}
        for m in measures:
            if m.ds <= ds:
                self.series.setdefault((m.log, m.name, m.measure), {})[m.ds] = m

    def find_all(self) -> Iterator[Jump]:
        """Yield all jumps, in no particular order."""
        finders: dict[str, Callable[[str, str], Iterator[Jump]]] = {
            ROWS: self._find_rows, DOMAIN: self._find_domain, DISTINCT: self._find_distinct, MEDIAN: self._find_median,
            SPREAD: self._find_spread,
        }  # fmt: skip
        for log, name, measure in self.series:
            if measure in _SHARES:
                yield from self._find_share(log, name, measure)
            elif measure in finders:
                yield from finders[measure](log, name)
        for log in sorted({log for log, _, measure in self.series if measure == HOUR}):
            yield from self._find_missing_hours(log)

    def _split(self, log: str, name: str, measure: str) -> tuple[Measure | None, dict[str, Measure]]:
        """Return a measure of the day and of earlier days.

        A reason, domain or log without rows has no measure. It is 0 on days on which the step measured others.
        """
        days = dict(self.series[log, name, measure])
        bases = {
            QUARANTINED: (log, "", ROWS),
            LEFT_OUT: (log, "", ROWS),
            ROWS: ("impressions", "", ROWS),
            DOMAIN: (log, "", CLICKED),
        }
        whole = self.series.get(bases[measure], {}) if measure in bases else {}
        for ds, m in whole.items():
            days.setdefault(ds, Measure(ds, log, name, measure, 0 if measure == ROWS else m.rows, 0))
        return days.get(self.ds), {ds: m for ds, m in sorted(days.items()) if ds < self.ds}

    def _make(
        self, size: float, sentence: str, now: Measure, earlier: Mapping[str, Measure], affected: float = 1.0
    ) -> Jump:
        severity = _WEIGHTS.get(now.measure, 1.5) * min(abs(size), _LARGEST) * math.sqrt(affected)
        values = {ds: _get_number(m) for ds, m in {**earlier, self.ds: now}.items()}
        return Jump(severity, sentence, now.log, now.name, now.measure, values)

    def _find_share(self, log: str, name: str, measure: str) -> Iterator[Jump]:
        now, earlier = self._split(log, name, measure)
        is_domain = measure == CLICKED and name
        limits = _DOMAIN_CLICKED if is_domain else _SHARES[measure]
        if now is None:
            return
        found = compare_shares(self.ds, _count(now), {ds: _count(m) for ds, m in earlier.items()}, limits)
        if found is None:
            return
        affected = 1.0
        if is_domain:
            overall, overall_earlier = self._split(log, "", CLICKED)
            if overall is None or self._follows(found.size, overall, overall_earlier, limits):
                return
            affected = now.rows / max(overall.rows, 1)
        yield self._make(found.size, describe_share(now, found.usual), now, earlier, affected)

    def _follows(self, size: float, overall: Measure, earlier: Mapping[str, Measure], limits: ShareLimits) -> bool:
        """Return whether a change of a domain's click rate is mostly a change of the overall click rate."""
        shares = [m.share for m in earlier.values() if m.rows]
        if len(shares) < MIN_DAYS or not overall.share or not median(shares):
            return False
        return abs(size - math.log(overall.share / median(shares))) < math.log(limits.odds)

    def _find_rows(self, log: str, name: str) -> Iterator[Jump]:
        now, earlier = self._split(log, name, ROWS)
        if now is None:
            return
        counts = {ds: float(m.hits) for ds, m in earlier.items()}
        if found := compare_counts(self.ds, now.hits, counts, _ROWS_FACTOR, 0.13, sampled=True):
            yield self._make(
                found.size, f"{log} has {format_count(now.hits)}, usually {found.usual:,.0f}", now, earlier
            )

    def _find_domain(self, log: str, name: str) -> Iterator[Jump]:
        now, earlier = self._split(log, name, DOMAIN)
        if now is None or len(earlier) < MIN_DAYS:
            return
        if not any(m.hits for m in earlier.values()):
            if now.hits >= max(_NEW_ROWS, _NEW_SHARE * now.rows):
                text = f"domain {name} is new, with {format_count(now.hits)}"
                yield self._make(_LARGEST, text, now, earlier, now.share)
            return
        # If all domains shrink or grow alike, only the log is reported. So compare with the other domains, too.
        counts = {ds: float(m.hits) for ds, m in earlier.items()}
        relative = {ds: _compare_with_others(m) for ds, m in earlier.items()}
        found = compare_counts(self.ds, now.hits, counts, _ROWS_FACTOR, 0.13, sampled=True)
        change = compare_counts(self.ds, _compare_with_others(now), relative, _ROWS_FACTOR, 0.13, sampled=False)
        if found and change and (found.size > 0) == (change.size > 0):
            text = f"domain {name} has {format_count(now.hits)}, usually {found.usual:,.0f}"
            affected = max(now.share, *(m.share for m in earlier.values()))
            yield self._make(found.size, text, now, earlier, affected)

    def _find_distinct(self, log: str, name: str) -> Iterator[Jump]:
        now, earlier = self._split(log, name, DISTINCT)
        if now is None or len(earlier) < MIN_DAYS or now.rows < _NEW_ROWS:
            return
        fewest = min(m.hits for m in earlier.values())
        usual = median(m.hits for m in earlier.values())
        if now.hits == 1 and fewest >= _VARIED:
            text = f"{name} has a single value ({now.example}), usually {usual:,.0f} distinct values"
            yield self._make(_LARGEST, text, now, earlier)
            return
        # If a log has fewer rows, it also has fewer distinct values.
        counts = {ds: float(m.hits) for ds, m in earlier.items()}
        per_row = {ds: m.share for ds, m in earlier.items()}
        found = compare_counts(self.ds, now.hits, counts, _DISTINCT_FACTOR, 0.15, sampled=True)
        relative = compare_counts(self.ds, now.share, per_row, _DISTINCT_FACTOR, 0.15, sampled=False)
        if found and relative and (found.size > 0) == (relative.size > 0):
            yield self._make(
                found.size, f"{name} has {now.hits:,} distinct values, usually {found.usual:,.0f}", now, earlier
            )

    def _find_median(self, log: str, name: str) -> Iterator[Jump]:
        now, earlier = self._split(log, name, MEDIAN)
        ranges = [m.value or 0.0 for ds, m in self.series.get((log, name, SPREAD), {}).items() if ds < self.ds]
        if now is None or now.rows < _NEW_ROWS or len(ranges) < MIN_DAYS:
            return
        medians = {ds: m.value or 0.0 for ds, m in earlier.items()}
        if found := compare_medians(self.ds, now.value or 0.0, medians, ranges, _MEDIAN_RANGES):
            yield self._make(found.size, describe_median("median", now, found.usual), now, earlier)

    def _find_spread(self, log: str, name: str) -> Iterator[Jump]:
        now, earlier = self._split(log, name, SPREAD)
        # A range of 0 is no jump: a quartile of few distinct values can change by chance.
        if now is None or now.rows < _NEW_ROWS or not now.value:
            return
        ranges = {ds: m.value or 0.0 for ds, m in earlier.items()}
        if found := compare_counts(self.ds, now.value, ranges, _SPREAD_FACTOR, 0.2, sampled=False):
            yield self._make(found.size, describe_median("interquartile range", now, found.usual), now, earlier)

    def _find_missing_hours(self, log: str) -> Iterator[Jump]:
        """Yield one jump for all hours of a day that have almost no rows, although they usually have."""
        hours = [h for h in range(24) if (log, f"{h:02d}", HOUR) in self.series and h not in self.skipped_hours]
        by_hour = {hour: self._split(log, f"{hour:02d}", HOUR) for hour in hours}
        missing, share, rows = [], 0.0, 0
        for hour, (now, earlier) in by_hour.items():
            shares = [m.share for m in earlier.values() if m.rows]
            if now is None or len(shares) < MIN_DAYS:
                continue
            expected = float(np.quantile(shares, 0.2)) * now.rows
            if expected >= _HOUR_ROWS and now.hits <= _HOUR_LEFT * expected:
                missing.append(hour)
                share, rows = share + median(shares), rows + now.hits
        if missing:
            now, earlier = by_hour[missing[0]]
            assert now is not None
            yield self._make(_LARGEST, describe_hours(log, missing, rows), now, earlier, min(share, 1.0))


def _count(measure: Measure) -> tuple[int, int]:
    return measure.hits, measure.rows


def _compare_with_others(measure: Measure) -> float:
    """Return the rows of a domain relative to those of all other domains."""
    return measure.hits / (measure.rows - measure.hits + 1)


def _get_number(measure: Measure) -> float | None:
    """Return the number that a jump of a measure is about."""
    if measure.value is not None:
        return measure.value
    return float(measure.hits) if measure.measure in (ROWS, DOMAIN, DISTINCT, HOUR) else measure.share
