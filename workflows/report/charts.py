"""The morning page's charts, as SVG that takes its colours and letters from the page's style.

All are drawn 340 wide, which is a phone's width and that of a column on a desk: letters are not scaled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from star_ctr.workflows.report.formatting import clip, format_number, format_seconds, is_missing
from star_ctr.workflows.report.scales import Scale, choose_ticks, fit_ratio_scale, fit_scale, format_ticks

WIDTH = 340


@dataclass(frozen=True)
class Line:
    """A line through values at places; null values are gaps. `low` and `high` bound a band around it, where given."""

    at: Sequence[float]
    values: Sequence[float | None]
    kind: str = "main"
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class Circle:
    """A domain's PCOC, its circle's area by clicks; `beside`: that of the serving model."""

    domain: str
    pcoc: float | None
    clicks: int
    beside: float | None = None


@dataclass(frozen=True)
class Span:
    """A difference with its interval."""

    name: str
    low: float | None
    middle: float | None
    high: float | None


def draw_lines(
    what: str,
    drawn: Sequence[Line],
    labels: Sequence[tuple[float, str]],
    digits: int = 4,
    mark: float | None = None,
    ceiling: float = math.inf,
) -> str:
    """Lines, of whose places `labels` are written below; the last value of the `main` one stands at the top.

    `digits`: of that value. `mark`: a value that is drawn as a line of its own; `ceiling`: what lies above is left out.
    """
    height, left, right, top, bottom = 170, 46, 12, 18, 24
    at = [a for line in drawn for a in line.at]
    one = 0.0 if len(set(at)) > 1 else 1.0
    x = Scale(min(at) - one, max(at) + one, left, WIDTH - right)
    every = [v for line in drawn for series in (line.values, line.low, line.high) for v in series]
    y = fit_scale([mark, *(v for v in every if v is not None and v <= ceiling)], height - bottom, top)
    parts = [_draw_grid(y, left, WIDTH - right)]
    if mark is not None:
        parts.append(f'<line class="mark" x1="{left}" x2="{WIDTH - right}" y1="{y(mark)}" y2="{y(mark)}"/>')
    for value, text in labels:
        place = x(value)
        anchor = "end" if place > WIDTH - 40 else "middle"
        parts.append(f'<text class="tick" x="{place}" y="{height - 7}" text-anchor="{anchor}">{escape(text)}</text>')
    for line in reversed(drawn):
        parts += _draw_line(line, x, y, ceiling)
        if line.kind == "main":
            last = format_number(next((v for v in reversed(line.values) if not is_missing(v)), None), digits)
            parts.append(f'<text class="value" x="{WIDTH - right}" y="10" text-anchor="end">{last}</text>')
    return _wrap_svg(what, height, parts)


def _draw_line(line: Line, x: Scale, y: Scale, ceiling: float) -> list[str]:
    parts, runs = [], list[list[tuple[float, float]]]()
    broken = True
    for at, value in zip(line.at, line.values, strict=True):
        if value is None or is_missing(value) or value > ceiling:
            broken = True
            continue
        if broken:
            runs.append([])
        runs[-1].append((x(at), y(value)))
        broken = False
    edges = [
        (x(a), y(low), y(high)) for a, low, high in zip(line.at, line.low, line.high, strict=False) if low and high
    ]
    if edges:
        corners = [(a, high) for a, _, high in edges] + [(a, low) for a, low, _ in reversed(edges)]
        parts.append(f'<polygon class="band" points="{_draw_points(corners)}"/>')
    parts += [f'<polyline class="{line.kind}" points="{_draw_points(run)}"/>' for run in runs]
    if line.kind == "main" and runs:
        few = len(line.values) <= 31
        last = runs[-1][-1]
        dots = [point for run in runs for point in run] if few else [last]
        parts += [f'<circle class="dot" cx="{a}" cy="{b}" r="{3.5 if (a, b) == last else 2}"/>' for a, b in dots]
    return parts


def _draw_points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a},{b}" for a, b in points)


def draw_forest(what: str, spans: Sequence[Span]) -> str:
    """Differences with their intervals, one below the other, around 0; those whose interval leaves 0 out in colour."""
    row, left, right, top, bottom = 24, 84, 66, 6, 22
    height = top + row * len(spans) + bottom
    x = fit_scale([v for s in spans for v in (s.low, s.middle, s.high)] + [0.0], left, WIDTH - right)
    parts = []
    marks = choose_ticks(x, 2)
    for value, text in zip(marks, format_ticks(marks), strict=True):
        parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(f'<text class="tick" x="{x(value)}" y="{height - 7}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="mark" x1="{x(0)}" x2="{x(0)}" y1="{top}" y2="{height - bottom}"/>')
    for k, span in enumerate(spans):
        at = top + row * (k + 0.5)
        bold = " strong" if k == 0 else ""
        parts.append(f'<text class="label{bold}" x="0" y="{at + 4}">{clip(span.name, 13)}</text>')
        if span.middle is None or is_missing(span.middle):
            parts.append(f'<text class="label faint" x="{WIDTH}" y="{at + 4}" text-anchor="end">undefined</text>')
            continue
        kind = "flat"
        if span.low is not None and span.high is not None and not is_missing(span.low) and not is_missing(span.high):
            kind = "good" if span.low > 0 else "bad" if span.high < 0 else "flat"
            parts.append(f'<line class="whisker {kind}" x1="{x(span.low)}" x2="{x(span.high)}" y1="{at}" y2="{at}"/>')
        parts.append(f'<circle class="point {kind}" cx="{x(span.middle)}" cy="{at}" r="{4.5 if k == 0 else 3.5}"/>')
        text = f"{span.middle:+.4f}"
        parts.append(f'<text class="label{bold}" x="{WIDTH}" y="{at + 4}" text-anchor="end">{text}</text>')
    return _wrap_svg(what, height, parts)


def draw_calibration(what: str, circles: Sequence[Circle]) -> str:
    """PCOC by domain, as in Figure 7: a circle a domain, its area by clicks; rings stand for the serving model."""
    left, right, top = 40, 8, 14
    longest = max(len(c.domain) for c in circles)
    space = (WIDTH - left - right) / len(circles)
    widest = min(20.0, max(9.0, space * 0.8))
    # The first circle, the largest as a rule, is not to cover the scale.
    first = left + max(space / 2, widest)
    space = (WIDTH - right - first) / (len(circles) - 0.5)
    slanted = min(longest, 12) * 6.2 > space
    bottom = 22 + (min(longest, 12) * 5 if slanted else 0)
    height = 160 + bottom
    y = fit_ratio_scale([v for c in circles for v in (c.pcoc, c.beside)], height - bottom - 8, top + 8)
    most = max(max(c.clicks for c in circles), 1)
    parts = [_draw_grid(y, left, WIDTH - right)]
    parts.append(f'<line class="mark" x1="{left}" x2="{WIDTH - right}" y1="{y(1)}" y2="{y(1)}"/>')
    for k, circle in enumerate(circles):
        at = round(first + space * k, 1)
        radius = round(max(2.0, widest * math.sqrt(circle.clicks / most)), 1)
        for value, kind in ((circle.beside, "ring"), (circle.pcoc, "disc")):
            if value is not None and not is_missing(value):
                title = f"{circle.domain}: PCOC {value:.3f}, {circle.clicks:,} clicks"
                drawn = f'class="{kind}" cx="{at}" cy="{y(value)}" r="{radius}"'
                parts.append(f"<circle {drawn}><title>{escape(title)}</title></circle>")
        name, foot = clip(circle.domain, 12), height - bottom + 16
        how = f'text-anchor="end" transform="rotate(-55 {at + 3} {foot - 4})"' if slanted else 'text-anchor="middle"'
        parts.append(f'<text class="tick" x="{at + 3 * slanted}" y="{foot - 4 * slanted}" {how}>{name}</text>')
    return _wrap_svg(what, height, parts)


def draw_stacked_bars(what: str, rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Bars of seconds, one below the other, each of parts in a fixed order; the sum is written behind it."""
    row, left, right = 22, 42, 76
    longest = max(sum(parts) for _, parts in rows) or 1.0
    x = Scale(0, longest, left, WIDTH - right)
    drawn = []
    for k, (label, parts) in enumerate(rows):
        at, done = k * row + 4, 0.0
        drawn.append(f'<text class="tick" x="0" y="{at + 11}">{escape(label)}</text>')
        for number_, part in enumerate(parts):
            start, end = x(done), x(done + part)
            done += part
            if part > 0:
                box = f'x="{start}" y="{at}" width="{max(end - start - 1, 0.5):.1f}" height="14"'
                drawn.append(f'<rect class="part p{number_}" {box} rx="1.5"/>')
        drawn.append(f'<text class="label" x="{x(done) + 5}" y="{at + 11}">{format_seconds(done)}</text>')
    return _wrap_svg(what, row * len(rows) + 4, drawn)


def draw_sparkline(values: Sequence[float | None]) -> str:
    """A small line in a table's cell, its last point marked; nothing where there are not two values."""
    there = [(k, v) for k, v in enumerate(values) if v is not None and not is_missing(v)]
    if len(there) < 2:
        return ""
    x, y = Scale(0, len(values) - 1, 3, 61), fit_scale([v for _, v in there], 15, 3)
    points = " ".join(f"{x(k)},{y(v)}" for k, v in there)
    end = f'<circle class="dot" cx="{x(there[-1][0])}" cy="{y(there[-1][1])}" r="2"/>'
    line = f'<polyline class="main thin" points="{points}"/>'
    return f'<svg class="spark" viewBox="0 0 64 18" width="64" height="18" aria-hidden="true">{line}{end}</svg>'


def _draw_grid(y: Scale, left: float, right: float) -> str:
    marks = choose_ticks(y)
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(v)}" y2="{y(v)}"/>'
        f'<text class="tick" x="{left - 6}" y="{y(v) + 4}" text-anchor="end">{text}</text>'
        for v, text in zip(marks, format_ticks(marks), strict=True)
    )


def _wrap_svg(what: str, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(what)}"'
    return f'<svg class="chart" {box}>{"".join(parts)}</svg>'
