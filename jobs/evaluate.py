"""Evaluate: compute AUC, GAUC (eq. 9), PCOC, log loss and ECE of a night's scores, and write them to `metrics`.

There is one row per domain and one for all domains together (`overall`). AUC and GAUC have intervals from a Poisson
bootstrap over users, configured in the settings section `evaluate`.

If labels of the night are still open, its metrics are provisional. Once all labels are final, a later night computes
the metrics again and writes them to `final_metrics`. The metrics of further outcomes (`label.also`) are written to
`outcome_metrics` by the first night on which their windows have closed.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/evaluate.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.domains import OVERALL, domain_sort_key
from star_ctr.conf.contracts.run_id import format_variant, hash_label_settings, hash_outcome_settings, make_run_id
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.features.evaluation.metrics import METRICS, OPEN_LABELS, compute_metrics
from star_ctr.features.evaluation.reliability import RELIABILITY
from star_ctr.jobs.history.final_metrics import remove_final_metrics, write_final_metrics
from star_ctr.jobs.history.outcome_metrics import write_outcome_metrics
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import RunEntry, WarehouseTables, make_in_condition
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.registry.attempts import find_attempt

METRICS_COLUMNS = ("run_id", "attempt", "ds", "model", "seed", "domain", *METRICS, OPEN_LABELS)
"""Columns of `metrics`, without the intervals."""
NO_INTERVALS = EvaluateSettings(bootstrap_samples=0)
"""Settings that compute metrics without intervals."""


class ScoredRun(NamedTuple):
    """A scored run, as named in the tables.

    Attributes:
        run_id: The id of the run.
        attempt: The attempt that the scores are from; None for imported scores of other systems.
        ds: The night.
        model: The name of the model with its variant, for example `star-pn-aux`.
        seed: The training seed.
    """

    run_id: str
    attempt: int | None
    ds: str
    model: str
    seed: int


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> list[dict[str, Any]]:
    """Write and return the metrics of night `ds`, as `evaluate_runs` does.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; by default the newest day of `scores`.

    Returns:
        One row per domain, `overall` last, with the columns METRICS_COLUMNS and INTERVALS.

    Raises:
        DataError: There are no scores of the night, they are not from the newest published attempt, or scores or labels
            are invalid.
    """
    store = WarehouseTables(settings, spark)
    ds = check_day(ds) if ds else store.get_newest_day("scores")
    name = make_run_id(settings, ds)
    night = ScoredRun(name, find_scored_attempt(store, name, ds), ds, format_variant(settings), settings.trainer.seed)
    rows = evaluate_runs(store, [night], settings.evaluate)
    write_final_metrics(store, ds, settings.evaluate)
    write_outcome_metrics(store, ds, settings.evaluate)
    return rows


def find_scored_attempt(store: WarehouseTables, name: str, ds: str) -> int | None:
    """Return the attempt of a run's scores; raises `DataError` if it is not the newest published one."""
    scores = store.read("scores")
    attempt = F.col("attempt") if "attempt" in scores.columns else F.lit(None).alias("attempt")
    row = scores.where(F.col("run_id") == name).select(attempt).first()
    newest = find_attempt(store.warehouse, name)
    if row is not None and newest is not None and row.attempt != newest.number:
        table = store.warehouse.table("scores")
        raise DataError(f"{table}: the scores are not from {newest}; run `star-ctr score --ds {ds}` again")
    return row.attempt if row else None


def evaluate_runs(
    store: WarehouseTables, runs: Sequence[ScoredRun], evaluate: EvaluateSettings | None = None
) -> list[dict[str, Any]]:
    """Write and return the metrics of runs in `scores`, computed for all runs together.

    Args:
        store: The tables.
        runs: The runs.
        evaluate: The settings of the intervals. By default, no intervals are computed, because for many runs they would
            take most of the time.

    Returns:
        One row per run and domain, in the order of `runs`, `overall` last; the columns are METRICS_COLUMNS and, with
        `evaluate`, INTERVALS.

    Raises:
        DataError: Scores or labels are invalid (nothing is written), or a run has no scores.
    """
    names = [r.run_id for r in runs]
    scores = store.read("scores").where(F.col("run_id").isin(names)).persist()
    try:
        check_scores(scores, store.warehouse.table("scores"))
        run_columns = store.spark.createDataFrame(
            list(runs), "run_id string, attempt long, ds string, model string, seed long"
        )
        found = compute_metrics(scores, evaluate or NO_INTERVALS)
        definition = hash_outcome_settings(store.settings) if "outcome_scores" in scores.columns else None
        if definition:
            has_outcomes = F.bool_or(F.col("outcome_scores").isNotNull())
            predicted = scores.groupBy("run_id").agg(F.when(has_outcomes, definition).alias("outcome_settings"))
            run_columns = run_columns.join(predicted, "run_id", "left")
        metrics = found.join(F.broadcast(run_columns), "run_id").select(
            *METRICS_COLUMNS,
            RELIABILITY,
            *INTERVALS,
            F.lit(hash_label_settings(store.settings)).alias("label_settings"),
            *(["outcome_settings"] if definition else []),
        )
        remove_final_metrics(store, names)
        store.replace("metrics", metrics.repartition(1), make_in_condition("run_id", names))
    finally:
        scores.unpersist()
    rows = read_metrics(store, names, (*METRICS_COLUMNS, *INTERVALS) if evaluate else METRICS_COLUMNS)
    missing = [r for r in runs if r.run_id not in {m["run_id"] for m in rows}]
    if missing:
        table = store.warehouse.table("scores")
        raise DataError(f"{table}: no scores of {missing[0].run_id}; run `star-ctr score --ds {missing[0].ds}` first")
    entries = [
        RunEntry(m["run_id"], m["ds"], m["domain"], m["rows"], m["rows"]) for m in rows if m["domain"] != OVERALL
    ]
    store.write_run_ledger("evaluate", entries)
    return rows


def read_metrics(
    store: WarehouseTables, names: Sequence[str], columns: Sequence[str] = METRICS_COLUMNS
) -> list[dict[str, Any]]:
    """Read the metrics of runs.

    Args:
        store: The tables.
        names: The ids of the runs.
        columns: The columns to read, including `run_id` and `domain`.

    Returns:
        One row per run and domain, in the order of `names`. Domains are sorted by `domain_sort_key`, `overall` last.
    """
    found = store.read("metrics").where(F.col("run_id").isin(list(names))).select(*columns).collect()
    order = {name: k for k, name in enumerate(names)}
    return sorted(
        (r.asDict() for r in found),
        key=lambda r: (order[r["run_id"]], domain_sort_key(r["domain"])),
    )


if __name__ == "__main__":
    run_submitted_step("evaluate")
