"""Reliability curve as SVG: CTR against predicted CTR, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from scipy.stats import binomtest

from star_ctr.workflows.report.charts import WIDTH, wrap_svg
from star_ctr.workflows.report.scales import AxisScale

_MIN_ROWS = 30
"""Bins with fewer rows are not drawn, because their CTR is mostly random."""
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 220, 52, 12, 10, 30


def draw_reliability(title: str, bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw the CTR of bins of rows against their predicted CTR, with 95% intervals and the diagonal.

    The intervals are exact binomial ones, which ignore that rows of the same user are correlated. Those that do not
    contain the predicted CTR are colored.

    Args:
        title: The text for screen readers.
        bins: The bins of the column `reliability` of `metrics`: `rows`, `clicks` and the mean `score`.

    Returns:
        The SVG element; empty if there are fewer than two bins with enough rows.
    """
    shown = [b for b in bins if b["rows"] >= _MIN_ROWS and b["score"] > 0]
    if len(shown) < 2:
        return ""
    intervals = [_compute_interval(b["clicks"], b["rows"]) for b in shown]
    values = [b["score"] for b in shown]
    values += [v for b, (low, high) in zip(shown, intervals, strict=True) for v in (b["clicks"] / b["rows"], high)]
    # An interval may reach down to 0, which a logarithmic axis does not contain: it is drawn to the lower edge.
    smallest, largest = min(v for v in values if v > 0) / 1.3, min(1.0, max(values) * 1.3)
    x = AxisScale(smallest, largest, _LEFT, WIDTH - _RIGHT, log=True)
    y = AxisScale(smallest, largest, _HEIGHT - _BOTTOM, _TOP, log=True)
    parts = []
    for value in _choose_ticks(smallest, largest):
        parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        text = f"{100 * value:g}%"
        parts.append(
            f'<text class="tick" x="{x(value)}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{text}</text>'
        )
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{text}</text>')
    ends = f'x1="{x(smallest)}" y1="{y(smallest)}" x2="{x(largest)}" y2="{y(largest)}"'
    parts.append(f'<line class="mark" {ends}/>')
    for row, (low, high) in zip(shown, intervals, strict=True):
        at, ctr = x(row["score"]), row["clicks"] / row["rows"]
        kind = "flat" if low <= row["score"] <= high else "bad"
        tooltip = f"{row['rows']:,} rows, predicted CTR {row['score']:.4f}, CTR {ctr:.4f}"
        parts.append(
            f'<line class="whisker {kind}" x1="{at}" x2="{at}" y1="{y(max(low, smallest))}" y2="{y(high)}"/>'
            f'<circle class="point {kind}" cx="{at}" cy="{y(max(ctr, smallest))}" r="3.5">'
            f"<title>{escape(tooltip)}</title></circle>"
        )
    return wrap_svg(title, _HEIGHT, parts)


def _compute_interval(clicks: int, rows: int) -> tuple[float, float]:
    interval = binomtest(clicks, rows).proportion_ci(method="exact")
    return float(interval.low), float(interval.high)


def _choose_ticks(smallest: float, largest: float) -> list[float]:
    """Return the powers of ten in a range; if there are few, also their multiples by 3, or by 2 and 5."""
    powers = range(math.floor(math.log10(smallest)), math.ceil(math.log10(largest)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [f * 10.0**power for power in powers for f in factors]
        ticks = [t for t in ticks if smallest <= t <= largest]
        if len(ticks) >= 3:
            break
    return ticks
