"""Detect how times and days are written."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

_YEARS = range(2000, 2060)
_FIRST, _LAST = (dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp() for year in (_YEARS.start, _YEARS.stop))
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{1,2}:\d{2}.*")
_PATTERNS = {
    "%Y-%m-%d": "yyyy-MM-dd", "%Y/%m/%d": "yyyy/MM/dd", "%Y%m%d": "yyyyMMdd", "%y%m%d%H": "yyMMddHH",
    "%Y%m%d%H": "yyyyMMddHH", "%Y%m%d%H%M%S": "yyyyMMddHHmmss", "%Y/%m/%d %H:%M:%S": "yyyy/MM/dd HH:mm:ss",
    "%Y/%m/%d %H:%M": "yyyy/MM/dd HH:mm", "%d.%m.%Y %H:%M:%S": "dd.MM.yyyy HH:mm:ss",
    "%d.%m.%Y": "dd.MM.yyyy", "%d/%m/%Y %H:%M:%S": "dd/MM/yyyy HH:mm:ss", "%m/%d/%Y %H:%M:%S": "MM/dd/yyyy HH:mm:ss",
    "%d/%m/%Y": "dd/MM/yyyy", "%m/%d/%Y": "MM/dd/yyyy",
}  # fmt: skip
"""strptime patterns, with the equivalent Spark patterns."""
_SCALES = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Units of epoch times, in parts of a second."""
UNSUPPORTED_UNITS = {"us": 1_000, "ns": 1_000_000}
"""Units that the settings do not support, with the divisor to milliseconds."""


class TimeFormat(NamedTuple):
    """How a time or day is written.

    Attributes:
        unit: `s`, `ms`, `us` or `ns` since 1970, or `timestamp`.
        format: The Spark date pattern of text; None for ISO 8601.
        alternative: Another pattern that fits all values, too: day and month may be exchanged.
    """

    unit: str
    format: str | None = None
    alternative: str | None = None

    @property
    def has_time(self) -> bool:
        """Whether there is a time of day."""
        return self.format is None or "H" in self.format


def detect_epoch(name: str, numbers: pd.Series) -> TimeFormat | None:
    """Return the unit of whole numbers that are times; None if they may be something else.

    Args:
        name: The name of the column.
        numbers: The values.
    """
    for unit, scale in _SCALES.items():
        if numbers.between(_FIRST * scale, _LAST * scale).all():
            is_named = re.search(r"time|(^|_)(ts|at|date)($|_)|stamp", name.lower()) is not None
            is_close = numbers.nunique() > 1 and numbers.std() < 0.01 * numbers.mean()
            return TimeFormat(unit) if is_named or is_close else None
    return None


def detect_time_format(texts: pd.Series, only_digits: bool = False) -> TimeFormat | None:
    """Return how times or days are written as text; None if the texts are neither.

    If day and month can be exchanged, the order with the fewest days between the first and the last one is chosen.

    Args:
        texts: Distinct values.
        only_digits: Whether the values have digits only.
    """
    if not only_digits and texts.map(lambda t: _ISO.fullmatch(t) is not None).mean() > 0.99:
        return TimeFormat("timestamp")
    found = []
    for pattern, written in _PATTERNS.items():
        if only_digits == pattern.replace("%", "").isalpha() and (parsed := _parse_all(texts, pattern)):
            found.append((max(parsed) - min(parsed), written))
    # `yyMMddHH` reads some dates as well, so the first pattern wins unless only day and month are exchanged.
    exchanged = [pair for pair in found if pair[1][:3] in ("dd/", "MM/")]
    if len(exchanged) == 2:
        exchanged.sort()
        return TimeFormat("timestamp", exchanged[0][1], exchanged[1][1])
    return TimeFormat("timestamp", found[0][1]) if found else None


def _parse_all(texts: Iterable[str], pattern: str) -> list[dt.datetime] | None:
    """Return the parsed texts; None if one cannot be parsed."""
    width = len(dt.datetime(2000, 1, 1).strftime(pattern))
    parsed = []
    for text in texts:
        if len(text) != width:
            return None
        try:
            parsed.append(dt.datetime.strptime(text, pattern))
        except ValueError:
            return None
        if parsed[-1].year not in _YEARS:
            return None
    return parsed


def parse_times(values: pd.Series, written: TimeFormat) -> pd.Series:
    """Parse the values of a time or day.

    Args:
        values: The values.
        written: How they are written.

    Returns:
        The times in UTC, with the index of `values`; NaT if they cannot be parsed.
    """
    if written.unit in _SCALES:
        return pd.to_datetime(values.astype(float) / _SCALES[written.unit], unit="s", utc=True, errors="coerce")
    if written.format is None:
        return pd.to_datetime(values, utc=True, errors="coerce", format=None if values.dtype != object else "ISO8601")
    pattern = next(p for p, spark in _PATTERNS.items() if spark == written.format)
    return pd.to_datetime(values.astype(str), format=pattern, utc=True, errors="coerce")
