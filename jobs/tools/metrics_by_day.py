"""Days: a configuration's metrics day over day, read from `metrics` without Spark, so that a look costs a second."""

from __future__ import annotations

from typing import Any

from deltalake import DeltaTable

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.encoded_row import domain_sort_key
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import read_rows

METRICS = ("gauc", "auc", "pcoc", "log_loss")
DEFAULT_DAYS = 7
_COLUMNS = ("run_id", "ds", "domain", *METRICS, "auc_low", "auc_high", "gauc_low", "gauc_high")


def run(
    settings: Settings, metric: str = "gauc", since: str | None = None, until: str | None = None, of: str | None = None
) -> list[dict[str, Any]]:
    """One row a day and domain: the metric, its interval and its change against the last day before in the table.

    Of the runs by these settings (with their seed), or by those of run `of`. `since`, `until`: the first and last day;
    the newest seven days if neither is given. Rows: ds, domain, run_id, value, low, high, before (the day), change, and
    outside: whether the day's interval leaves out the value of the day before (None where either is missing).
    """
    table = Warehouse(settings.paths).table("metrics")
    if not DeltaTable.is_deltatable(table):
        raise DataError(f"{table}: no such table yet; run `star-ctr nightly` first")
    # A table that was written before there were intervals lacks their columns.
    there = [f.name for f in DeltaTable(table).schema().fields if f.name in _COLUMNS]
    found = read_rows(table, columns=there)
    if of is None:
        chosen = [r for r in found if r["run_id"] == make_run_id(settings, r["ds"])]
    else:
        same = next((of.removeprefix(r["ds"]) for r in found if r["run_id"] == of), None)
        chosen = [r for r in found if r["run_id"] == f"{r['ds']}{same}"]
    if not chosen:
        wanted = of or make_run_id(settings, "DAY")
        there = sorted({r["run_id"] for r in found})
        raise UserError(f"{table}: no metrics of {wanted}; it holds {', '.join(there[-5:])}; name one by --run-id")
    days = sorted({r["ds"] for r in chosen})
    shown = [d for d in days if (since or "") <= d <= (until or d)]
    if not shown:
        asked = f"from {since or 'the first'} to {until or 'the last'}"
        raise UserError(f"{table}: no day {asked}; it holds {', '.join(days)}")
    shown = shown if since or until else shown[-DEFAULT_DAYS:]
    values = {(r["ds"], r["domain"]): r for r in chosen}
    domains = sorted({r["domain"] for r in chosen if r["ds"] in shown}, key=domain_sort_key)
    return [
        _compute_change(values[day, domain], metric, values.get((before, domain)))
        for day, before in zip(days, ["", *days], strict=False)
        if day in shown
        for domain in domains
        if (day, domain) in values
    ]


def _compute_change(row: dict[str, Any], metric: str, before: dict[str, Any] | None) -> dict[str, Any]:
    value, low, high = row[metric], row.get(f"{metric}_low"), row.get(f"{metric}_high")
    last: Any = before[metric] if before else None
    change = value - last if value is not None and last is not None else None
    covered = low <= last <= high if change is not None and low is not None and high is not None else None
    return {
        "ds": row["ds"], "domain": row["domain"], "run_id": row["run_id"], "value": value, "low": low, "high": high,
        "before": before["ds"] if before else None,
        "change": change, "outside": None if covered is None else not covered,
    }  # fmt: skip
