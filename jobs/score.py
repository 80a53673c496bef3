"""Score: score the test rows of a night with the exported model, on all cores of the cluster, and write `scores`.

The trainer also scores a sample of the rows with its own model. If a score of the sample differs by more than 1e-5, the
step fails.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/score.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import RunEntry, WarehouseTables, quote_spark_literal
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.registry.attempts import Attempt, check_files, get_published_attempt
from star_ctr.jobs.registry.predictor_cache import describe_model, load_predictor
from star_ctr.jobs.train import write_runs
from star_ctr.model.data.reader import unpack_columns
from star_ctr.model.score_checks import TOLERANCE, is_within_tolerance

SCORES_SCHEMA = (
    "run_id string, attempt long, ds string, impression_id string, user_id string, domain string, label double, "
    "label_final boolean, score double"
)
"""Schema of `scores`; `score` is the predicted CTR. Models with further outcomes add `OUTCOMES_SCHEMA`."""
OUTCOMES_SCHEMA = "outcome_scores map<string, double>"
"""Schema of the column with the predicted probability of each further outcome."""
SCORE_COLUMNS = [field.split()[0] for field in SCORES_SCHEMA.split(", ")]


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Score the test rows of night `ds` with the run of the night.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; by default the newest day of `split`.

    Returns:
        The run and its attempt (`run_id`, `attempt`), the number of scored rows (`rows`), and the largest difference
        from the trainer's scores (`max_score_difference`).

    Raises:
        DataError: A file of the model is damaged, a row was not scored, a score is invalid, or a score differs from the
            trainer's by more than the tolerance.
        UserError: The night has no finished run.
    """
    store = WarehouseTables(settings, spark)
    ds = check_day(ds) if ds else store.get_newest_day("split")
    attempt = check_files(get_published_attempt(store.warehouse, make_run_id(settings, ds)))
    return score_run(settings, store, attempt, ds)


def score_run(settings: Settings, store: WarehouseTables, attempt: Attempt, ds: str) -> dict[str, Any]:
    """Score the test rows of a night with an attempt, and write and check the scores.

    Args:
        settings: The settings of the data set.
        store: The tables.
        attempt: The attempt of a run of the night.
        ds: The night.

    Returns:
        As for `run`.

    Raises:
        DataError: A row was not scored, a score is invalid, or a score differs from the trainer's by more than the
            tolerance.
    """
    run_id, record = attempt.run_id, attempt.record()
    split = store.read("split", record["versions"]["split"])
    test = split.where((F.col("ds") == ds) & (F.col("part") == "test"))
    version = store.replace("scores", score_rows(test, attempt), f"run_id = {quote_spark_literal(run_id)}")
    written = store.read("scores", version).where(F.col("run_id") == run_id)
    rows = _write_ledger(store, test, written, run_id, ds)
    check_scores(written, store.warehouse.table("scores"))
    difference = compare_with_trainer(written, record)
    write_runs(store, [(settings, record, difference)])
    check_parity(run_id, difference)
    return {"run_id": run_id, "attempt": attempt.number, "rows": rows, "max_score_difference": difference}


def score_rows(rows: DataFrame, attempt: Attempt) -> DataFrame:
    """Score encoded rows with the model of an attempt.

    Args:
        rows: Encoded rows, as in `split`.
        attempt: The attempt, whose layout must be that of the rows.

    Returns:
        Rows with the schema SCORES_SCHEMA, and OUTCOMES_SCHEMA if the model predicts further outcomes.
    """
    model = describe_model(rows.sparkSession, attempt)
    run_id, number = attempt.run_id, attempt.number

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predictor = load_predictor(model)
        layout = predictor.layout
        for batch in batches:
            n = batch.num_rows
            if n == 0:
                continue
            ints, floats = unpack_columns(batch.column("ints"), batch.column("floats"), layout)
            domains = batch.column("domain_id").to_numpy().astype(np.int32)
            scores, outcomes = predictor.predict_all(ints, floats, domains)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([run_id] * n),
                    pa.array([number] * n, pa.int64()),
                    *(batch.column(c) for c in ("ds", "impression_id", "user_id", "domain")),
                    batch.column("label").cast(pa.float64()),
                    batch.column("label_final"),
                    pa.array(scores.astype(np.float64)),
                    *([make_map_column(model.outcomes, outcomes)] if model.outcomes else []),
                ],
                names=[*SCORE_COLUMNS, *(["outcome_scores"] if model.outcomes else [])],
            )

    columns = ("ds", "impression_id", "user_id", "domain", "label", "label_final", "domain_id", "ints", "floats")
    wanted = rows.select(*columns)
    return wanted.mapInArrow(score, f"{SCORES_SCHEMA}, {OUTCOMES_SCHEMA}" if model.outcomes else SCORES_SCHEMA)


