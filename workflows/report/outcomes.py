"""Sections of the report about further outcomes (`label.also`): an overview, and the metrics of each by domain."""

from __future__ import annotations

from html import escape

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.workflows.report.charts import draw_sparkline
from star_ctr.workflows.report.data import ReportData, Row
from star_ctr.workflows.report.formatting import format_short_day
from star_ctr.workflows.report.quality import COLUMNS, Column, render_cells, render_domains, render_section

_BY_DOMAIN: tuple[Column, ...] = tuple(
    ("positives", *column[1:]) if column[1] == "clicks" else column for column in COLUMNS if column[1] != "log_loss"
)
_OVERVIEW = tuple(column for column in _BY_DOMAIN if column[1] != "ece")


def render_outcomes(data: ReportData) -> str:
    """Return the sections of the further outcomes; empty without outcomes."""
    outcomes = {name: _collect_nights(data, name) for name in data.settings.label.outcomes}
    if not outcomes:
        return ""
    return _render_overview(outcomes) + "".join(
        _render_by_domain(name, nights, data.settings.gate.domain_rows) for name, nights in outcomes.items() if nights
    )


def _collect_nights(data: ReportData, outcome: str) -> dict[str, dict[str, Row]]:
    """Return the metrics of an outcome by night, oldest first, and by domain."""
    nights: dict[str, dict[str, Row]] = {}
    for row in data.outcome_metrics:
        if row["outcome"] == outcome:
            nights.setdefault(row["ds"], {})[row["domain"]] = row
    return nights


def _render_overview(outcomes: dict[str, dict[str, dict[str, Row]]]) -> str:
    """Return a table of the outcomes, each with its newest final metrics over all domains."""
    body = []
    for outcome, nights in outcomes.items():
        rows = [domains[OVERALL] for domains in nights.values() if OVERALL in domains]
        if not rows:
            columns = len(_OVERVIEW) + 1
            body.append(f'<tr><th>{escape(outcome)}</th><td colspan="{columns}">not final on any night yet</td></tr>')
            continue
        newest, before = rows[-1], rows[-2] if len(rows) > 1 else {}
        cells = f"<td>{format_short_day(newest['ds'])}</td>{render_cells(newest, before, _OVERVIEW)}"
        sparkline = draw_sparkline([row.get("gauc") for row in rows])
        body.append(f'<tr><th>{escape(outcome)}</th>{cells}<td class="thin">{sparkline}</td></tr>')
    head = "".join(f"<th>{title}</th>" for title in ("outcome", "night", *(title for title, *_ in _OVERVIEW)))
    head += '<th class="thin"><span class="hidden">GAUC over the nights</span></th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    note = (
        "Metrics over all domains, on the newest night on which each outcome is final. Changes are relative to the "
        "previous night."
    )
    return render_section("Further outcomes", f'<div class="wide">{table}</div><p class="note">{note}</p>')


def _render_by_domain(outcome: str, nights: dict[str, dict[str, Row]], min_rows: int) -> str:
    """Return the metrics of an outcome by domain, on the newest night on which it is final."""
    title = f"{escape(outcome)} by domain, night {max(nights)}"
    return render_section(title, render_domains(nights, _BY_DOMAIN, min_rows))
