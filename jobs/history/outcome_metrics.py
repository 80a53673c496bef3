"""Compute the metrics of a further outcome (`label.also`) once all of its windows on a day have closed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pyspark.sql import Row
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_outcome_label
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import hash_outcome_settings
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.features.evaluation.metrics import METRICS, compute_metrics
from star_ctr.features.evaluation.reliability import RELIABILITY
from star_ctr.jobs.history.final_metrics import RUN, RUN_SCHEMA, read_scores
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.label_records import AS_OF, OUTCOME_SETTINGS, OUTCOMES_CLOSE
from star_ctr.jobs.io.label_records import PART as LABELS
from star_ctr.jobs.io.table_hashes import HASH
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition, quote_spark_literal

_logger = logging.getLogger(__name__)


def write_outcome_metrics(store: WarehouseTables, ds: str, evaluate: EvaluateSettings) -> dict[str, list[str]]:
    """Write the metrics of further outcomes for nights up to `ds` on which they are final by then.

    The metrics of an outcome are computed from the test rows for which it is known.

    Args:
        store: The tables.
        ds: The night that computes them.
        evaluate: The settings of the intervals.

    Returns:
        For each outcome, the runs whose metrics were written, sorted.
    """
    definition = hash_outcome_settings(store.settings)
    if definition is None or "outcome_settings" not in store.read("metrics").columns:
        return {}
    records = {
        day: found.outputs
        for day, found in DayRecords(store.settings).read(LABELS).items()
        if day <= ds and found.outputs.get(OUTCOME_SETTINGS) == definition
    }
    done: set[tuple[str, int | None, str, str]] = set()
    if store.exists("outcome_metrics"):
        done = {(r.run_id, r.attempt, r.outcome, r.labels) for r in store.read("outcome_metrics").collect()}
    is_current = F.col("ds").isin(list(records)) & (F.col("outcome_settings") == definition)
    evaluated = store.read("metrics").where((F.col("domain") == OVERALL) & is_current).select(*RUN).collect()
    written = {}
    for outcome in store.settings.label.outcomes:
        closed = {d: found[HASH] for d, found in records.items() if found[OUTCOMES_CLOSE][outcome] <= found[AS_OF]}
        # Compute them again if labels have changed since, for example because events were delivered again.
        runs = [
            row
            for row in evaluated
            if row.ds in closed and (row.run_id, row.attempt, outcome, closed[row.ds]) not in done
        ]
        if runs:
            written[outcome] = _write(store, outcome, runs, closed, ds, evaluate)
    return written


def _write(
    store: WarehouseTables,
    outcome: str,
    runs: list[Row],
    closed: Mapping[str, str],
    ds: str,
    evaluate: EvaluateSettings,
) -> list[str]:
    """Write the metrics of an outcome for some runs.

    Args:
        store: The tables.
        outcome: The name of the outcome.
        runs: The runs, as rows with the columns `RUN`.
        closed: The days on which the outcome is final, with the hash of their labels.
        ds: The night that computes the metrics.
        evaluate: The settings of the intervals.

    Returns:
        The runs, sorted.
    """
    label = F.col(name_outcome_label(outcome))
    labels = store.read("labels").where(F.col("ds").isin(list(closed)) & label.isNotNull())
    labels = labels.select("ds", "impression_id", label.alias("label"))
    scores = (
        read_scores(store, runs)
        .drop("label", "label_final", "score")
        .withColumn("score", F.col("outcome_scores")[outcome])
    )
    scores = (
        scores.where(F.col("score").isNotNull()).drop("outcome_scores").join(labels, ["ds", "impression_id"]).persist()
    )
    try:
        names = sorted(row.run_id for row in scores.select("run_id").distinct().collect())
        if not names:
            return []
        described = store.spark.createDataFrame(
            [(*row, ds, closed[row.ds], outcome) for row in runs],
            f"{RUN_SCHEMA}, as_of string, labels string, outcome string",
        )
        found = compute_metrics(scores, evaluate).join(F.broadcast(described), "run_id")
        columns = (*RUN, "outcome", "domain", *METRICS, RELIABILITY, *INTERVALS, "as_of", "labels")
        where = f"{make_in_condition('run_id', names)} AND outcome = {quote_spark_literal(outcome)}"
        store.replace("outcome_metrics", found.select(*columns).repartition(1), where)
    finally:
        scores.unpersist()
    _logger.info("wrote the metrics of outcome %s for %s", outcome, ", ".join(names))
    return names
