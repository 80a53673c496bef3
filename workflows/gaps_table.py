"""Table of the gaps between nights and their references, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from star_ctr.conf.contracts.domains import domain_sort_key
from star_ctr.workflows.terminal import make_narrow


def make_gaps_table(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Text | Table]:
    """Return a table of gaps by domain and night, with its title; empty if no night has a reference.

    A `*` marks gaps whose interval does not contain 0.

    Args:
        rows: Rows of `metrics_by_day.run`.
        metric: Name of the metric.
    """
    nights = sorted({row["ds"] for row in rows if row.get("gap") is not None})
    if not nights:
        return []
    by_domain: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.get("gap") is not None:
            by_domain.setdefault(row["domain"], {})[row["ds"]] = _format_gap(row)
    domains = sorted(by_domain, key=domain_sort_key)
    table = make_narrow(Table("domain"))
    for night in nights:
        table.add_column(night[5:], justify="right")
    for domain in domains:
        table.add_row(domain, *(by_domain[domain].get(night, "–") for night in nights))
    return [Text(f"{metric} minus that of a model trained from scratch (*: the interval does not contain 0)"), table]


def _format_gap(row: Mapping[str, Any]) -> str:
    low, high = row["gap_low"], row["gap_high"]
    is_significant = low is not None and high is not None and (low > 0 or high < 0)
    return f"{row['gap']:+.4f}{'*' if is_significant else ''}"
