"""Sections of the report about the steps: row counts, training, durations and states, and the training record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from star_ctr.workflows.report.charts import Line, draw_lines, draw_stacked_bars
from star_ctr.workflows.report.data import UNDATED, ReportData, Row
from star_ctr.workflows.report.formatting import format_clock, format_number, format_seconds, format_short_day
from star_ctr.workflows.report.quality import render_section

_PIPELINES = (
    ("Test day", ("ingest", "features", "split.test", "score", "evaluate")),
    ("Training days", ("split.train", "train")),
)
"""Steps that the same rows pass through: the rows out of a step must be the rows in of the next one."""
_SYMBOLS = {
    "done": "✓", "stale": "↻", "running": "…", "failed": "✗", "interrupted": "✗", "missing": "·", "removed": "·",
}  # fmt: skip
"""Symbol of each state of a step."""
_SECTIONS = ("window", "split", "model", "trainer")
"""Sections of the settings that are shown with the training record."""


def render_ledger(data: ReportData) -> str:
    """Return the ledger: rows in and out of each step, and the reasons for rows that were left out.

    If the rows in of a step differ from the rows out of the step before it, the difference is shown in red.

    Args:
        data: The data of the night.

    Returns:
        The HTML of the section.
    """
    title = "Rows by step"
    if not data.ledger:
        return render_section(title, '<p class="calm">The ledger has no rows of this night.</p>')
    steps = {row["step"] for row in data.ledger}
    in_pipelines = [step for _, pipeline in _PIPELINES for step in pipeline]
    others = tuple(sorted(s for s in steps if s not in in_pipelines))
    body = []
    for name, pipeline in (*_PIPELINES, ("Other steps", others)):
        recorded = [step for step in pipeline if step in steps]
        body += [f'<tr class="group"><th colspan="4">{name}</th></tr>'] if recorded else []
        expected = None
        for step in recorded:
            rows = [r for r in data.ledger if r["step"] == step]
            rows_in, rows_out = (sum(r[k] for r in rows if r["ds"] != UNDATED) for k in ("rows_in", "rows_out"))
            body.append(_render_ledger_row(step, rows_in, rows_out, rows, expected))
            expected = rows_out if pipeline is not others else None
    head = "<tr><th>step</th><th>rows in</th><th>rows out</th><th>left out</th></tr>"
    return render_section(
        title, f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _render_ledger_row(step: str, rows_in: int, rows_out: int, rows: Sequence[Row], expected: int | None) -> str:
    """Return the table row of a step, followed by a row with the reasons for rows that were left out.

    Args:
        step: The name of the step.
        rows_in: The rows in, except those without a day.
        rows_out: The rows out, except those without a day.
        rows: The ledger rows of the step.
        expected: The rows out of the previous step; None if the step has no previous one.
    """
    notes = []
    reasons = sorted({r["reason"] for r in rows if r["rows_in"] > r["rows_out"]})
    for reason in reasons:
        lost: dict[str, int] = {}
        for r in rows:
            if r["reason"] == reason:
                where = "day unknown" if r["ds"] == UNDATED else r["domain"]
                lost[where] = lost.get(where, 0) + r["rows_in"] - r["rows_out"]
        largest = sorted((d for d in lost if d != "all"), key=lambda d: -lost[d])[:3]
        domains = ", ".join(f"{escape(d)} {lost[d]:,}" for d in largest)
        label = escape(reason or "no reason given")
        notes.append(f"{label}: {sum(lost.values()):,}" + (f" <small>{domains}</small>" if domains else ""))
    if expected is not None and expected != rows_in:
        difference = f"{abs(expected - rows_in):,} {'fewer' if rows_in < expected else 'more'}"
        notes.append(f'<span class="bad">rows in: {difference} than rows out of the previous step</span>')
    left_out = f"{rows_in - rows_out:,}" if rows_in != rows_out else "0"
    below = f'<tr class="why"><td colspan="4">{"".join(f"<div>{n}</div>" for n in notes)}</td></tr>' if notes else ""
    explained = sum(r["rows_in"] - r["rows_out"] for r in rows if r["reason"] and r["ds"] != UNDATED)
    is_marked = rows_in - explained != rows_out and step in ("train", "score", "evaluate")
    kind = ' class="bad"' if is_marked else ""
    cells = f"<td>{rows_in:,}</td><td>{rows_out:,}</td><td{kind}>{left_out}</td>"
    return f"<tr><th>{escape(step)}</th>{cells}</tr>{below}"


def render_training(data: ReportData) -> str:
    """Return a chart of the training loss with that of the previous night, and the training speed.

    Args:
        data: The data of the night.

    Returns:
        The HTML of the section.
    """
    title, record = "Training", data.record
    if not record.get("curve"):
        return render_section(title, '<p class="calm">There is no training record of this night.</p>')
    curve, before = record["curve"], data.record_before.get("curve") or []
    lines = [
        Line([step for step, _ in points], [loss for _, loss in points], kind)
        for points, kind in ((curve, "main"), (before, "before"))
        if points
    ]
    last = max(step for step, _ in [*curve, *before])
    # The high loss of the first tenth would flatten the rest of the curve.
    ceiling = max(loss for _, loss in curve[len(curve) // 10 :])
    labels = [(step, f"{step:,.0f}") for step in sorted({curve[0][0], last // 2, last})]
    facts = [
        ("rows/s", format_number(record.get("rows_per_second"), 0)),
        (
            "waiting for data",
            f"{100 * record['waiting_share']:.1f}%" if "waiting_share" in record else format_number(None),
        ),
        ("duration", format_seconds(record.get("seconds"))),
        ("shuffle quality", format_number(record.get("shuffle_quality"), 2)),
    ]
    shown = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts)
    first = f" The first value, {curve[0][1]:.4f}, is above the scale." if curve[0][1] > ceiling else ""
    previous = f" The faint line is the night of {data.previous_night}." if before else ""
    note = f"Mean log loss of the training rows by step.{previous}{first}"
    plot = draw_lines("Training loss by step", lines, labels, ceiling=ceiling)
    return render_section(title, f'{plot}<dl class="facts">{shown}</dl><p class="note">{note}</p>')


def render_durations(data: ReportData) -> str:
    """Return bars with the durations of the steps of the newest nights."""
    title = "Duration by step"
    steps = list(dict.fromkeys(r["step"] for r in data.step_states))
    seconds: dict[str, dict[str, float]] = {}
    for row in data.step_states:
        if row["seconds"] and row["ds"] <= data.ds:
            seconds.setdefault(row["ds"], {})[row["step"]] = row["seconds"]
    if not seconds:
        return render_section(title, '<p class="calm">The journal has no durations of these nights.</p>')
    bars = [(ds[5:], [by_step.get(step, 0.0) for step in steps]) for ds, by_step in sorted(seconds.items())]
    legend = "".join(f'<li><i class="part p{k}"></i>{escape(step)}</li>' for k, step in enumerate(steps))
    return render_section(
        title, f'{draw_stacked_bars("Seconds by step and night", bars)}<ul class="legend">{legend}</ul>'
    )


def render_states(data: ReportData) -> str:
    """Return a table of the states and durations of the steps by night, and the reasons for states other than done.

    Args:
        data: The data of the night.

    Returns:
        The HTML of the section.
    """
    title = "States of steps by night"
    if not data.step_states:
        return render_section(title, '<p class="calm">The journal has no entries for these settings.</p>')
    steps = list(dict.fromkeys(r["step"] for r in data.step_states))
    body, reasons = [], []
    for ds in sorted({r["ds"] for r in data.step_states}, reverse=True):
        by_step = {r["step"]: r for r in data.step_states if r["ds"] == ds}
        cells = "".join(_render_state(by_step[step]) for step in steps)
        strong = ' class="strong"' if ds == data.ds else ""
        body.append(f"<tr{strong}><th>{format_short_day(ds)}</th>{cells}</tr>")
        reasons += [
            f"<li>{format_short_day(ds)} {r['step']}: {escape(r['reason'])}</li>"
            for r in by_step.values()
            if r["state"] in ("stale", "failed", "interrupted", "running")
        ]
    head = "".join(f"<th>{escape(step)}</th>" for step in steps)
    table = f'<table class="nights"><thead><tr><th>night</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    summary = f"<summary>Stale, failed and running steps: {len(reasons)}</summary>"
    details = f"<details>{summary}<ul>{''.join(reasons)}</ul></details>" if reasons else ""
    note = '<p class="note">Times are the durations of the last run of each step (minutes:seconds).</p>'
    return render_section(title, f'<div class="wide">{table}</div>{details}{note}')


def _render_state(row: Row) -> str:
    """Return the table cell of a step: the duration if it is done, else the state."""
    state = row["state"]
    text = format_clock(row["seconds"]) if state == "done" and row["seconds"] else state
    return f'<td class="state {state}"><span aria-hidden="true">{_SYMBOLS[state]}</span> {text}</td>'


def render_record(data: ReportData) -> str:
    """Return the training record: table versions, code, settings, seed and warm start, collapsed by default.

    Args:
        data: The data of the night.

    Returns:
        The HTML of the section; empty if there is no training record.
    """
    record = data.record
    if not record:
        return ""
    start = record.get("start")
    facts: dict[str, Any] = {
        "run": data.run_id,
        "settings": data.settings_hash,
        "seed": record.get("seed"),
        "code": record.get("code"),
        "tables": _flatten(record.get("versions", {}), " version "),
        "start": f"from {start.get('run_id', '?')}" if start else "from scratch",
        "resumed": "yes, from a checkpoint" if record.get("resumed") else "no",
        "parameters": format_number(record.get("parameters"), 0),
        "steps": format_number(record.get("steps"), 0),
        "rows trained on": format_number(sum(record.get("rows", {}).values()), 0),
        "max score difference": record.get("max_score_difference"),
        "device": f"{record.get('device')}, {record.get('processes')} process(es), torch {record.get('torch')}",
    }
    settings = record.get("settings", {})
    facts |= {name: _flatten(settings[name], "=") for name in _SECTIONS if name in settings}
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v is not None)
    return f'<section><details><summary>Training record</summary><dl class="record">{rows}</dl></details></section>'


def _flatten(values: dict[str, Any], separator: str) -> str:
    """Return pairs of keys and values as one text; values other than texts are formatted as JSON."""
    return ", ".join(f"{k}{separator}{v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items())
