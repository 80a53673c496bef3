"""Terminal output: progress of the steps, tables of results, and results as JSON."""

from __future__ import annotations

import datetime as dt
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from star_ctr.conf.contracts.dates import UNDATED
from star_ctr.conf.contracts.domains import OVERALL, domain_sort_key

if TYPE_CHECKING:  # commands without Spark must not wait for its import
    from pyspark import SparkContext

stdout = Console()
"""Standard output, for results."""
stderr = Console(stderr=True)
"""Standard error, for progress and notes."""


@contextmanager
def show_step(name: str, context: SparkContext | None) -> Iterator[None]:
    """Show the progress of a step inside the block, and its duration at the end.

    Args:
        name: Name of the step. The progress of `train` is not shown, because the trainer has its own progress bar.
        context: The Spark context whose tasks are counted; None to show only the name.
    """
    start = time.monotonic()
    done = threading.Event()
    with stderr.status(f"{name} …") as status:

        def update_status() -> None:
            while context is not None and not done.wait(0.5):
                status.update(f"{name} … {_count_tasks(context)}{time.monotonic() - start:.0f} s")

        thread = threading.Thread(target=update_status, daemon=True)
        if name != "train":
            thread.start()
        else:
            status.stop()
        try:
            yield
        except BaseException as error:
            how = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            stderr.print(f"[red]✗[/] {name:<10} {how} after {time.monotonic() - start:.1f} s")
            raise
        finally:
            done.set()
    stderr.print(f"[green]✓[/] {name:<10} {time.monotonic() - start:6.1f} s")


def _count_tasks(context: SparkContext) -> str:
    """Return the finished and all tasks of the active stages as text; empty if there are none."""
    tracker = context.statusTracker()
    finished = total = 0
    for stage in tracker.getActiveStageIds():
        info = tracker.getStageInfo(stage)
        if info is not None:
            finished, total = finished + info.numCompletedTasks, total + info.numTasks
    return f"{finished}/{total} tasks, " if total else ""


def make_metrics_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Return a table of the metrics of a night, one row per domain.

    AUC and GAUC are followed by half the width of their confidence intervals, if there are intervals.

    Args:
        rows: Rows of the table `metrics`.
        title: Title of the table; the run id of the first row by default.
    """
    table = make_narrow(Table(title=title or rows[0]["run_id"], title_justify="left"))
    columns = {
        "domain": "domain", "rows": "rows", "users": "users", "clicks": "clicks", "AUC": "auc",
        "GAUC": "gauc", "PCOC": "pcoc", "log loss": "log_loss",
    }  # fmt: skip
    for name, key in columns.items():
        # In a narrow terminal, wrap an interval below its metric.
        table.add_column(name, justify="left" if key == "domain" else "right", no_wrap=key not in ("auc", "gauc"))
    is_open = sum(row.get("open_labels") or 0 for row in rows if row["domain"] == OVERALL)
    if is_open:
        table.caption, table.caption_justify = f"provisional: {is_open:,} labels are still open", "left"
    for row in rows:
        style = "bold" if row["domain"] == OVERALL else None
        table.add_row(*(format_cell(row[key]) + _format_interval(row, key) for key in columns.values()), style=style)
    return table


def make_narrow(table: Table) -> Table:
    """Remove the lines between columns, so that the table fits into 80 characters."""
    table.box, table.show_edge, table.pad_edge, table.collapse_padding = SIMPLE_HEAD, False, False, True
    return table


def _format_interval(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "" if low is None or high is None else f" ±{(high - low) / 2:.4f}".replace("0.", ".", 1)


def make_days_table(rows: Sequence[Mapping[str, Any]], metric: str, outcome: str | None = None) -> Group:
    """Return a table of one metric by domain and day, with the change since the previous day.

    A change for the better is green (a higher AUC or GAUC, a lower log loss or ECE, a PCOC closer to 1), one for the
    worse is red. A `*` marks days whose confidence interval does not contain the value of the previous day. Seven days
    fit into 80 characters.

    Args:
        rows: Rows of `metrics_by_day.run`.
        metric: Name of the metric.
        outcome: Name of the further outcome that the metric is of; None for the label.
    """
    days = sorted({r["ds"] for r in rows})
    notes = ["* the previous day's value lies outside this day's interval"] if any(r["outside"] for r in rows) else []
    notes += ["~ provisional: some labels are still open"] if any(not r["is_final"] for r in rows) else []
    caption = "\n".join(notes) or None
    run = rows[-1]["run_id"].removeprefix(f"{days[-1]}-")
    # Not the title of the table, which would be wrapped to the width of the table.
    of = f"{outcome}, {run}" if outcome else run
    title = Text(f"{metric} of {of}, {days[0]} to {days[-1]}")
    table = make_narrow(Table(caption=caption, caption_justify="left"))
    table.add_column("domain")
    for day in days:
        table.add_column(day.removeprefix(f"{days[-1][:4]}-"), justify="right")
    cells = {(r["domain"], r["ds"]): _format_change(r, metric) for r in rows}
    for domain in dict.fromkeys(r["domain"] for r in sorted(rows, key=lambda r: domain_sort_key(r["domain"]))):
        style = "bold" if domain == OVERALL else None
        table.add_row(domain, *(cells.get((domain, day), "–") for day in days), style=style)
    return Group(title, table)


def _format_change(row: Mapping[str, Any], metric: str) -> str:
    value, change = row["value"], row["change"]
    mark = "" if row["is_final"] else "~"
    if value is None or change is None:
        return mark + format_cell(value)
    improvement = {"pcoc": abs(value - change - 1) - abs(value - 1), "log_loss": -change, "ece": -change}.get(
        metric, change
    )
    arrow = "▲" if change > 0 else "▼" if change < 0 else "="
    color = "green" if improvement > 0 else "red" if improvement < 0 else "dim"
    size = f"{abs(change):.4f}".removeprefix("0")
    return f"{mark}{value:.4f} [{color}]{arrow}{size}[/]{'*' if row['outside'] else ' '}"


def make_comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the overall metrics of compared models, highest GAUC first.

    Args:
        rows: Rows of metrics with the name of the model in `compared`. Metrics are averaged over nights and seeds.
    """
    overall: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["domain"] == "overall":
            overall.setdefault(row["compared"], []).append(row)
    names = ("auc", "gauc", "pcoc", "log_loss")
    means = [
        {"model": model, "runs": len(runs), **{n: sum(r[n] for r in runs) / len(runs) for n in names}}
        for model, runs in overall.items()
    ]
    return make_table(sorted(means, key=lambda r: -r["gauc"]), ["model", "runs", *names])


