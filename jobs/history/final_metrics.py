"""Metrics of earlier nights whose labels were open when they were evaluated, computed again with final labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.features.evaluation.metrics import METRICS, OPEN_LABELS, compute_metrics
from star_ctr.jobs.history.labels import AS_OF, CLOSES
from star_ctr.jobs.history.labels import PART as LABELS
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition

_logger = logging.getLogger(__name__)
_RUN = ("run_id", "attempt", "ds", "model", "seed")


def write_final_metrics(store: WarehouseTables, ds: str, evaluate: EvaluateSettings) -> list[str]:
    """Compute the final metrics of nights before `ds` with provisional metrics, once all of their labels are final.

    Args:
        store: The tables.
        ds: The night that computes them.
        evaluate: The settings of the intervals.

    Returns:
        The runs whose final metrics were written, sorted.
    """
    records = DayRecords(store.settings).read(LABELS)
    closed = [day for day, found in records.items() if day < ds and found.outputs[CLOSES] <= found.outputs[AS_OF]]
    if not closed:
        return []
    is_provisional = F.col("ds").isin(closed) & (F.col("domain") == OVERALL) & (F.col(OPEN_LABELS) > 0)
    runs = store.read("metrics").where(is_provisional).select(*_RUN, "rows")
    if store.exists("final_metrics"):
        done = (
            store.read("final_metrics").select("run_id", F.coalesce("attempt", F.lit(-1)).alias("attempt")).distinct()
        )
        is_done = (runs["run_id"] == done["run_id"]) & (F.coalesce(runs["attempt"], F.lit(-1)) == done["attempt"])
        runs = runs.join(done, is_done, "left_anti")
    rows = {row.run_id: row.rows for row in runs.collect()}
    if not rows:
        return []
    scores = _label(store, list(rows), closed).persist()
    try:
        found = {row.run_id: row["count"] for row in scores.groupBy("run_id").count().collect()}
        complete = sorted(run for run, n in rows.items() if found.get(run) == n)
        if incomplete := sorted(set(rows) - set(complete)):
            # For example, `star-ctr clean` has deleted the scores.
            _logger.warning("no final metrics for %s: scores or labels are missing", ", ".join(incomplete))
        if not complete:
            return []
        metrics = compute_metrics(scores.where(F.col("run_id").isin(complete)), evaluate)
        final = metrics.join(F.broadcast(runs.drop("rows")), "run_id").withColumn("as_of", F.lit(ds))
        columns = (*_RUN, "domain", *METRICS, *INTERVALS, "as_of")
        store.replace("final_metrics", final.select(*columns).repartition(1), make_in_condition("run_id", complete))
    finally:
        scores.unpersist()
    _logger.info("wrote the final metrics of %s", ", ".join(complete))
    return complete


def remove_final_metrics(store: WarehouseTables, runs: Sequence[str]) -> None:
    """Remove the final metrics of runs that are evaluated again, because their scores may have changed."""
    if store.exists("final_metrics") and any(p["run_id"] in runs for p in store.list_partitions("final_metrics")):
        where = make_in_condition("run_id", runs)
        store.replace("final_metrics", store.read("final_metrics").limit(0), where)


def _label(store: WarehouseTables, runs: list[str], days: list[str]) -> DataFrame:
    """Return the scores of runs with the current labels."""
    scores = store.read("scores").where(F.col("run_id").isin(runs)).drop("label", "label_final")
    labels = store.read("labels").where(F.col("ds").isin(days)).select("ds", "impression_id", "label", "is_final")
    return scores.join(labels.withColumnRenamed("is_final", "label_final"), ["ds", "impression_id"])
