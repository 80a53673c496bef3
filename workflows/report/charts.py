"""Charts of the report as SVG. The style sheet of the page sets their colors and fonts.

All charts are 340 pixels wide. This is the width of a phone and of a column on a wider screen, so that text is not
scaled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from star_ctr.workflows.report.formatting import clip, format_number, format_seconds, is_missing
from star_ctr.workflows.report.scales import AxisScale, choose_ticks, fit_ratio_scale, fit_scale, format_ticks

WIDTH = 340
"""Width of a chart in pixels."""


@dataclass(frozen=True)
class Line:
    """A line in a chart, with an optional band around it.

    Attributes:
        at: The x values.
        values: The y values; the line has a gap where a value is missing.
        kind: The CSS class of the line. For `main`, the last value is printed above the chart and marked with a dot.
        low: The lower bounds of the band; empty for no band.
        high: The upper bounds of the band.
    """

    at: Sequence[float]
    values: Sequence[float | None]
    kind: str = "main"
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class Circle:
    """A circle for the PCOC of a domain.

    Attributes:
        domain: The name of the domain.
        pcoc: The predicted clicks / actual clicks of the night's model.
        clicks: The clicks of the domain, which determine the area of the circle.
        serving: The PCOC of the serving model, drawn as a ring; None for no ring.
    """

    domain: str
    pcoc: float | None
    clicks: int
    serving: float | None = None


@dataclass(frozen=True)
class Difference:
    """A difference with its confidence interval.

    Attributes:
        name: The label.
        low: The lower bound.
        middle: The difference.
        high: The upper bound.
        is_significant: Whether to color the difference; by default, whether its interval does not contain 0.
    """

    name: str
    low: float | None
    middle: float | None
    high: float | None
    is_significant: bool | None = None


def draw_lines(
    title: str,
    lines: Sequence[Line],
    labels: Sequence[tuple[float, str]],
    digits: int = 4,
    mark: float | None = None,
    ceiling: float = math.inf,
) -> str:
    """Draw a line chart.

    Args:
        title: The text for screen readers.
        lines: The lines; the first one is drawn on top.
        labels: Labels of the x axis: pairs of an x value and a text.
        digits: The number of decimals of the last value, which is printed above the chart.
        mark: A y value to mark with a horizontal line.
        ceiling: The largest y value to draw; larger ones are left out.

    Returns:
        The SVG element.
    """
    height, left, right, top, bottom = 170, 46, 12, 18, 24
    at = [a for line in lines for a in line.at]
    padding = 0.0 if len(set(at)) > 1 else 1.0
    x = AxisScale(min(at) - padding, max(at) + padding, left, WIDTH - right)
    every = [v for line in lines for series in (line.values, line.low, line.high) for v in series]
    y = fit_scale([mark, *(v for v in every if v is not None and v <= ceiling)], height - bottom, top)
    parts = [_draw_grid(y, left, WIDTH - right)]
    if mark is not None:
        parts.append(f'<line class="mark" x1="{left}" x2="{WIDTH - right}" y1="{y(mark)}" y2="{y(mark)}"/>')
    for value, text in labels:
        position = x(value)
        anchor = "end" if position > WIDTH - 40 else "middle"
        parts.append(f'<text class="tick" x="{position}" y="{height - 7}" text-anchor="{anchor}">{escape(text)}</text>')
    for line in reversed(lines):
        parts += _draw_line(line, x, y, ceiling)
        if line.kind == "main":
            last = format_number(next((v for v in reversed(line.values) if not is_missing(v)), None), digits)
            parts.append(f'<text class="value" x="{WIDTH - right}" y="10" text-anchor="end">{last}</text>')
    return wrap_svg(title, height, parts)


def _draw_line(line: Line, x: AxisScale, y: AxisScale, ceiling: float) -> list[str]:
    """Return the SVG elements of a line: its band, one polyline per run of values without a gap, and its dots."""
    parts, runs = [], list[list[tuple[float, float]]]()
    after_gap = True
    for at, value in zip(line.at, line.values, strict=True):
        if value is None or is_missing(value) or value > ceiling:
            after_gap = True
            continue
        if after_gap:
            runs.append([])
        runs[-1].append((x(at), y(value)))
        after_gap = False
    edges = [
        (x(a), y(low), y(high))
        for a, low, high in zip(line.at, line.low, line.high, strict=False)
        if low is not None and high is not None and not is_missing(low) and not is_missing(high)
    ]
    if edges:
        corners = [(a, high) for a, _, high in edges] + [(a, low) for a, low, _ in reversed(edges)]
        parts.append(f'<polygon class="band" points="{_draw_points(corners)}"/>')
    parts += [f'<polyline class="{line.kind}" points="{_draw_points(run)}"/>' for run in runs]
    if line.kind == "main" and runs:
        # With many values, mark only the last one.
        has_few_values = len(line.values) <= 31
        last = runs[-1][-1]
        dots = [point for run in runs for point in run] if has_few_values else [last]
        parts += [f'<circle class="dot" cx="{a}" cy="{b}" r="{3.5 if (a, b) == last else 2}"/>' for a, b in dots]
    return parts


def _draw_points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a},{b}" for a, b in points)


def draw_forest(title: str, spans: Sequence[Difference], emphasize_first: bool = True) -> str:
    """Draw a forest plot: differences with their confidence intervals, one per row, around a line at 0.

    Significant differences are colored.

    Args:
        title: The text for screen readers.
        spans: The differences; those without a value are shown as undefined.
        emphasize_first: Whether to emphasize the first row.

    Returns:
        The SVG element.
    """
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
        is_strong = emphasize_first and k == 0
        bold = " strong" if is_strong else ""
        parts.append(f'<text class="label{bold}" x="0" y="{at + 4}">{clip(span.name, 13)}</text>')
        if span.middle is None or is_missing(span.middle):
            parts.append(f'<text class="label faint" x="{WIDTH}" y="{at + 4}" text-anchor="end">undefined</text>')
            continue
        kind = "flat"
        if span.low is not None and span.high is not None and not is_missing(span.low) and not is_missing(span.high):
            outside = span.low > 0 or span.high < 0 if span.is_significant is None else span.is_significant
            kind = ("good" if span.middle > 0 else "bad") if outside else "flat"
            parts.append(f'<line class="whisker {kind}" x1="{x(span.low)}" x2="{x(span.high)}" y1="{at}" y2="{at}"/>')
        parts.append(f'<circle class="point {kind}" cx="{x(span.middle)}" cy="{at}" r="{4.5 if is_strong else 3.5}"/>')
        text = f"{span.middle:+.4f}"
        parts.append(f'<text class="label{bold}" x="{WIDTH}" y="{at + 4}" text-anchor="end">{text}</text>')
    return wrap_svg(title, height, parts)


def draw_calibration(title: str, circles: Sequence[Circle]) -> str:
    """Draw PCOC by domain as in Figure 7 of the paper, one circle per domain.

    The area of a circle is proportional to the clicks of its domain. Rings show the serving model.

    Args:
        title: The text for screen readers.
        circles: The domains; a missing PCOC is not drawn.

    Returns:
        The SVG element.
    """
    left, right, top = 40, 8, 14
    longest = max(len(c.domain) for c in circles)
    space = (WIDTH - left - right) / len(circles)
    widest = min(20.0, max(9.0, space * 0.8))
    # The first circle is usually the largest. Move it right, so that it does not cover the labels of the y axis.
    first = left + max(space / 2, widest)
    space = (WIDTH - right - first) / (len(circles) - 0.5)
    rotate_labels = min(longest, 12) * 6.2 > space
    bottom = 22 + (min(longest, 12) * 5 if rotate_labels else 0)
    height = 160 + bottom
    y = fit_ratio_scale([v for c in circles for v in (c.pcoc, c.serving)], height - bottom - 8, top + 8)
    most = max(max(c.clicks for c in circles), 1)
    parts = [_draw_grid(y, left, WIDTH - right)]
    parts.append(f'<line class="mark" x1="{left}" x2="{WIDTH - right}" y1="{y(1)}" y2="{y(1)}"/>')
    for k, circle in enumerate(circles):
        at = round(first + space * k, 1)
        radius = round(max(2.0, widest * math.sqrt(circle.clicks / most)), 1)
        for value, kind in ((circle.serving, "ring"), (circle.pcoc, "disc")):
            if value is not None and not is_missing(value):
                tooltip = f"{circle.domain}: PCOC {value:.3f}, {circle.clicks:,} clicks"
                attributes = f'class="{kind}" cx="{at}" cy="{y(value)}" r="{radius}"'
                parts.append(f"<circle {attributes}><title>{escape(tooltip)}</title></circle>")
        name, label_y = clip(circle.domain, 12), height - bottom + 16
        anchor = (
            f'text-anchor="end" transform="rotate(-55 {at + 3} {label_y - 4})"'
            if rotate_labels
            else 'text-anchor="middle"'
        )
        parts.append(
            f'<text class="tick" x="{at + 3 * rotate_labels}" y="{label_y - 4 * rotate_labels}" {anchor}>{name}</text>'
        )
    return wrap_svg(title, height, parts)


def draw_stacked_bars(title: str, rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Draw stacked horizontal bars of durations, each followed by its sum.

    Args:
        title: The text for screen readers.
        rows: The label of each bar, and the seconds of its parts. The parts are in the same order for all bars.

    Returns:
        The SVG element.
    """
    row, left, right = 22, 42, 76
    longest = max(sum(parts) for _, parts in rows) or 1.0
    x = AxisScale(0, longest, left, WIDTH - right)
    elements = []
    for k, (label, parts) in enumerate(rows):
        at, done = k * row + 4, 0.0
        elements.append(f'<text class="tick" x="0" y="{at + 11}">{escape(label)}</text>')
        for index, part in enumerate(parts):
            start, end = x(done), x(done + part)
            done += part
            if part > 0:
                box = f'x="{start}" y="{at}" width="{max(end - start - 1, 0.5):.1f}" height="14"'
                elements.append(f'<rect class="part p{index}" {box} rx="1.5"/>')
        elements.append(f'<text class="label" x="{x(done) + 5}" y="{at + 11}">{format_seconds(done)}</text>')
    return wrap_svg(title, row * len(rows) + 4, elements)


