"""Table of the gaps between nights and their references, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from star_ctr.conf.contracts.domains import domain_sort_key
from star_ctr.jobs.registry.reference_gaps import NOT_COMPARABLE
from star_ctr.workflows.terminal import make_narrow


def make_gaps_table(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Text | Table]:
    """Return a table of gaps by domain and night, with its title; empty if no night has a reference.

    A `*` marks gaps whose interval does not contain 0, unless they are not comparable. A `~` marks gaps that were
    computed while some labels were open.

    Args:
        rows: Rows of `metrics_by_day.run`.
        metric: Name of the metric.
    """
    with_gap = [row for row in rows if row.get("gap") is not None]
    if not with_gap:
        return []
    nights = sorted({row["ds"] for row in with_gap})
    by_domain: dict[str, dict[str, str]] = {}
    for row in with_gap:
        by_domain.setdefault(row["domain"], {})[row["ds"]] = _format_gap(row)
    notes = []
    if any(_is_provisional(row) for row in with_gap):
        notes.append("~ computed while some labels were open; gaps are not recomputed")
    if incomparable := sorted({row["ds"] for row in with_gap if not row["is_gap_comparable"]}):
        days = "" if incomparable == nights else f"{', '.join(night[5:] for night in incomparable)}: "
        notes.append(f"{days}{NOT_COMPARABLE}")
    table = make_narrow(Table("domain"))
    for night in nights:
        table.add_column(night[5:], justify="right")
    for domain in sorted(by_domain, key=domain_sort_key):
        table.add_row(domain, *(by_domain[domain].get(night, "–") for night in nights))
    title = Text(f"{metric} minus that of a model trained from scratch (*: the interval does not contain 0)")
    # Not the caption of the table, which would be wrapped to the width of the table.
    return [title, table, *map(Text, notes)]


def explain_missing_gaps(metric: str, outcome: str | None) -> str:
    """Return why there are no gaps in a metric although nights have references; empty if there may be some."""
    if outcome is None and metric != "ece":
        return ""
    shown = f"the outcome {outcome}" if outcome else metric
    return f"no gaps for {shown}: they are computed for gauc, auc, pcoc and log_loss of the label"


def _is_provisional(row: Mapping[str, Any]) -> bool:
    """Return whether labels were open when a gap was computed. Unlike metrics, gaps are not computed again."""
    return row["provisional"] is not None


def _format_gap(row: Mapping[str, Any]) -> str:
    low, high = row["gap_low"], row["gap_high"]
    is_significant = low is not None and high is not None and (low > 0 or high < 0)
    mark = "*" if is_significant and row["is_gap_comparable"] else ""
    return f"{'~' if _is_provisional(row) else ''}{row['gap']:+.4f}{mark}"
