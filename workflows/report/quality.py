"""How good the night's model is: by domain, against the serving model, and over the days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from html import escape

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.workflows.report.charts import (
    Circle,
    Line,
    Span,
    draw_calibration,
    draw_forest,
    draw_lines,
    draw_sparkline,
)
from star_ctr.workflows.report.data import ReportData, Row
from star_ctr.workflows.report.formatting import (
    format_change,
    format_interval,
    format_number,
    format_short_day,
    is_missing,
)

_COLUMNS = (
    ("GAUC", "gauc", 4, "up"), ("PCOC", "pcoc", 3, "one"), ("AUC", "auc", 4, "up"), ("log loss", "log_loss", 4, "down"),
    ("rows", "rows", 0, ""), ("clicks", "clicks", 0, ""),
)  # fmt: skip


def sort_rows(rows: Mapping[str, Row]) -> list[str]:
    """Overall first, then the domains, those of most rows first."""
    domains = sorted((d for d in rows if d != OVERALL), key=lambda d: (-rows[d]["rows"], d))
    return [*([OVERALL] if OVERALL in rows else []), *domains]


def render_by_domain(morning: ReportData) -> str:
    """The table of metrics by domain, each with its change against the night before and its GAUC over the nights."""
    now = morning.now
    if not now:
        return ""
    before = morning.nights[morning.before] if morning.before else {}
    head = "".join(f"<th>{title}</th>" for title, *_ in _COLUMNS)
    body = []
    for domain in sort_rows(now):
        cells = []
        for _, metric, digits, better in _COLUMNS:
            below = [format_interval(now[domain], metric, digits)]
            below.insert(0, format_change(now[domain], before.get(domain, {}), metric, digits, better))
            small = "".join(f"<small>{line}</small>" for line in below if line)
            cells.append(f"<td>{format_number(now[domain][metric], digits)}{small}</td>")
        over = draw_sparkline([night.get(domain, {}).get("gauc") for night in morning.nights.values()])
        cells.insert(0, f'<td class="thin">{over}</td>')
        body.append(f"<tr{_get_row_class(morning, domain)}><th>{escape(domain)}</th>{''.join(cells)}</tr>")
    few = morning.settings.gate.domain_rows
    gone = [escape(d) for d in before if d not in now]
    notes = [
        f"Changes are against {morning.before}." if morning.before else "No night before this one to compare with."
    ]
    notes += [f"Domains of fewer than {few:,} rows (gate.domain_rows) have no colour."] if before else []
    notes += [f"Not there any more: {', '.join(gone)}."] if gone else []
    head = f'<th class="thin"><span class="hidden">GAUC over the nights</span></th>{head}'
    table = f"<table><thead><tr><th>domain</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return render_section("By domain", f'<div class="wide">{table}</div><p class="note">{" ".join(notes)}</p>')


def render_against_serving(morning: ReportData) -> str:
    """GAUC less the serving model's on the same rows, a row a domain."""
    rows = morning.differences
    title = "Against the serving model"
    if not rows:
        return render_section(title, '<p class="calm">The two were not compared on this night’s rows.</p>')
    names = [d for d in sort_rows(morning.now) if d in rows] or sorted(rows, key=lambda d: d != OVERALL)
    drawn = draw_forest(
        "Difference of GAUC to the serving model by domain",
        [Span(d, rows[d].get("gauc_low"), rows[d].get("gauc"), rows[d].get("gauc_high")) for d in names],
    )
    against = next(iter(rows.values()))["reference_run_id"].partition("@")[0]
    note = f"GAUC of this night’s model less that of <code>{escape(against)}</code>, on the same rows."
    return render_section(title, f'{drawn}<p class="note">{note} In colour where the interval leaves out 0.</p>')


def render_over_days(morning: ReportData, title: str, metric: str) -> str:
    """The overall metric over the nights, with its interval as a band."""
    rows = [night.get(OVERALL, {}) for night in morning.nights.values()]
    if all(is_missing(r.get(metric)) for r in rows):
        return render_section(f"{title} over the nights", '<p class="calm">No night has one yet.</p>')
    days = list(morning.nights)
    at = [float(dt.date.fromisoformat(d).toordinal()) for d in days]
    shown = sorted({0, (len(days) - 1) // 2, len(days) - 1})
    band = ([r.get(f"{metric}_{end}") for r in rows] for end in ("low", "high"))
    line = Line(at, [r.get(metric) for r in rows], "main", *band)
    mark = 1.0 if metric == "pcoc" else None
    drawn = draw_lines(
        f"{title} over the nights", [line], [(at[k], format_short_day(days[k])) for k in shown], 3 if mark else 4, mark
    )
    return render_section(f"{title} over the nights", drawn)


def render_calibration(morning: ReportData) -> str:
    """Predicted over actual clicks by domain, beside the serving model's where both were judged."""
    now, beside = morning.now, morning.beside
    found = [d for d in sort_rows(now) if d != OVERALL and not is_missing(now[d]["pcoc"])]
    if not found:
        return render_section("Calibration by domain", '<p class="calm">No domain has clicks to compare with.</p>')
    circles = [Circle(d, now[d]["pcoc"], now[d]["clicks"], beside.get(d, {}).get("pcoc")) for d in found]
    rings = " Rings: the serving model on the same rows." if any(c.beside is not None for c in circles) else ""
    note = f"PCOC, predicted over actual clicks: 1 is right. A circle a domain, its area by clicks.{rings}"
    drawn = draw_calibration("PCOC by domain", circles)
    return render_section("Calibration by domain", f'{drawn}<p class="note">{note}</p>')


def _get_row_class(morning: ReportData, domain: str) -> str:
    """Overall stands out; of a domain with few rows a change is mostly chance."""
    few = morning.now[domain]["rows"] < morning.settings.gate.domain_rows
    return ' class="strong"' if domain == OVERALL else ' class="few"' if few else ""


def render_section(title: str, inside: str) -> str:
    """A part of the page."""
    return f"<section><h2>{title}</h2>{inside}</section>"