def make_map_column(names: Sequence[str], values: npt.NDArray[np.float32]) -> pa.MapArray:
    """Return a map column, whose rows map names to values.

    Args:
        names: (K,) the keys.
        values: (n, K) the value of each key, by row.
    """
    rows, keys = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * keys)
    flat = pa.array(values.astype(np.float64).reshape(-1))
    return pa.MapArray.from_arrays(offsets, pa.array([*names] * rows, pa.string()), flat)


def compare_with_trainer(scores: DataFrame, record: dict[str, Any]) -> float:
    """Return the largest absolute difference between the scorer's and the trainer's scores, over all outputs.

    Args:
        scores: Rows of `scores`.
        record: The record of the run, with the trainer's scores of a sample.

    Raises:
        DataError: As for `compute_largest_difference`.
    """
    found = [compute_largest_difference(scores, record["sample_scores"])]
    for name, sample in record.get("sample_outcome_scores", {}).items():
        outcome = scores.withColumn("score", F.col("outcome_scores")[name])
        found.append(compute_largest_difference(outcome, sample))
    return max(found)


def compute_largest_difference(scores: DataFrame, sample_scores: dict[str, float]) -> float:
    """Return the largest absolute difference between the scorer's and the trainer's scores.

    Args:
        scores: Rows of `scores`.
        sample_scores: The trainer's scores of a sample, by impression id.

    Raises:
        DataError: A sampled row was not scored, or a difference is not finite, which a maximum would hide. The message
            contains the counts by domain.
    """
    if not sample_scores:
        return 0.0
    sample = scores.sparkSession.createDataFrame(list(sample_scores.items()), "impression_id string, own double")
    # Use an inner join, which can broadcast the small sample. An outer join would send all scores to the driver.
    both = scores.join(F.broadcast(sample), "impression_id")
    difference = F.abs(F.col("score") - F.col("own"))
    is_finite = F.coalesce(difference < float("inf"), F.lit(False))  # in Spark, NaN is greater than infinity
    columns = (F.max(difference).alias("d"), F.count("*").alias("n"), F.count_if(~is_finite).alias("bad"))
    found = both.groupBy("domain").agg(*columns).collect()
    if bad := {r.domain: r.bad for r in found if r.bad}:
        named = ", ".join(f"{domain}: {n:,}" for domain, n in sorted(bad.items()))
        raise DataError(
            f"{sum(bad.values()):,} of {len(sample_scores):,} sampled rows have no finite difference between the "
            f"scorer's and the trainer's score ({named})"
        )
    if (scored := sum(r.n for r in found)) != len(sample_scores):
        raise DataError(f"{len(sample_scores) - scored} of {len(sample_scores)} sampled rows were not scored")
    return max(float(r.d) for r in found)


def check_parity(run_id: str, difference: float) -> None:
    """Raise `DataError` if the difference of scorer and trainer is NaN or exceeds the tolerance."""
    if not is_within_tolerance(difference):
        raise DataError(
            f"{run_id}: the scorer differs from the trainer's model by {difference:.3g} (allowed: {TOLERANCE})"
        )


def _write_ledger(store: WarehouseTables, test: DataFrame, written: DataFrame, run_id: str, ds: str) -> int:
    """Write the ledger entries; returns the number of scored rows. Raises `DataError` if a row was not scored."""
    rows_in = {r.domain: r["count"] for r in test.groupBy("domain").count().collect()}
    rows_out = {r.domain: r["count"] for r in written.groupBy("domain").count().collect()}
    store.write_run_ledger(
        "score", [RunEntry(run_id, ds, d, n, rows_out.get(d, 0)) for d, n in sorted(rows_in.items())]
    )
    if rows_in != rows_out:
        raise DataError(f"{run_id}: the number of scored rows differs from that of test rows; see the table `ledger`")
    return sum(rows_out.values())


if __name__ == "__main__":
    run_submitted_step("score")
