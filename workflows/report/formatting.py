"""How the morning page writes numbers, days and changes; everything that comes out is safe in HTML."""

from __future__ import annotations

import math
from html import escape
from typing import Any

NONE = "–"


def is_missing(value: Any) -> bool:
    """Whether there is no such number: null, or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def format_number(value: Any, digits: int = 4) -> str:
    """A number with so many digits after the point (none: a count with thousands set apart), or a dash."""
    if is_missing(value):
        return NONE
    return f"{value:,.{digits}f}"


def format_change(row: Any, before: Any, metric: str, digits: int = 4, better: str = "") -> str:
    """The change of a metric from the row `before` to `row`, coloured by whether it is for the better.

    `better`: `up`, `down`, `one` (the nearer to 1), or nothing where neither is. Where the row has an interval that
    the value before lies in, the change may be chance and has no colour. Empty where one of the two is missing.
    """
    now, before = row.get(metric), before.get(metric)
    if is_missing(now) or is_missing(before):
        return ""
    by = round(now - before, digits)
    if by == 0:
        return '<span class="flat">± 0</span>'
    gain = {"up": by, "down": -by, "one": abs(before - 1) - abs(now - 1)}.get(better, 0)
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    if not is_missing(low) and not is_missing(high) and low <= before <= high:
        gain = 0
    kind = "good" if gain > 0 else "bad" if gain < 0 else "flat"
    return f'<span class="{kind}">{"▲" if by > 0 else "▼"} {abs(by):,.{digits}f}</span>'


def format_interval(row: Any, metric: str, digits: int = 4) -> str:
    """`low to high` of a metric whose row has them, else nothing."""
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    return "" if is_missing(low) or is_missing(high) else f"{low:.{digits}f} to {high:.{digits}f}"


def format_seconds(value: float | None) -> str:
    """A time as one says it: `8.4 s`, `42 s`, `3 min 20 s`, `2 h 5 min`."""
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
    """A time as a clock has it: `0:42`, `3:20`, `2:05:00`."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def format_short_day(ds: str) -> str:
    """A day without its year."""
    return escape(ds[5:])


def clip(text: str, most: int) -> str:
    """The beginning of a name where it is too long, with what was left out marked; escaped."""
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