def draw_sparkline(values: Sequence[float | None]) -> str:
    """Draw a small line for a table cell, with a dot at the last value; empty if there are fewer than two values."""
    present = [(k, v) for k, v in enumerate(values) if v is not None and not is_missing(v)]
    if len(present) < 2:
        return ""
    x, y = AxisScale(0, len(values) - 1, 3, 61), fit_scale([v for _, v in present], 15, 3)
    points = " ".join(f"{x(k)},{y(v)}" for k, v in present)
    end = f'<circle class="dot" cx="{x(present[-1][0])}" cy="{y(present[-1][1])}" r="2"/>'
    line = f'<polyline class="main thin" points="{points}"/>'
    return f'<svg class="spark" viewBox="0 0 64 18" width="64" height="18" aria-hidden="true">{line}{end}</svg>'


def _draw_grid(y: AxisScale, left: float, right: float) -> str:
    """Return horizontal grid lines with the labels of the y axis."""
    marks = choose_ticks(y)
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(v)}" y2="{y(v)}"/>'
        f'<text class="tick" x="{left - 6}" y="{y(v) + 4}" text-anchor="end">{text}</text>'
        for v, text in zip(marks, format_ticks(marks), strict=True)
    )


def wrap_svg(title: str, height: float, parts: Sequence[str]) -> str:
    """Return an SVG element of the width of a chart; `title` is the text for screen readers."""
    box = f'viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}"'
    return f'<svg class="chart" {box}>{"".join(parts)}</svg>'
