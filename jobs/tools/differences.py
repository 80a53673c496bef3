"""Differences: compare two runs on the same rows, and write the differences with intervals to `differences`.

Both runs use the same bootstrap samples of users. Sampling noise common to both runs cancels in their difference, so
its interval is narrower, often much narrower, than the intervals of the two runs suggest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.domains import domain_sort_key
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import (
    ALL_METRICS,
    INTERVALS,
    RANKING_METRICS,
    TEST_INPUTS,
    add_intervals,
    estimate,
    subtract_estimates,
)
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.quality.score_checks import check_scores

COLUMNS = ("run_id", "reference_run_id", "ds", "domain", "auc", *INTERVALS[:2], "gauc", *INTERVALS[2:], *TEST_INPUTS)

CALIBRATION = tuple(f"{metric}{end}" for metric in ALL_METRICS[len(RANKING_METRICS) :] for end in ("", "_low", "_high"))
"""Columns of the differences in PCOC and log loss, and their intervals."""


def compare_runs(
    store: WarehouseTables,
    settings: Settings,
    run_id: str,
    reference: str,
    metrics: Sequence[str] = RANKING_METRICS,
    more: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Compute the metrics of a run minus those of a reference run, and write them to `differences`.

    Args:
        store: The tables of the warehouse. `scores` must contain both runs, with the same impressions.
        settings: The settings; the section `evaluate` configures the intervals.
        run_id: The run.
        reference: The run to compare it with.
        metrics: RANKING_METRICS (AUC and GAUC, eq. 9) or ALL_METRICS, which adds the columns CALIBRATION.
        more: Values of additional columns, by name.

    Returns:
        The written rows, one per domain and `overall` last. Intervals are null if they are undefined or if there are no
        bootstrap samples. TEST_INPUTS contains the inputs of significance tests: the standard error of the GAUC
        difference, and its effective number of users.

    Raises:
        DataError: The runs are the same, did not score the same rows, or have invalid scores or labels.
    """
    if run_id == reference:
        raise DataError(f"{run_id}: cannot compare a run with itself; name another run")
    calibration, further = CALIBRATION if tuple(metrics) == ALL_METRICS else (), more or {}
    scores = store.read("scores").where(F.col("run_id").isin(run_id, reference)).persist()
    try:
        ds = _check_same_rows(store, scores, run_id, reference)
        check_scores(scores, store.warehouse.table("scores"))
        estimated = estimate(scores, settings.evaluate, metrics)
        found = subtract_estimates(estimated, run_id, reference, metrics)
        rows = add_intervals(found, settings.evaluate.level, metrics).select(
            F.lit(run_id).alias("run_id"),
            F.lit(reference).alias("reference_run_id"),
            F.lit(ds).alias("ds"),
            *COLUMNS[3:],
            *calibration,
            *(F.lit(value).alias(name) for name, value in further.items()),
        )
        where = f"{make_in_condition('run_id', [run_id])} AND {make_in_condition('reference_run_id', [reference])}"
        store.replace("differences", rows.coalesce(1), where)
    finally:
        scores.unpersist()
    return read_differences(store, run_id, reference, (*COLUMNS, *calibration, *further))


def read_differences(
    store: WarehouseTables, run_id: str, reference: str, columns: Sequence[str] = COLUMNS
) -> list[dict[str, Any]]:
    """Read the written differences of two runs: one row per domain, sorted, `overall` last."""
    table = store.read("differences")
    rows = table.where((F.col("run_id") == run_id) & (F.col("reference_run_id") == reference))
    found = rows.select(*columns).collect()
    return sorted((r.asDict() for r in found), key=lambda r: domain_sort_key(r["domain"]))


def _check_same_rows(store: WarehouseTables, scores: DataFrame, run_id: str, reference: str) -> str:
    """Check that two runs scored the same impressions, with the same day, user, domain and label.

    Returns:
        The day of the rows.

    Raises:
        DataError: The rows differ; the message contains counts.
    """
    runs = {"ours": run_id, "theirs": reference}
    rows = scores.groupBy("impression_id").agg(
        *(F.count_if(F.col("run_id") == name).alias(side) for side, name in runs.items()),
        F.count_distinct("ds", "user_id", "domain", "label").alias("kinds"),
        F.min("ds").alias("ds"),
    )
    found = rows.agg(
        *(F.coalesce(F.sum(side), F.lit(0)).alias(side) for side in runs),
        F.count_if((F.col("ours") > 0) & (F.col("theirs") == 0)).alias("ours_alone"),
        F.count_if((F.col("theirs") > 0) & (F.col("ours") == 0)).alias("theirs_alone"),
        F.count_if((F.col("ours") > 1) | (F.col("theirs") > 1)).alias("repeated"),
        F.count_if((F.col("ours") > 0) & (F.col("theirs") > 0) & (F.col("kinds") > 1)).alias("unlike"),
        F.min("ds").alias("ds"),
    ).first()
    assert found is not None
    table = store.warehouse.table("scores")
    for side, name in runs.items():
        if found[side] == 0:
            raise DataError(f"{table}: no scores of {name}; run `star-ctr score` for this run first")
    if found.ours_alone or found.theirs_alone or found.repeated or found.unlike:
        raise DataError(
            f"{table}: {run_id} ({found.ours:,} rows) and {reference} ({found.theirs:,} rows) scored different rows: "
            f"{found.ours_alone:,} impressions only in the first run, {found.theirs_alone:,} only in the second, "
            f"{found.repeated:,} more than once, {found.unlike:,} with a different day, user, domain or label. "
            "Score both runs on the same split of one night"
        )
    return str(found.ds)
