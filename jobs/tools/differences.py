"""Differences: how much better one run is than another on the same rows, with intervals, into `differences`.

Both runs get the same draws of the users, so that the interval of their difference is free of what a draw does to
both: it is narrower, often by far, than two intervals laid side by side would suggest.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import domain_sort_key
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import EVIDENCE, INTERVALS, add_intervals, estimate, subtract_estimates
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.quality.score_checks import check_scores

COLUMNS = ("run_id", "reference_run_id", "ds", "domain", "auc", *INTERVALS[:2], "gauc", *INTERVALS[2:], *EVIDENCE)


def compare_runs(store: WarehouseTables, settings: Settings, run_id: str, against: str) -> list[dict[str, Any]]:
    """Write and return AUC and GAUC of `run_id` less those of `against`, one row a domain, `overall` last.

    Both must stand in `scores` with the same impressions; `DataError` with counts where they do not. Intervals are
    configured in the settings section `evaluate`; null if undefined or without replicates. EVIDENCE holds the inputs of
    significance tests: the standard error of the GAUC difference, and its effective number of users.
    """
    if run_id == against:
        raise DataError(f"{run_id}: a run does not differ from itself; name another one")
    scores = store.read("scores").where(F.col("run_id").isin(run_id, against)).persist()
    try:
        ds = _check_same_rows(store, scores, run_id, against)
        check_scores(scores, store.warehouse.table("scores"))
        found = subtract_estimates(estimate(scores, settings.evaluate), run_id, against)
        rows = add_intervals(found, settings.evaluate.level).select(
            F.lit(run_id).alias("run_id"), F.lit(against).alias("reference_run_id"), F.lit(ds).alias("ds"), *COLUMNS[3:]
        )
        where = f"{make_in_condition('run_id', [run_id])} AND {make_in_condition('against', [against])}"
        store.replace("differences", rows.coalesce(1), where)
    finally:
        scores.unpersist()
    return read_differences(store, run_id, against)


def read_differences(store: WarehouseTables, run_id: str, against: str) -> list[dict[str, Any]]:
    """The differences of two runs that were written; domains in their order, `overall` last."""
    table = store.read("differences")
    found = table.where((F.col("run_id") == run_id) & (F.col("reference_run_id") == against)).select(*COLUMNS).collect()
    return sorted((r.asDict() for r in found), key=lambda r: domain_sort_key(r["domain"]))


def _check_same_rows(store: WarehouseTables, scores: DataFrame, run_id: str, against: str) -> str:
    """The day of two runs' rows; `DataError` unless they are the same impressions, of one user, domain and label."""
    of = {"ours": run_id, "theirs": against}
    rows = scores.groupBy("impression_id").agg(
        *(F.count_if(F.col("run_id") == name).alias(side) for side, name in of.items()),
        F.count_distinct("ds", "user_id", "domain", "label").alias("kinds"),
        F.min("ds").alias("ds"),
    )
    found = rows.agg(
        *(F.coalesce(F.sum(side), F.lit(0)).alias(side) for side in of),
        F.count_if((F.col("ours") > 0) & (F.col("theirs") == 0)).alias("ours_alone"),
        F.count_if((F.col("theirs") > 0) & (F.col("ours") == 0)).alias("theirs_alone"),
        F.count_if((F.col("ours") > 1) | (F.col("theirs") > 1)).alias("repeated"),
        F.count_if((F.col("ours") > 0) & (F.col("theirs") > 0) & (F.col("kinds") > 1)).alias("unlike"),
        F.min("ds").alias("ds"),
    ).first()
    assert found is not None
    table = store.warehouse.table("scores")
    for side, name in of.items():
        if found[side] == 0:
            raise DataError(f"{table}: no scores of {name}; run `star-ctr score` for it first")
    if found.ours_alone or found.theirs_alone or found.repeated or found.unlike:
        raise DataError(
            f"{table}: {run_id} ({found.ours:,} rows) and {against} ({found.theirs:,}) scored different rows: "
            f"{found.ours_alone:,} impressions of the first alone, {found.theirs_alone:,} of the second alone, "
            f"{found.repeated:,} twice, {found.unlike:,} with another day, user, domain or label; "
            "score both on one split of the same night"
        )
    return str(found.ds)