_STATES = {
    "done": "green", "stale": "yellow", "running": "cyan", "failed": "red", "interrupted": "red", "missing": "dim",
    "removed": "dim",
}  # fmt: skip
"""Color of each state."""


def make_status_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Return a table of states by night and step, followed by the reasons of stale, failed and running steps.

    A third table lists the days that unfinished steps would compute, with one line per range of consecutive days.

    Args:
        rows: Rows of `status.run`.
    """
    steps = list(dict.fromkeys(r["step"] for r in rows))
    table, reasons = make_narrow(Table()), Table("night", "step", "reason", box=None)
    for column in ("night", *steps):
        table.add_column(column, no_wrap=True)
    for column in reasons.columns[:2]:
        column.no_wrap = True
    for ds in dict.fromkeys(r["ds"] for r in rows):
        by_step = {r["step"]: r for r in rows if r["ds"] == ds}
        table.add_row(ds, *(Text(by_step[s]["state"], style=_STATES[by_step[s]["state"]]) for s in steps))
        for r in by_step.values():
            if r["state"] in ("stale", "failed", "interrupted", "running"):
                reasons.add_row(ds, r["step"], Text(r["reason"]))
    days = Table("night", "part", "days", "reason", box=None)
    for column in days.columns[:3]:
        column.no_wrap = True
    for r in rows:
        for part, span, reason in _join_days(r.get("days", [])):
            days.add_row(r["ds"], part, span, Text(reason))
    return Group(table, *(shown for shown in (reasons, days) if shown.rows))


def _join_days(days: Sequence[Mapping[str, str]]) -> list[tuple[str, str, str]]:
    """Return the part, days and reason of each range of consecutive days with the same part and reason."""
    spans: list[tuple[str, list[str], str]] = []
    for part, day, reason in ((d["part"], d["day"], d["reason"]) for d in days):
        if spans and spans[-1][0] == part and spans[-1][2] == reason and _is_next_day(spans[-1][1][-1], day):
            spans[-1][1].append(day)
        else:
            spans.append((part, [day], reason))
    return [(part, found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}", why) for part, found, why in spans]


def _is_next_day(day: str, other: str) -> bool:
    if day in UNDATED or other in UNDATED:
        return False
    return dt.date.fromisoformat(day) + dt.timedelta(days=1) == dt.date.fromisoformat(other)


def make_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> Table:
    """Return a table with the given columns of `rows`.

    Columns with numbers are right-aligned. Run ids are not broken, so that they can be copied.
    """
    table = Table(title=title, title_justify="left")
    for column in columns:
        has_numbers = any(isinstance(r.get(column), int | float) for r in rows)
        justify: Literal["right", "left"] = "right" if has_numbers else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column == "run_id")
    for row in rows:
        # Text, because brackets in values could be read as markup.
        table.add_row(*(Text(format_cell(row.get(column))) for column in columns))
    return table


def make_decisions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of decisions, with several lines per decision, so that run ids and reasons stay readable."""
    table = Table("at (UTC)", "night", "decision", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        outcome = Text(f"{row['outcome']} ({row['by']})", style="bold")
        run = Text(f"{row['run_id']} (attempt {row['attempt']})", no_wrap=True)
        table.add_row(row["at"], row["ds"], Group(outcome, run, Text(row["reason"])))
    return table


def format_cell(value: Any) -> str:
    """Return a value as a cell of a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_json(rows: Any, target: str | None) -> None:
    """Write a result as JSON.

    Args:
        rows: The result.
        target: Path of the file; `-` for standard output, None to write nothing.
    """
    if target is None:
        return
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(text, encoding="utf-8")
