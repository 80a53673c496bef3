"""Metrics of earlier nights whose labels were open when they were evaluated, computed again with final labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import hash_label_settings
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.features.evaluation.metrics import METRICS, OPEN_LABELS, compute_metrics
from star_ctr.features.evaluation.reliability import RELIABILITY
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.label_records import AS_OF, CLOSES, LABEL_HASH, LABEL_SETTINGS
from star_ctr.jobs.io.label_records import PART as LABELS
from star_ctr.jobs.io.table_hashes import HASH
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition

_logger = logging.getLogger(__name__)
RUN = ("run_id", "attempt", "ds", "model", "seed")
RUN_SCHEMA = "run_id string, attempt long, ds string, model string, seed long"


def write_final_metrics(store: WarehouseTables, ds: str, evaluate: EvaluateSettings) -> list[str]:
    """Compute the final metrics of nights before `ds` with provisional metrics, once all of their labels are final.

    Args:
        store: The tables.
        ds: The night that computes them.
        evaluate: The settings of the intervals.

    Returns:
        The runs whose final metrics were written, sorted.
    """
    definition, records = hash_label_settings(store.settings), DayRecords(store.settings).read(LABELS)
    closed = {
        day: found.outputs.get(LABEL_HASH, found.outputs[HASH])
        for day, found in records.items()
        if day < ds and found.outputs[CLOSES] <= found.outputs[AS_OF] and found.outputs[LABEL_SETTINGS] == definition
    }
    if not closed:
        return []
    is_provisional = F.col("ds").isin(list(closed)) & (F.col("domain") == OVERALL) & (F.col(OPEN_LABELS) > 0)
    metrics = store.read("metrics").where(is_provisional & (F.col("label_settings") == definition))
    done: set[tuple[str, int | None, str]] = set()
    if store.exists("final_metrics"):
        done = {(r.run_id, r.attempt, r.labels) for r in store.read("final_metrics").collect()}
    # Labels that have changed since, for example because clicks were delivered again, give other final metrics.
    runs = [
        row for row in metrics.select(*RUN, "rows").collect() if (row.run_id, row.attempt, closed[row.ds]) not in done
    ]
    if not runs:
        return []
    scores = _label(store, runs, list(closed)).persist()
    try:
        counts = {row.run_id: row["count"] for row in scores.groupBy("run_id").count().collect()}
        complete = [row for row in sorted(runs, key=lambda r: r.run_id) if counts.get(row.run_id) == row.rows]
        names = [row.run_id for row in complete]
        if incomplete := sorted({row.run_id for row in runs} - {*names}):
            # For example, `star-ctr clean` has deleted the scores.
            _logger.warning("no final metrics for %s: scores or labels are missing", ", ".join(incomplete))
        if not complete:
            return []
        described = store.spark.createDataFrame(
            [(*row[: len(RUN)], ds, closed[row.ds]) for row in complete], f"{RUN_SCHEMA}, as_of string, labels string"
        )
        final = compute_metrics(scores.where(F.col("run_id").isin(names)), evaluate)
        columns = (*RUN, "domain", *METRICS, RELIABILITY, *INTERVALS, "as_of", "labels")
        final = final.join(F.broadcast(described), "run_id").select(*columns)
        store.replace("final_metrics", final.repartition(1), make_in_condition("run_id", names))
    finally:
        scores.unpersist()
    _logger.info("wrote the final metrics of %s", ", ".join(names))
    return names


def remove_final_metrics(store: WarehouseTables, runs: Sequence[str]) -> None:
    """Remove metrics that later nights computed for runs that are evaluated again: their scores may have changed."""
    for table in ("final_metrics", "outcome_metrics"):
        if store.exists(table) and any(p["run_id"] in runs for p in store.list_partitions(table)):
            store.replace(table, store.read(table).limit(0), make_in_condition("run_id", runs))


def _label(store: WarehouseTables, runs: Sequence[Row], days: list[str]) -> DataFrame:
    """Return the scores of runs with the current labels; each run has the columns `run_id` and `attempt`."""
    scores = read_scores(store, runs).drop("label", "label_final")
    labels = store.read("labels").where(F.col("ds").isin(days)).select("ds", "impression_id", "label", "is_final")
    return scores.join(labels.withColumnRenamed("is_final", "label_final"), ["ds", "impression_id"])


def read_scores(store: WarehouseTables, runs: Sequence[Row]) -> DataFrame:
    """Read the scores of runs, each given by a row with `run_id` and `attempt`."""
    wanted = store.spark.createDataFrame([(r.run_id, r.attempt) for r in runs], "_run string, _attempt long")
    is_wanted = (F.col("run_id") == F.col("_run")) & F.col("attempt").eqNullSafe(F.col("_attempt"))
    scores = store.read("scores").where(F.col("run_id").isin([r.run_id for r in runs]))
    return scores.join(F.broadcast(wanted), is_wanted, "left_semi")
