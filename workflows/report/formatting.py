"""Formatting of numbers, days and changes for the report. All results are safe to use in HTML."""

from __future__ import annotations

import math
from html import escape
from typing import Any

NONE = "–"
"""Text for a missing value."""


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def format_number(value: Any, digits: int = 4) -> str:
    """Return a number with `digits` decimals and thousands separators, or a dash if it is missing."""
    if is_missing(value):
        return NONE
    return f"{value:,.{digits}f}"


def format_change(row: Any, before: Any, metric: str, digits: int = 4, better: str = "") -> str:
    """Return the change of a metric as HTML, green for an improvement and red for a deterioration.

    A change is gray if the previous value lies in the confidence interval of the new one, because it may be random.

    Args:
        row: The row with the new value, and the bounds of its interval if there is one (`<metric>_low`,
            `<metric>_high`).
        before: The row with the previous value.
        metric: The key of the metric.
        digits: The number of decimals.
        better: When a change is an improvement: `up` (the value increases), `down` (it decreases), or `one` (it moves
            closer to 1). Empty for values that cannot improve.

    Returns:
        The change; empty if one of the values is missing.
    """
    now, before = row.get(metric), before.get(metric)
    if is_missing(now) or is_missing(before):
        return ""
    change = round(now - before, digits)
    if change == 0:
        return '<span class="flat">± 0</span>'
    gain = {"up": change, "down": -change, "one": abs(before - 1) - abs(now - 1)}.get(better, 0)
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    if not is_missing(low) and not is_missing(high) and low <= before <= high:
        gain = 0
    kind = "good" if gain > 0 else "bad" if gain < 0 else "flat"
    return f'<span class="{kind}">{"▲" if change > 0 else "▼"} {abs(change):,.{digits}f}</span>'


def format_interval(row: Any, metric: str, digits: int = 4) -> str:
    """Return the confidence interval of a metric as `low to high`; empty if there is none."""
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    return "" if is_missing(low) or is_missing(high) else f"{low:.{digits}f} to {high:.{digits}f}"


def format_seconds(value: float | None) -> str:
    """Return a duration with units: `8.4 s`, `42 s`, `3 min 20 s`, `2 h 5 min`; a dash if it is missing."""
    if is_missing(value):
        return NONE
    assert value is not None
    if value < 9.95:
        return f"{value:.1f} s"
    if (whole := round(value)) < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def format_clock(value: float) -> str:
    """Return a duration in seconds as `m:ss` or `h:mm:ss`, for example `0:42`, `3:20`, `2:05:00`."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def format_short_day(ds: str) -> str:
    """Return a day without its year, as MM-DD."""
    return escape(ds[5:])


def clip(text: str, most: int) -> str:
    """Return a text of at most `most` characters, HTML-escaped; a longer text is cut and ends with `…`."""
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
