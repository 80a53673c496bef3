"""Metrics by day: how the metrics of a configuration change from day to day.

Reads the tables `metrics`, `final_metrics` and `outcome_metrics` without Spark, which takes about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltalake import DeltaTable

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.domains import domain_sort_key
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError, UserError, suggest_nearest
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import quote_literal, read_rows
from star_ctr.jobs.registry.reference_gaps import find_incomparable_runs, read_gaps
from star_ctr.jobs.tools.outcome_nights import explain_missing_nights, list_evaluated_nights, select_runs

METRICS = ("gauc", "auc", "pcoc", "log_loss", "ece")
DEFAULT_DAYS = 7
"""Number of newest days to return if neither the first nor the last day is given."""
_COLUMNS = (
    "run_id",
    "attempt",
    "ds",
    "domain",
    *METRICS,
    "auc_low",
    "auc_high",
    "gauc_low",
    "gauc_high",
    "open_labels",
)


def run(
    settings: Settings,
    metric: str = "gauc",
    since: str | None = None,
    until: str | None = None,
    run_id: str | None = None,
    outcome: str | None = None,
    conf: str = "FILE",
) -> list[dict[str, Any]]:
    """Compare a metric of each day with that of the previous day in the table.

    Args:
        settings: The settings; by default, runs with these settings and this seed are shown.
        metric: One of METRICS.
        since: The first day; no limit by default.
        until: The last day; no limit by default. If neither limit is given, the newest DEFAULT_DAYS days are shown.
        run_id: A run; shows the runs with the same settings and seed as this one instead.
        outcome: A further outcome of `label.also`; its metrics are shown instead of those of the label.
        conf: The YAML file, as the messages of errors name it.

    Returns:
        One row per day and domain: ds, domain, run_id, value, low and high (the interval), before (the previous day),
        change, outside (whether the day's interval excludes the value of the previous day; None if either is missing),
        provisional (the value with the labels that the night knew; None if none were open) and is_final. `value` is
        the final value once it is known; until then, it equals `provisional`. With the section `reference`, also gap
        (the difference from a model that was trained from scratch; None on nights without a reference, and for `ece`),
        gap_low and gap_high (its interval), and is_gap_comparable (False for PCOC and log loss if only one
        of the two models was calibrated on earlier scores; None on nights without a reference).

    Raises:
        DataError: No night has been evaluated, or no metrics of the outcome have been written yet.
        UserError: The table has no metrics of the run, of the days or of the outcome; or there is no such outcome.
    """
    if outcome is not None and outcome not in settings.label.also:
        declared = ", ".join(settings.label.outcomes) or "none"
        nearest = suggest_nearest(outcome, settings.label.outcomes)
        raise UserError(f"--outcome {outcome}: `label.also` does not declare it{nearest} (declared: {declared})")
    warehouse = Warehouse(settings.paths)
    if not DeltaTable.is_deltatable(warehouse.table("metrics")):
        raise DataError(f"{warehouse.table('metrics')}: no such table yet; run `star-ctr nightly --conf {conf}` first")
    table = warehouse.table("metrics" if outcome is None else "outcome_metrics")
    found = _replace_by_final(_read_table(table, outcome), warehouse.table("final_metrics"))
    if outcome is None:
        evaluated, chosen = {}, select_runs(settings, found, run_id)
    else:
        # The night of `run_id` may have no metrics of the outcome yet.
        evaluated = list_evaluated_nights(settings, run_id)
        chosen = [r for r in found if r["run_id"] in evaluated.values()]
    if not chosen and outcome is not None and evaluated:
        number = f"{len(evaluated)} {'night has' if len(evaluated) == 1 else 'nights have'}"
        reason = explain_missing_nights(settings, outcome, run_id=run_id)
        raise DataError(f"{table}: no metrics of {outcome} yet, although {number} been evaluated: {reason}")
    if not chosen:
        wanted, table = run_id or make_run_id(settings, "DAY"), warehouse.table("metrics")
        newest = ", ".join(sorted({r["run_id"] for r in read_rows(table, columns=["run_id"])})[-5:])
        raise UserError(f"{table}: no metrics of {wanted}. The newest runs are {newest}; pass one of them as --run-id")
    days = sorted({r["ds"] for r in chosen})
    shown = [d for d in days if (since or "") <= d <= (until or d)]
    if not shown:
        limits = f"from {since or 'the first day'} to {until or 'the last day'}"
        reason = explain_missing_nights(settings, outcome, since, until, run_id) if outcome else ""
        reason = f"{reason}; " if reason else ""
        raise UserError(f"{table}: no metrics {limits}; {reason}the available days are {', '.join(days)}")
    shown = shown if since or until else shown[-DEFAULT_DAYS:]
    values = {(r["ds"], r["domain"]): r for r in chosen}
    domains = sorted({r["domain"] for r in chosen if r["ds"] in shown}, key=domain_sort_key)
    rows = [
        _compute_change(values[day, domain], metric, values.get((before, domain)))
        for day, before in zip(days, ["", *days], strict=False)
        if day in shown
        for domain in domains
        if (day, domain) in values
    ]
    return rows if settings.reference is None or outcome is not None else _add_gaps(settings, metric, rows, chosen)


def _read_table(table: str, outcome: str | None) -> list[dict[str, Any]]:
    """Read the metrics of the label or of an outcome; empty if the table does not exist."""
    if not DeltaTable.is_deltatable(table):
        return []
    # A table that an earlier version wrote lacks newer columns, such as those of intervals.
    columns = [f.name for f in DeltaTable(table).schema().fields if f.name in _COLUMNS]
    return read_rows(table, None if outcome is None else f"outcome = {quote_literal(outcome)}", columns)


def _replace_by_final(rows: list[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    """Return rows of `metrics` with the final metrics where they exist.

    Args:
        rows: Rows of `metrics`.
        table: The path of `final_metrics`.

    Returns:
        The rows with `provisional`, the row of `metrics` if labels were open, and `is_final`.
    """
    is_any_open = any(row.get("open_labels") for row in rows)
    final = {(r["run_id"], r.get("attempt"), r["domain"]): r for r in read_rows(table)} if is_any_open else {}
    found = []
    for row in rows:
        is_open = bool(row.get("open_labels"))
        known = final.get((row["run_id"], row.get("attempt"), row["domain"])) if is_open else None
        values = {name: known[name] for name in row if name in known} if known else {}
        found.append({**row, **values, "provisional": row if is_open else None, "is_final": not is_open or bool(known)})
    return found


def _add_gaps(
    settings: Settings, metric: str, rows: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add the difference from the reference of each night to rows of the result."""
    gaps = read_gaps(settings, {row["run_id"]: row.get("attempt") for row in metrics})
    incomparable = find_incomparable_runs(settings, gaps) if metric in ("pcoc", "log_loss") else set()
    known = {(gap["run_id"], gap["domain"]): gap for gap in gaps}
    keys = {"gap": metric, "gap_low": f"{metric}_low", "gap_high": f"{metric}_high"}
    found = []
    for row in rows:
        gap = known.get((row["run_id"], row["domain"]))
        values = {name: gap.get(key) if gap else None for name, key in keys.items()}
        is_comparable = row["run_id"] not in incomparable if gap else None
        found.append({**row, **values, "is_gap_comparable": is_comparable})
    return found


def _compute_change(row: dict[str, Any], metric: str, before: dict[str, Any] | None) -> dict[str, Any]:
    """Return a row of the result from the metrics of a day and of the previous day."""
    value, low, high = row.get(metric), row.get(f"{metric}_low"), row.get(f"{metric}_high")
    # A provisional value has fewer clicks than a final one, so compare it with another provisional value.
    compared = before["provisional"] or before if before and not row["is_final"] else before
    previous: Any = compared.get(metric) if compared else None
    change = value - previous if value is not None and previous is not None else None
    is_inside = low <= previous <= high if change is not None and low is not None and high is not None else None
    return {
        "ds": row["ds"], "domain": row["domain"], "run_id": row["run_id"], "value": value, "low": low, "high": high,
        "before": before["ds"] if before else None,
        "change": change, "outside": None if is_inside is None else not is_inside,
        "provisional": row["provisional"].get(metric) if row["provisional"] else None,
        "is_final": row["is_final"],
    }  # fmt: skip
