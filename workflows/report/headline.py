"""Top of the report: the decision on the night's model, alarms, and the overall metrics."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from html import escape

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import make_refit_run_id, strip_refit_suffix
from star_ctr.jobs.registry.decisions import Decision, Outcome
from star_ctr.jobs.registry.reference_gaps import describe_reference, is_worse
from star_ctr.workflows.report.data import ReportData, Row
from star_ctr.workflows.report.formatting import format_change, format_interval, format_number, format_short_day

_OUTCOMES = {
    Outcome.PROMOTED: ("good", "Promoted", "It is served from now on."),
    Outcome.HELD: ("bad", "Held", "The serving model does not change."),
    Outcome.TOO_SMALL: ("warn", "Not enough data", "The serving model does not change."),
    Outcome.REFIT: ("good", "Promoted", "Its refit is served from now on."),
    Outcome.REFIT_HELD: ("warn", "Promoted, refit held", "The promoted weights stay in service."),
    Outcome.PROMOTED_MANUALLY: ("good", "Promoted manually", "It is served from now on."),
    Outcome.ROLLED_BACK: ("warn", "Rolled back", ""),
}
"""CSS class, title and consequence of each outcome. Those of a rollback depend on the run."""
_STATES = {"failed": "failed", "interrupted": "was interrupted", "running": "is running", "stale": "is stale"}
"""Verbs for the states of a step."""
_TILES = (("GAUC", "gauc", 4, "up"), ("AUC", "auc", 4, "up"), ("PCOC", "pcoc", 3, "one"), ("Rows", "rows", 0, ""))
"""Title, metric, decimals, and direction of an improvement (see `format_change`) of each tile."""


def render_headline(data: ReportData) -> str:
    """Return the top of the page: the night, the decision and its reason, the serving model, alarms, and four metrics.

    Args:
        data: The data of the night.
    """
    kind, title, explanation = _describe_decision(data)
    day = dt.date.fromisoformat(data.ds)
    lead = f"{escape(data.settings.name)} · {day:%A} {data.ds}"
    served = data.served
    serving = "No model is served yet."
    if served is not None:
        names = {
            data.run_id: "this night’s model",
            make_refit_run_id(data.run_id): "the refit of this night’s model, which includes this night’s day",
        }
        name = names.get(served.run_id) or f"<code>{escape(served.run_id)}</code>"
        if served.run_id == data.run_id and served.attempt != data.record.get("attempt", served.attempt):
            name = f"attempt {served.attempt} of this night’s run"
        serving = f"Served now: {name}, since {served.at:%Y-%m-%d %H:%M} UTC."
    return (
        f'<header class="{kind}"><p class="lead">{lead}</p><h1>{title}</h1>{explanation}'
        f'<p class="small">{serving}</p><p class="small">This night’s model: <code>{escape(data.run_id)}</code></p>'
        f"</header>{_render_alarms(data)}{_render_tiles(data)}"
    )


def _describe_decision(data: ReportData) -> tuple[str, str, str]:
    """Return the CSS class, the title, and the explanation of the last decision on the run, as HTML."""
    if not data.decisions:
        return "none", "No decision", "<p>The gate has not decided on this night’s model.</p>"
    last = data.decisions[-1]
    kind, title, consequence = _OUTCOMES[last.outcome]
    if last.outcome is Outcome.ROLLED_BACK:
        is_restored = strip_refit_suffix(last.run_id) == data.run_id
        kind, title = ("good", "Served again") if is_restored else ("bad", "Rolled back")
        consequence = "A later model was rolled back." if is_restored else "An earlier model is served instead."
    elif data.served is not None and kind == "good" and strip_refit_suffix(data.served.run_id) != data.run_id:
        consequence = "Another model has replaced it since then."
    author = "" if last.by == "gate" else f" ({escape(last.by)})"
    reason = escape(_format_sentence(last.reason))
    explanation = f'<p class="reason">{reason}{author} <span class="means">{consequence}</span></p>'
    return kind, title, explanation + _render_history(data.decisions[:-1])


def _format_sentence(reason: str) -> str:
    """Return a text as a sentence, with an upper-case first letter and a period."""
    return f"{reason[:1].upper()}{reason[1:]}{'' if reason.endswith(('.', '?', '!')) else '.'}"


def _render_history(earlier: Sequence[Decision]) -> str:
    if not earlier:
        return ""
    items = (f"<li>{d.at:%m-%d %H:%M} {escape(d.outcome)} by {escape(d.by)}: {escape(d.reason)}</li>" for d in earlier)
    return f"<details><summary>Earlier decisions</summary><ul>{''.join(items)}</ul></details>"


def _render_alarms(data: ReportData) -> str:
    """Return a list of alarms; empty if there are none.

    These are a model that is worse than its reference, failed, running and stale steps of this night, failed and
    running steps of later nights, and days of the logs whose night has not run yet.
    """
    alarms = [_describe_gap(gap) for gap in data.gaps[-1:] if is_worse(gap, data.settings.gate.gauc_margin)]
    for row in data.step_states:
        is_later = row["ds"] > data.ds
        if row["ds"] < data.ds or row["state"] in ("done", "removed") or (row["state"] == "missing" and not is_later):
            continue
        if row["state"] == "missing":
            if row["step"] == "ingest":
                alarms.append(f"The logs contain {row['ds']}, but the night of this day has not run yet.")
        elif row["state"] != "stale" or not is_later:
            alarms.append(f"{row['step'].capitalize()} of {row['ds']} {_STATES[row['state']]}: {row['reason']}")
    return f'<ul class="alarms">{"".join(f"<li>{escape(a)}</li>" for a in alarms)}</ul>' if alarms else ""


def _describe_gap(gap: Row) -> str:
    """Return the text of the alarm that a model is worse than its reference."""
    interval = f"{-gap['gauc_high']:.4f} to {-gap['gauc_low']:.4f}"
    return (
        f"On {gap['ds']}, GAUC of the model that continues from earlier nights was {-gap['gauc']:.4f} ({interval}) "
        f"below that of {describe_reference(gap)}. Consider a larger window.days, or training from scratch."
    )


def _render_tiles(data: ReportData) -> str:
    now = data.metrics.get(OVERALL)
    if now is None:
        return '<p class="calm">This night has no metrics.</p>'
    before: Row = data.nights[data.previous_night].get(OVERALL, {}) if data.previous_night else {}
    tiles = []
    for title, metric, digits, better in _TILES:
        change = format_change(now, before, metric, digits, better)
        since = (
            f"{change} <span>since {format_short_day(data.previous_night)}</span>"
            if change and data.previous_night
            else ""
        )
        interval = format_interval(now, metric, digits)
        final = data.final_metrics.get(OVERALL, {}).get(metric)
        known = f"final: {format_number(final, digits)}" if final is not None else ""
        lines = "".join(f'<p class="small">{line}</p>' for line in (since, interval, known) if line)
        tiles.append(
            f'<div class="tile"><h2>{title}</h2><p class="big">{format_number(now[metric], digits)}</p>{lines}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>{_render_open_labels(now, data.final_metrics.get(OVERALL))}'


def _render_open_labels(now: Row, final: Row | None) -> str:
    """Return a note if the metrics are provisional, and which night computed the final ones."""
    if not now.get("open_labels"):
        return ""
    known = f"Night {final['as_of']} computed" if final else "A later night computes"
    counts = f"{now['open_labels']:,} of {now['rows']:,} labels were open"
    return f'<p class="note">Provisional: {counts} when the gate decided. {known} the final values.</p>'
