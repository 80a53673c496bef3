"""The top of the morning page: what was decided of the night's model, and how good it is over all domains."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from html import escape

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.conf.contracts.run_id import make_refit_run_id, strip_refit_suffix
from star_ctr.jobs.registry.decisions import Decision, Outcome
from star_ctr.workflows.report.data import ReportData, Row
from star_ctr.workflows.report.formatting import format_change, format_interval, format_number, format_short_day

_SAID = {
    Outcome.PROMOTED: ("good", "Promoted", "It is served from now on."),
    Outcome.HELD: ("bad", "Held back", "The serving model does not change."),
    Outcome.TOO_SMALL: ("warn", "Not enough data", "The serving model does not change."),
    Outcome.REFIT: ("good", "Promoted", "Its refit is served from now on."),
    Outcome.REFIT_HELD: ("warn", "Promoted, refit held", "The promoted weights stay in service."),
    Outcome.PROMOTED_MANUALLY: ("good", "Promoted by hand", "It is served from now on."),
    Outcome.ROLLED_BACK: ("warn", "Rolled back", ""),
}
_STATES = {"failed": "failed", "running": "is running", "stale": "is stale"}
_TILES = (("GAUC", "gauc", 4, "up"), ("AUC", "auc", 4, "up"), ("PCOC", "pcoc", 3, "one"), ("Rows", "rows", 0, ""))


def render_headline(morning: ReportData) -> str:
    """The night, the decision with its reason, what is served, and four numbers."""
    kind, title, words = _describe_decision(morning)
    day = dt.date.fromisoformat(morning.ds)
    lead = f"{escape(morning.settings.name)} · {day:%A} {morning.ds}"
    served = morning.served
    now = "No model is served yet."
    if served is not None:
        ours = {morning.run_id: "this one", make_refit_run_id(morning.run_id): "this one, refit with the night’s day"}
        which = ours.get(served.run_id) or f"<code>{escape(served.run_id)}</code>"
        if served.run_id == morning.run_id and served.attempt != morning.record.get("attempt", served.attempt):
            which = f"attempt {served.attempt} of this night’s run"
        now = f"Served now: {which}, since {served.at:%Y-%m-%d %H:%M} UTC."
    return (
        f'<header class="{kind}"><p class="lead">{lead}</p><h1>{title}</h1>{words}'
        f'<p class="small">{now}</p><p class="small">This night’s model: <code>{escape(morning.run_id)}</code></p>'
        f"</header>{_render_alarms(morning)}{_render_tiles(morning)}"
    )


def _describe_decision(morning: ReportData) -> tuple[str, str, str]:
    """How the decision looks, its name, and why it was taken."""
    if not morning.decisions:
        return "none", "No decision", "<p>The gate has not decided on this night’s model.</p>"
    last = morning.decisions[-1]
    kind, title, means = _SAID[last.outcome]
    if last.outcome is Outcome.ROLLED_BACK:
        again = strip_refit_suffix(last.run_id) == morning.run_id
        kind, title = ("good", "Served again") if again else ("bad", "Rolled back")
        means = "A later model was taken back." if again else "An earlier model is served instead."
    elif morning.served is not None and kind == "good" and strip_refit_suffix(morning.served.run_id) != morning.run_id:
        means = "Another model has taken its place since."
    by = "" if last.by == "gate" else f" ({escape(last.by)})"
    words = f'<p class="reason">{escape(_format_sentence(last.reason))}{by} <span class="means">{means}</span></p>'
    return kind, title, words + _render_history(morning.decisions[:-1])


def _format_sentence(reason: str) -> str:
    """A reason as a sentence."""
    return f"{reason[:1].upper()}{reason[1:]}{'' if reason.endswith(('.', '?', '!')) else '.'}"


def _render_history(earlier: Sequence[Decision]) -> str:
    if not earlier:
        return ""
    items = (f"<li>{d.at:%m-%d %H:%M} {escape(d.outcome)} by {escape(d.by)}: {escape(d.reason)}</li>" for d in earlier)
    return f"<details><summary>Decided before</summary><ul>{''.join(items)}</ul></details>"


def _render_alarms(morning: ReportData) -> str:
    """What is not as it should be: steps of this night, and nights since then."""
    said = []
    for row in morning.standing:
        newer = row["ds"] > morning.ds
        if row["ds"] < morning.ds or row["state"] in ("done", "removed") or (row["state"] == "missing" and not newer):
            continue
        if row["state"] == "missing":
            if row["step"] == "ingest":
                said.append(f"The logs have {row['ds']}, of which no night was run yet.")
        elif row["state"] != "stale" or not newer:
            said.append(f"{row['step'].capitalize()} of {row['ds']} {_STATES[row['state']]}: {row['why']}")
    return f'<ul class="alarms">{"".join(f"<li>{escape(s)}</li>" for s in said)}</ul>' if said else ""


def _render_tiles(morning: ReportData) -> str:
    now = morning.now.get(OVERALL)
    if now is None:
        return '<p class="calm">There are no metrics of this night.</p>'
    before: Row = morning.nights[morning.before].get(OVERALL, {}) if morning.before else {}
    tiles = []
    for title, metric, digits, better in _TILES:
        against = format_change(now, before, metric, digits, better)
        since = f"{against} <span>since {format_short_day(morning.before)}</span>" if against and morning.before else ""
        within = format_interval(now, metric, digits)
        lines = "".join(f'<p class="small">{line}</p>' for line in (since, within) if line)
        tiles.append(
            f'<div class="tile"><h2>{title}</h2><p class="big">{format_number(now[metric], digits)}</p>{lines}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'
