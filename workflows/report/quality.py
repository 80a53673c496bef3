"""Sections of the report about model quality: metrics by domain and by night, and compared with the serving model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from html import escape

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.jobs.registry.reference_gaps import describe_gap
from star_ctr.workflows.report.charts import (
    Circle,
    Difference,
    Line,
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
from star_ctr.workflows.report.reliability_chart import draw_reliability

Column = tuple[str, str, int, str]
"""Title, metric, decimals, and direction of an improvement (see `format_change`) of a column."""
COLUMNS: tuple[Column, ...] = (
    ("GAUC", "gauc", 4, "up"), ("PCOC", "pcoc", 3, "one"), ("AUC", "auc", 4, "up"), ("log loss", "log_loss", 4, "down"),
    ("ECE", "ece", 4, "down"), ("rows", "rows", 0, ""), ("clicks", "clicks", 0, ""),
)  # fmt: skip
"""The columns of the metrics of the label."""
_MAX_FEATURES = 10


def sort_rows(rows: Mapping[str, Row]) -> list[str]:
    """Return the names in `rows`: `overall` first if it exists, then the domains, largest number of rows first."""
    domains = sorted((d for d in rows if d != OVERALL), key=lambda d: (-rows[d]["rows"], d))
    return [*([OVERALL] if OVERALL in rows else []), *domains]


def render_by_domain(data: ReportData) -> str:
    """Return the table of metrics by domain, with changes since the previous night and GAUC over the nights.

    Args:
        data: The data of the night.

    Returns:
        The HTML of the section; empty if the night has no metrics.
    """
    if not data.metrics:
        return ""
    return render_section("Metrics by domain", render_domains(data.nights, COLUMNS, data.settings.gate.domain_rows))


def render_domains(nights: Mapping[str, Mapping[str, Row]], columns: Sequence[Column], min_rows: int) -> str:
    """Return a table of the metrics of the last night by domain, with its notes.

    Args:
        nights: The metrics by night, oldest first, and by domain.
        columns: The columns of the table.
        min_rows: Changes of domains with fewer rows (gate.domain_rows) are gray.
    """
    *earlier, last = nights
    now, before = nights[last], nights[earlier[-1]] if earlier else {}
    body = []
    for domain in sort_rows(now):
        sparkline = draw_sparkline([night.get(domain, {}).get("gauc") for night in nights.values()])
        cells = f'<td class="thin">{sparkline}</td>{render_cells(now[domain], before.get(domain, {}), columns)}'
        is_few = now[domain]["rows"] < min_rows
        kind = ' class="strong"' if domain == OVERALL else ' class="few"' if is_few else ""
        body.append(f"<tr{kind}><th>{escape(domain)}</th>{cells}</tr>")
    gone = [escape(d) for d in before if d not in now]
    notes = [
        f"Changes are relative to the night of {earlier[-1]}."
        if earlier
        else "There is no earlier night to compare with."
    ]
    notes += [f"Changes of domains with fewer than {min_rows:,} rows (gate.domain_rows) are gray."] if before else []
    notes += [f"Domains of the previous night that have no rows on this night: {', '.join(gone)}."] if gone else []
    head = "".join(f"<th>{title}</th>" for title, *_ in columns)
    head = f'<th class="thin"><span class="hidden">GAUC over the nights</span></th>{head}'
    table = f"<table><thead><tr><th>domain</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="wide">{table}</div><p class="note">{" ".join(notes)}</p>'


def render_cells(now: Row, before: Row, columns: Sequence[Column]) -> str:
    """Return the cells of a row of metrics, with changes since another row and with intervals."""
    cells = []
    for _, metric, digits, better in columns:
        lines = [format_change(now, before, metric, digits, better), format_interval(now, metric, digits)]
        small = "".join(f"<small>{line}</small>" for line in lines if line)
        cells.append(f"<td>{format_number(now.get(metric), digits)}{small}</td>")
    return "".join(cells)


def render_against_serving(data: ReportData) -> str:
    """Return a forest plot of the GAUC difference from the serving model on the same rows, one row per domain."""
    rows = data.differences
    title = "Comparison with the serving model"
    if not rows:
        return render_section(title, '<p class="calm">This night’s model was not compared with the serving model.</p>')
    names = [d for d in sort_rows(data.metrics) if d in rows] or sorted(rows, key=lambda d: d != OVERALL)
    plot = draw_forest(
        "Difference of GAUC from the serving model by domain",
        [Difference(d, rows[d].get("gauc_low"), rows[d].get("gauc"), rows[d].get("gauc_high")) for d in names],
    )
    reference = next(iter(rows.values()))["reference_run_id"].partition("@")[0]
    note = (
        f"GAUC of this night’s model minus GAUC of <code>{escape(reference)}</code>, on the same rows. Colored if the "
        "confidence interval does not contain 0."
    )
    return render_section(title, f'{plot}<p class="note">{note}</p>')


def render_by_night(data: ReportData, title: str, metric: str) -> str:
    """Return the section with a chart of an overall metric by night.

    Draws a confidence band if the metric has an interval (GAUC, not PCOC). If no night has a value, there is a note
    instead of a chart.

    Args:
        data: The data of the night.
        title: The name of the metric for the heading.
        metric: The key of the metric.

    Returns:
        The HTML of the section.
    """
    rows = [night.get(OVERALL, {}) for night in data.nights.values()]
    if all(is_missing(r.get(metric)) for r in rows):
        return render_section(f"{title} by night", '<p class="calm">No night has a value yet.</p>')
    days = list(data.nights)
    at = [float(dt.date.fromisoformat(d).toordinal()) for d in days]
    shown = sorted({0, (len(days) - 1) // 2, len(days) - 1})
    band = ([r.get(f"{metric}_{end}") for r in rows] for end in ("low", "high"))
    line = Line(at, [r.get(metric) for r in rows], "main", *band)
    mark = 1.0 if metric == "pcoc" else None
    plot = draw_lines(
        f"{title} by night", [line], [(at[k], format_short_day(days[k])) for k in shown], 3 if mark else 4, mark
    )
    return render_section(f"{title} by night", plot)


def render_gaps(data: ReportData) -> str:
    """Return the section with a chart of the GAUC gap from references by night; empty if no night has a reference."""
    gaps = [gap for gap in data.gaps if not is_missing(gap["gauc"])]
    if not gaps:
        return ""
    at = [float(dt.date.fromisoformat(gap["ds"]).toordinal()) for gap in gaps]
    shown = sorted({0, len(gaps) - 1})
    band = ([gap[f"gauc_{end}"] for gap in gaps] for end in ("low", "high"))
    plot = draw_lines(
        "GAUC minus that of a model trained from scratch, by night",
        [Line(at, [gap["gauc"] for gap in gaps], "main", *band)],
        [(at[k], format_short_day(gaps[k]["ds"])) for k in shown],
        mark=0.0,
    )
    note = (
        "GAUC of models that continue from earlier nights, minus GAUC of models trained from scratch on more days "
        f"(section <code>reference</code>), on the same rows. {format_short_day(gaps[-1]['ds'])}: "
        f"{escape(describe_gap(gaps[-1], data.has_same_calibration))}."
    )
    return render_section("Comparison with training from scratch", f'{plot}<p class="note">{note}</p>')


def render_importance(data: ReportData) -> str:
    """Return a forest plot of the most important features; empty if `explain` has not run on this run."""
    overall = [r for r in data.importance if r["domain"] == OVERALL and r["kind"] == "feature"]
    rows = sorted((r for r in overall if not is_missing(r["gauc"])), key=lambda r: -r["gauc"])[:_MAX_FEATURES]
    if not rows:
        return ""
    plot = draw_forest(
        "Loss of GAUC without a feature",
        [Difference(r["name"], r["gauc_low"], r["gauc"], r["gauc_high"]) for r in rows],
    )
    note = (
        f"What GAUC loses on {rows[0]['rows']:,} test rows if the values of a feature are exchanged at random among "
        f"the rows of a domain: the {len(rows)} most important features. Table <code>importance</code>."
    )
    return render_section("What the model uses", f'{plot}<p class="note">{note}</p>')


def render_calibration(data: ReportData) -> str:
    """Return a chart of PCOC by domain, with rings for the serving model if it was evaluated on the same rows."""
    now, serving = data.metrics, data.serving_metrics
    domains = [d for d in sort_rows(now) if d != OVERALL and not is_missing(now[d]["pcoc"])]
    if not domains:
        return render_section("Calibration by domain", '<p class="calm">No domain has a defined PCOC.</p>')
    circles = [Circle(d, now[d]["pcoc"], now[d]["clicks"], serving.get(d, {}).get("pcoc")) for d in domains]
    rings = " Rings show the serving model on the same rows." if any(c.serving is not None for c in circles) else ""
    note = (
        "PCOC is predicted clicks / actual clicks; 1 is ideal. Each circle is a domain. Its area shows the number of "
        f"clicks.{rings}"
    )
    plot = draw_calibration("PCOC by domain", circles)
    return render_section("Calibration by domain", f'{plot}<p class="note">{note}</p>')


def render_reliability(data: ReportData) -> str:
    """Return the reliability curve over all domains; empty if there are too few rows."""
    overall = data.metrics.get(OVERALL, {})
    plot = draw_reliability("Reliability curve: CTR by predicted CTR", overall.get("reliability") or [])
    if not plot:
        return ""
    note = (
        "CTR by predicted CTR. Each point is a bin of rows with similar scores. On the dashed line, both are equal. "
        "Points whose 95% interval misses the line are red. ECE, the mean distance from the line, is "
        f"{format_number(overall['ece'], 4)}."
    )
    return render_section("Reliability curve", f'{plot}<p class="note">{note}</p>')


def render_section(title: str, content: str) -> str:
    """Return a section of the page with a heading."""
    return f"<section><h2>{title}</h2>{content}</section>"
