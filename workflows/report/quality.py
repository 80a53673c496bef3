"""How good the night's model is: by domain, against the serving model, and over the days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from html import escape

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.workflows.report.charts import Circle, Line, Span, calibration, forest, lines, spark
from star_ctr.workflows.report.data import Morning, Row
from star_ctr.workflows.report.formatting import change, interval, missing, number, short_day

_COLUMNS = (
    ("GAUC", "gauc", 4, "up"), ("PCOC", "pcoc", 3, "one"), ("AUC", "auc", 4, "up"), ("log loss", "log_loss", 4, "down"),
    ("rows", "rows", 0, ""), ("clicks", "clicks", 0, ""),
)  # fmt: skip


def ordered(rows: Mapping[str, Row]) -> list[str]:
    """Overall first, then the domains, those of most rows first."""
    domains = sorted((d for d in rows if d != OVERALL), key=lambda d: (-rows[d]["rows"], d))
    return [*([OVERALL] if OVERALL in rows else []), *domains]


def by_domain(morning: Morning) -> str:
    """The table of metrics by domain, each with its change against the night before and its GAUC over the nights."""
    now = morning.now
    if not now:
        return ""
    before = morning.nights[morning.before] if morning.before else {}
    head = "".join(f"<th>{title}</th>" for title, *_ in _COLUMNS)
    body = []
    for domain in ordered(now):
        cells = []
        for _, metric, digits, better in _COLUMNS:
            below = [interval(now[domain], metric, digits)]
            below.insert(0, change(now[domain], before.get(domain, {}), metric, digits, better))
            small = "".join(f"<small>{line}</small>" for line in below if line)
            cells.append(f"<td>{number(now[domain][metric], digits)}{small}</td>")
        over = spark([night.get(domain, {}).get("gauc") for night in morning.nights.values()])
        cells.insert(0, f'<td class="thin">{over}</td>')
        body.append(f"<tr{_kind(morning, domain)}><th>{escape(domain)}</th>{''.join(cells)}</tr>")
    few = morning.settings.gate.domain_rows
    gone = [escape(d) for d in before if d not in now]
    notes = [
        f"Changes are against {morning.before}." if morning.before else "No night before this one to compare with."
    ]
    notes += [f"Domains of fewer than {few:,} rows (gate.domain_rows) have no colour."] if before else []
    notes += [f"Not there any more: {', '.join(gone)}."] if gone else []
    head = f'<th class="thin"><span class="hidden">GAUC over the nights</span></th>{head}'
    table = f"<table><thead><tr><th>domain</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return section("By domain", f'<div class="wide">{table}</div><p class="note">{" ".join(notes)}</p>')


def against_serving(morning: Morning) -> str:
    """GAUC less the serving model's on the same rows, a row a domain."""
    rows = morning.differences
    title = "Against the serving model"
    if not rows:
        return section(title, '<p class="calm">The two were not compared on this night’s rows.</p>')
    names = [d for d in ordered(morning.now) if d in rows] or sorted(rows, key=lambda d: d != OVERALL)
    drawn = forest(
        "Difference of GAUC to the serving model by domain",
        [Span(d, rows[d].get("gauc_low"), rows[d].get("gauc"), rows[d].get("gauc_high")) for d in names],
    )
    against = next(iter(rows.values()))["against"].partition("@")[0]
    note = f"GAUC of this night’s model less that of <code>{escape(against)}</code>, on the same rows."
    return section(title, f'{drawn}<p class="note">{note} In colour where the interval leaves out 0.</p>')


def over_days(morning: Morning, title: str, metric: str) -> str:
    """The overall metric over the nights, with its interval as a band."""
    rows = [night.get(OVERALL, {}) for night in morning.nights.values()]
    if all(missing(r.get(metric)) for r in rows):
        return section(f"{title} over the nights", '<p class="calm">No night has one yet.</p>')
    days = list(morning.nights)
    at = [float(dt.date.fromisoformat(d).toordinal()) for d in days]
    shown = sorted({0, (len(days) - 1) // 2, len(days) - 1})
    band = ([r.get(f"{metric}_{end}") for r in rows] for end in ("low", "high"))
    line = Line(at, [r.get(metric) for r in rows], "main", *band)
    mark = 1.0 if metric == "pcoc" else None
    drawn = lines(
        f"{title} over the nights", [line], [(at[k], short_day(days[k])) for k in shown], 3 if mark else 4, mark
    )
    return section(f"{title} over the nights", drawn)


def calibrated(morning: Morning) -> str:
    """Predicted over actual clicks by domain, beside the serving model's where both were judged."""
    now, beside = morning.now, morning.beside
    found = [d for d in ordered(now) if d != OVERALL and not missing(now[d]["pcoc"])]
    if not found:
        return section("Calibration by domain", '<p class="calm">No domain has clicks to compare with.</p>')
    circles = [Circle(d, now[d]["pcoc"], now[d]["clicks"], beside.get(d, {}).get("pcoc")) for d in found]
    rings = " Rings: the serving model on the same rows." if any(c.beside is not None for c in circles) else ""
    note = f"PCOC, predicted over actual clicks: 1 is right. A circle a domain, its area by clicks.{rings}"
    drawn = calibration("PCOC by domain", circles)
    return section("Calibration by domain", f'{drawn}<p class="note">{note}</p>')


def _kind(morning: Morning, domain: str) -> str:
    """Overall stands out; of a domain with few rows a change is mostly chance."""
    few = morning.now[domain]["rows"] < morning.settings.gate.domain_rows
    return ' class="strong"' if domain == OVERALL else ' class="few"' if few else ""


def section(title: str, inside: str) -> str:
    """A part of the page."""
    return f"<section><h2>{title}</h2>{inside}</section>"
