"""How the night went: rows from step to step, the training, the time of the steps, and what the run stands on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from star_ctr.workflows.report.charts import Line, draw_lines, draw_stacked_bars
from star_ctr.workflows.report.data import UNDATED, ReportData, Row
from star_ctr.workflows.report.formatting import format_clock, format_number, format_seconds, format_short_day
from star_ctr.workflows.report.quality import render_section

_WAYS = (
    ("The night’s day", ("ingest", "features", "split.test", "score", "evaluate")),
    ("The days before it", ("split.train", "train")),
)
"""Ways of rows through the steps: what one lets out is what the next one takes in."""
_GLYPHS = {"done": "✓", "stale": "↻", "running": "…", "failed": "✗", "missing": "·", "removed": "·"}
_SECTIONS = ("window", "split", "model", "trainer")


def render_ledger(morning: ReportData) -> str:
    """The ledger: rows into and out of each step, and why some were left out."""
    title = "Where the rows went"
    if not morning.ledger:
        return render_section(title, '<p class="calm">The ledger has nothing of this night.</p>')
    steps = {row["step"] for row in morning.ledger}
    on_the_way = [step for _, way in _WAYS for step in way]
    beside = tuple(sorted(s for s in steps if s not in on_the_way))
    body = []
    for name, way in (*_WAYS, ("Other logs", beside)):
        there = [step for step in way if step in steps]
        body += [f'<tr class="group"><th colspan="4">{name}</th></tr>'] if there else []
        passed = None
        for step in there:
            rows = [r for r in morning.ledger if r["step"] == step]
            came, went = (sum(r[k] for r in rows if r["ds"] != UNDATED) for k in ("rows_in", "rows_out"))
            body.append(_render_ledger_row(step, came, went, rows, passed))
            passed = went if way is not beside else None
    head = "<tr><th>step</th><th>rows in</th><th>rows out</th><th>left out</th></tr>"
    return render_section(
        title, f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _render_ledger_row(step: str, came: int, went: int, rows: Sequence[Row], passed: int | None) -> str:
    why = []
    reasons = sorted({r["reason"] for r in rows if r["rows_in"] > r["rows_out"]})
    for reason in reasons:
        of = [r for r in rows if r["reason"] == reason]
        lost: dict[str, int] = {}
        for r in of:
            where = "day unknown" if r["ds"] == UNDATED else r["domain"]
            lost[where] = lost.get(where, 0) + r["rows_in"] - r["rows_out"]
        most = sorted((d for d in lost if d != "all"), key=lambda d: -lost[d])[:3]
        places = ", ".join(f"{escape(d)} {lost[d]:,}" for d in most)
        named = escape(reason or "no reason was given")
        why.append(f"{named}: {sum(lost.values()):,}" + (f" <small>{places}</small>" if places else ""))
    if passed is not None and passed != came:
        by = f"{abs(passed - came):,} {'fewer' if came < passed else 'more'}"
        why.append(f'<span class="bad">{by} than the step before gave</span>')
    out = f"{came - went:,}" if came != went else "0"
    below = f'<tr class="why"><td colspan="4">{"".join(f"<div>{w}</div>" for w in why)}</td></tr>' if why else ""
    kind = ' class="bad"' if came != went and step in ("train", "score", "evaluate") else ""
    return f"<tr><th>{escape(step)}</th><td>{came:,}</td><td>{went:,}</td><td{kind}>{out}</td></tr>{below}"


def render_training(morning: ReportData) -> str:
    """The training's loss over its steps, beside the night before, and how fast it was."""
    title, record = "Training", morning.record
    if not record.get("curve"):
        return render_section(title, '<p class="calm">There is no record of a training of this night.</p>')
    curve, before = record["curve"], morning.record_before.get("curve") or []
    drawn = [
        Line([step for step, _ in points], [loss for _, loss in points], kind)
        for points, kind in ((curve, "main"), (before, "before"))
        if points
    ]
    last = max(step for step, _ in [*curve, *before])
    # The first stretch, of a model that knows nothing, would flatten all that follows.
    ceiling = max(loss for _, loss in curve[len(curve) // 10 :])
    labels = [(step, f"{step:,.0f}") for step in sorted({curve[0][0], last // 2, last})]
    facts = [
        ("rows/s", format_number(record.get("rows_per_second"), 0)),
        ("waiting", f"{100 * record['waiting_share']:.1f}%" if "waiting_share" in record else format_number(None)),
        ("time", format_seconds(record.get("seconds"))),
        ("mixing", format_number(record.get("mixing"), 2)),
    ]
    shown = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts)
    above = f" It began at {curve[0][1]:.4f}, above the scale." if curve[0][1] > ceiling else ""
    faint = f"; faint: the night of {morning.before}." if before else "."
    note = f"Mean log loss of the training rows over the steps{faint}{above}"
    plot = draw_lines("Training loss over steps", drawn, labels, ceiling=ceiling)
    return render_section(title, f'{plot}<dl class="facts">{shown}</dl><p class="note">{note}</p>')


def render_time(morning: ReportData) -> str:
    """Bars of the time that each step of the last nights took."""
    title = "Time by step"
    steps = list(dict.fromkeys(r["step"] for r in morning.standing))
    taken: dict[str, dict[str, float]] = {}
    for row in morning.standing:
        if row["seconds"] and row["ds"] <= morning.ds:
            taken.setdefault(row["ds"], {})[row["step"]] = row["seconds"]
    if not taken:
        return render_section(title, '<p class="calm">The journal has no times of these nights.</p>')
    bars = [(ds[5:], [of.get(step, 0.0) for step in steps]) for ds, of in sorted(taken.items())]
    keys = "".join(f'<li><i class="part p{k}"></i>{escape(step)}</li>' for k, step in enumerate(steps))
    return render_section(
        title, f'{draw_stacked_bars("Seconds by step and night", bars)}<ul class="legend">{keys}</ul>'
    )


def render_nights(morning: ReportData) -> str:
    """How the steps of the last nights stand, with their time; and why those are not done that something is said of."""
    title = "The nights"
    if not morning.standing:
        return render_section(title, '<p class="calm">The journal has nothing of these settings.</p>')
    steps = list(dict.fromkeys(r["step"] for r in morning.standing))
    body, why = [], []
    for ds in sorted({r["ds"] for r in morning.standing}, reverse=True):
        of = {r["step"]: r for r in morning.standing if r["ds"] == ds}
        cells = "".join(_render_status(of[step]) for step in steps)
        strong = ' class="strong"' if ds == morning.ds else ""
        body.append(f"<tr{strong}><th>{format_short_day(ds)}</th>{cells}</tr>")
        why += [
            f"<li>{format_short_day(ds)} {r['step']}: {escape(r['why'])}</li>"
            for r in of.values()
            if r["state"] in ("stale", "failed", "running")
        ]
    head = "".join(f"<th>{escape(step)}</th>" for step in steps)
    table = f'<table class="nights"><thead><tr><th>night</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    reasons = f"<details><summary>Why {len(why)} are not done</summary><ul>{''.join(why)}</ul></details>" if why else ""
    note = '<p class="note">Minutes and seconds of the last time that each was run.</p>'
    return render_section(title, f'<div class="wide">{table}</div>{reasons}{note}')


def _render_status(row: Row) -> str:
    state = row["state"]
    said = format_clock(row["seconds"]) if state == "done" and row["seconds"] else state
    return f'<td class="state {state}"><span aria-hidden="true">{_GLYPHS[state]}</span> {said}</td>'


def render_inputs(morning: ReportData) -> str:
    """What the run was made from: versions, code, settings, seed, start; folded."""
    record = morning.record
    if not record:
        return ""
    start = record.get("start")
    said: dict[str, Any] = {
        "run": morning.run_id,
        "settings": morning.settings_hash,
        "seed": record.get("seed"),
        "code": record.get("code"),
        "tables": _flatten(record.get("versions", {}), " version "),
        "start": f"from {start.get('run_id', '?')}" if start else "afresh",
        "resumed": "yes, it was broken off once" if record.get("resumed") else "no",
        "parameters": format_number(record.get("parameters"), 0),
        "steps": format_number(record.get("steps"), 0),
        "rows trained on": format_number(sum(record.get("rows", {}).values()), 0),
        "scorer less trainer": record.get("max_score_difference"),
        "device": f"{record.get('device')}, {record.get('processes')} process(es), torch {record.get('torch')}",
    }
    settings = record.get("settings", {})
    said |= {name: _flatten(settings[name], "=") for name in _SECTIONS if name in settings}
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in said.items() if v is not None)
    return f'<section><details><summary>The run’s record</summary><dl class="record">{rows}</dl></details></section>'


def _flatten(values: dict[str, Any], between: str) -> str:
    return ", ".join(f"{k}{between}{v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items())
