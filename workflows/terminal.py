"""What the terminal shows: the steps of a night with their time, and tables of results."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from star_ctr.conf.contracts.encoded_row import OVERALL, domain_sort_key

if TYPE_CHECKING:  # what needs no Spark is not to wait for its import
    from pyspark import SparkContext

out = Console()
err = Console(stderr=True)


@contextmanager
def show_step(name: str, context: SparkContext | None) -> Iterator[None]:
    """Show a step while it runs, with the progress of Spark's tasks, and its time when it is done."""
    began = time.monotonic()
    done = threading.Event()
    with err.status(f"{name} …") as status:

        def watch() -> None:
            while context is not None and not done.wait(0.5):
                status.update(f"{name} … {_count_tasks(context)}{time.monotonic() - began:.0f} s")

        watcher = threading.Thread(target=watch, daemon=True)
        # The trainer draws a bar of its own.
        if name != "train":
            watcher.start()
        else:
            status.stop()
        try:
            yield
        except BaseException:
            err.print(f"[red]✗[/] {name:<10} failed after {time.monotonic() - began:.1f} s")
            raise
        finally:
            done.set()
    err.print(f"[green]✓[/] {name:<10} {time.monotonic() - began:6.1f} s")


def _count_tasks(context: SparkContext) -> str:
    tracker = context.statusTracker()
    finished = total = 0
    for stage in tracker.getActiveStageIds():
        info = tracker.getStageInfo(stage)
        if info is not None:
            finished, total = finished + info.numCompletedTasks, total + info.numTasks
    return f"{finished}/{total} tasks, " if total else ""


def make_metrics_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """The metrics of a night by domain; AUC and GAUC with half the width of their intervals where there are any."""
    table = _narrow(Table(title=title or rows[0]["run_id"], title_justify="left"))
    columns = {
        "domain": "domain", "rows": "rows", "users": "users", "clicks": "clicks", "AUC": "auc",
        "GAUC": "gauc", "PCOC": "pcoc", "log loss": "log_loss",
    }  # fmt: skip
    for name, key in columns.items():
        # In a narrow terminal an interval stands below its number.
        table.add_column(name, justify="left" if key == "domain" else "right", no_wrap=key not in ("auc", "gauc"))
    for row in rows:
        style = "bold" if row["domain"] == OVERALL else None
        table.add_row(*(_format_cell(row[key]) + _format_spread(row, key) for key in columns.values()), style=style)
    return table


def _narrow(table: Table) -> Table:
    """Without lines between columns, so that it fits 80 of them."""
    table.box, table.show_edge, table.pad_edge, table.collapse_padding = SIMPLE_HEAD, False, False, True
    return table


def _format_spread(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "" if low is None or high is None else f" ±{(high - low) / 2:.4f}".replace("0.", ".", 1)


def make_days_table(rows: Sequence[Mapping[str, Any]], metric: str) -> Group:
    """A metric by domain and day, each with its change against the day before; seven days fit 80 columns.

    Green is better (a higher AUC, a lower log loss, a PCOC nearer to 1), red worse; * where the day's interval leaves
    out the value of the day before.
    """
    days = sorted({r["ds"] for r in rows})
    caption = "* the day before lies outside the day's interval" if any(r["outside"] for r in rows) else None
    run = rows[-1]["run_id"].removeprefix(f"{days[-1]}-")
    title = Text(f"{metric} of {run}, {days[0]} to {days[-1]}")  # above the table, which would wrap it to its width
    table = _narrow(Table(caption=caption, caption_justify="left"))
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
    if value is None or change is None:
        return _format_cell(value)
    better = {"pcoc": abs(value - change - 1) - abs(value - 1), "log_loss": -change}.get(metric, change)
    arrow = "▲" if change > 0 else "▼" if change < 0 else "="
    colour = "green" if better > 0 else "red" if better < 0 else "dim"
    told = f"{abs(change):.4f}".removeprefix("0")
    return f"{value:.4f} [{colour}]{arrow}{told}[/]{'*' if row['outside'] else ' '}"


def make_comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The overall metrics of compared models, as means over their nights and seeds, the best GAUC first."""
    overall: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["domain"] == "overall":
            overall.setdefault(row["compared"], []).append(row)
    names = ("auc", "gauc", "pcoc", "log_loss")
    means = [
        {"model": m, "runs": len(of), **{n: sum(r[n] for r in of) / len(of) for n in names}}
        for m, of in overall.items()
    ]
    return make_table(sorted(means, key=lambda r: -r["gauc"]), ["model", "runs", *names])


_STATES = {"done": "green", "stale": "yellow", "running": "cyan", "failed": "red", "missing": "dim", "removed": "dim"}


def make_status_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Nights x steps by their states, and below why those are not done that something can be said of."""
    steps = list(dict.fromkeys(r["step"] for r in rows))
    table, why = _narrow(Table()), Table("night", "step", "why", box=None)
    for column in ("night", *steps):
        table.add_column(column, no_wrap=True)
    for column in why.columns[:2]:
        column.no_wrap = True
    for ds in dict.fromkeys(r["ds"] for r in rows):
        of_night = {r["step"]: r for r in rows if r["ds"] == ds}
        table.add_row(ds, *(Text(of_night[s]["state"], style=_STATES[of_night[s]["state"]]) for s in steps))
        for r in of_night.values():
            if r["state"] in ("stale", "failed", "running"):
                why.add_row(ds, r["step"], Text(r["why"]))
    return Group(table, why) if why.rows else Group(table)


def make_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> Table:
    """A table of some columns of `rows`."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        numbers = any(isinstance(r.get(column), int | float) for r in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_format_cell(row.get(column)) for column in columns))
    return table


def _format_cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def format_records(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of any table, one below the other, a line a column: wide ones stay readable."""
    table = Table("column", "value", show_header=False, title_justify="left", title=f"{len(rows)} rows")
    for row in rows:
        for column, value in row.items():
            table.add_row(column, str(value))
        table.add_section()
    return table


def write_json(rows: Any, target: str | None) -> None:
    """Write rows as JSON to a file, or to standard output for `-`; nothing where no target is given."""
    if target is None:
        return
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(text, encoding="utf-8")
