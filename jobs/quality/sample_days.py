"""Describe the times of a sample of a log, and what differs on its newest day. Needs no Spark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.quality.sample import Sample

_MIN_CHANGE_ROWS = 50
"""Days with fewer rows are not compared."""
_MIN_HOUR_ROWS = 20
"""Hours with fewer rows on the days before may have none."""
_NULL_CHANGE = 0.1
_OTHER_DAYS = 0.2
"""Minimum share of times on another day than that of their file to report."""
_VOLUME_CHANGE = 3.0


def describe_other_days(settings: Settings, name: str, good: pa.Table) -> Iterator[str]:
    """Yield a warning if many times are not on the day in the path of their file."""
    zones = pa.types.is_integer(good["ts"].type) and not re.match(r"(UTC|GMT|UT)?[+-]", settings.zone)
    if not settings.logs.get_declared()[name].has_day or not zones:
        return
    local = pc.strftime(good["ts"].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us", settings.zone)), "%Y-%m-%d")
    is_other = pc.not_equal(local, good["ds"])
    share = pc.mean(is_other.cast(pa.float64())).as_py()
    if share and share > _OTHER_DAYS:
        row = pc.index(is_other, value=True).as_py()
        yield (
            f"{share:.0%} of the times are not on the day in the path of their file (for example {local[row]} instead "
            f"of {good['ds'][row]}); check logs.{name}.time.zone, and `zone`"
        )


def describe_hours(good: pa.Table, days: list[str], is_whole: bool) -> Iterator[str]:
    """Yield a warning for hours without rows on a day on which other days of the sample have rows."""
    if not is_whole or len(days) < 2:
        return
    hours = pc.divide(good["ts"], 3_600_000_000).to_numpy() % 24
    counts = {day: Counter[int]() for day in days}
    for day, hour in zip(good["ds"].to_pylist(), hours, strict=True):
        counts[day][int(hour)] += 1
    *earlier, newest = (counts[day] for day in days)
    missing = [h for h in range(24) if not newest[h] and all(day[h] >= _MIN_HOUR_ROWS for day in earlier)]
    if missing:
        yield f"{days[-1]}: hours (UTC) without rows, but with rows on earlier days: {len(missing)}"


def describe_changes(good: pa.Table, sample: Sample) -> Iterator[str]:
    """Yield what differs on the newest day from the days before."""
    days = sorted(set(good["ds"].to_pylist()))
    if len(days) < 2:
        return
    newest = good.filter(pc.equal(good["ds"], days[-1]))
    before = good.filter(pc.not_equal(good["ds"], days[-1]))
    usual = len(before) / (len(days) - 1)
    if usual >= _MIN_CHANGE_ROWS and not usual / _VOLUME_CHANGE < len(newest) < usual * _VOLUME_CHANGE:
        yield f"{days[-1]}: {len(newest):,} rows; earlier days have {usual:,.0f} on average"
    if min(len(newest), len(before)) < _MIN_CHANGE_ROWS:
        return
    for column, stored in sample.stored.items():
        if stored in good.column_names and stored != "ts":
            now = newest[stored].null_count / len(newest)
            then = before[stored].null_count / len(before)
            if abs(now - then) > _NULL_CHANGE:
                yield f"{days[-1]}: {now:.0%} of the values of `{column}` are missing; on earlier days {then:.0%}"
    if "domain" in good.column_names:
        yield from _describe_domain_changes(newest, before, days)


def _describe_domain_changes(newest: pa.Table, before: pa.Table, days: list[str]) -> Iterator[str]:
    now, then = _count(newest), _count(before)
    for domain in sorted({*now, *then}, key=str):
        usual = then.get(domain, 0) / (len(days) - 1)
        rows = now.get(domain, 0)
        if usual >= _MIN_CHANGE_ROWS and not usual / _VOLUME_CHANGE < rows < usual * _VOLUME_CHANGE:
            yield f"{days[-1]}: {rows:,} rows of domain `{domain}`; earlier days have {usual:,.0f} on average"
        elif not usual and rows >= _MIN_CHANGE_ROWS:
            yield f"{days[-1]}: {rows:,} rows of the new domain `{domain}`"


def _count(rows: pa.Table) -> Mapping[str, int]:
    return {r["values"]: r["counts"] for r in pc.value_counts(rows["domain"]).to_pylist()}
