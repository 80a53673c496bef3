"""Score: the exported model over the test rows of its night, on all cores of the cluster, into `scores`.

A sample of rows that the trainer's own model scored is compared: a larger difference than 1e-5 fails the night.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/score.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import WEIGHTS
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError
from star_ctr.conf.files import hash_file
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import WarehouseTables, quote_spark_literal
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.registry.attempts import Attempt, check_files, get_published_attempt
from star_ctr.jobs.train import write_runs
from star_ctr.model.data.reader import unpack_columns
from star_ctr.model.export import LAYOUT, Predictor
from star_ctr.model.score_checks import TOLERANCE, is_within_tolerance

SCORES = (
    "run_id string, attempt long, ds string, impression_id string, user_id string, domain string, label double, "
    "score double"
)


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Score night `ds` with its run; returns the rows scored and the largest difference from the trainer's scores."""
    store = WarehouseTables(settings, spark)
    ds = check_day(ds) if ds else store.days("split")[-1]
    identity = make_run_id(settings, ds)
    attempt = check_files(get_published_attempt(store.warehouse, identity))
    record = attempt.record()
    split = store.read("split", record["versions"]["split"])
    test = split.where((F.col("ds") == ds) & (F.col("part") == "test"))
    version = store.replace("scores", score_rows(test, attempt), f"run_id = {quote_spark_literal(identity)}")
    written = store.read("scores", version).where(F.col("run_id") == identity)
    rows = _write_ledger(store, test, written, identity, ds)
    check_scores(written, store.warehouse.table("scores"))
    difference = compute_largest_difference(written, record["probe"])
    write_runs(store, [(settings, record, difference)])
    check_parity(identity, difference)
    return {"run_id": identity, "attempt": attempt.number, "rows": rows, "max_score_difference": difference}


_PREDICTORS: dict[ModelFiles, Predictor] = {}


def load_predictor(model: ModelFiles) -> Predictor:
    """Return the predictor of a model in a worker. It is cached per process, not loaded per task."""
    import torch

    torch.set_num_threads(model.threads)  # torch would take all cores of the machine in every task
    if model not in _PREDICTORS:
        _PREDICTORS.clear()
        _PREDICTORS[model] = Predictor(Path(model.folder), dict(model.files))
    return _PREDICTORS[model]


class ModelFiles(NamedTuple):
    """What a worker needs to load a model: its folder, the hashes of its files, and the number of cores per task."""

    folder: str
    files: tuple[tuple[str, str], ...]
    threads: int


def describe_model(spark: SparkSession, attempt: Attempt) -> ModelFiles:
    """Describe the model of an attempt to the workers of a session, which verify its files when they load it."""
    threads = int(spark.sparkContext.getConf().get("spark.task.cpus", "1"))
    names = (WEIGHTS, LAYOUT)
    # A replay is not published, so it has no record.
    files = attempt.record()["files"] if attempt.is_published else {n: hash_file(attempt.folder / n) for n in names}
    return ModelFiles(str(attempt.folder.absolute()), tuple((name, files[name]) for name in names), threads)


def score_rows(rows: DataFrame, attempt: Attempt) -> DataFrame:
    """Score encoded rows with the model of an attempt; returns rows of `scores`."""
    model = describe_model(rows.sparkSession, attempt)
    identity, number = attempt.run_id, attempt.number

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predictor = load_predictor(model)
        layout = predictor.layout
        for batch in batches:
            n = batch.num_rows
            if n == 0:
                continue
            ints, floats = unpack_columns(batch.column("ints"), batch.column("floats"), layout)
            scores = predictor.predict(ints, floats, batch.column("domain_id").to_numpy().astype(np.int32))
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([identity] * n),
                    pa.array([number] * n, pa.int64()),
                    *(batch.column(c) for c in ("ds", "impression_id", "user_id", "domain")),
                    batch.column("label").cast(pa.float64()),
                    pa.array(scores.astype(np.float64)),
                ],
                names=["run_id", "attempt", "ds", "impression_id", "user_id", "domain", "label", "score"],
            )

    wanted = rows.select("ds", "impression_id", "user_id", "domain", "label", "domain_id", "ints", "floats")
    return wanted.mapInArrow(score, SCORES)


def compute_largest_difference(scores: DataFrame, probe: dict[str, float]) -> float:
    """Return the largest difference between `scores` and the trainer's own scores of the same impressions.

    Raises `DataError`, with counts by domain, if a score is missing or not finite, which a maximum would hide.
    """
    if not probe:
        return 0.0
    own = scores.sparkSession.createDataFrame(list(probe.items()), "impression_id string, own double")
    # The few go to the many: as the right side of an outer join all scores would be sent to the driver.
    both = scores.join(F.broadcast(own), "impression_id")
    apart = F.abs(F.col("score") - F.col("own"))
    finite = F.coalesce(apart < float("inf"), F.lit(False))  # in Spark, NaN is greater than infinity
    columns = (F.max(apart).alias("d"), F.count("*").alias("n"), F.count_if(~finite).alias("bad"))
    found = both.groupBy("domain").agg(*columns).collect()
    if bad := {r.domain: r.bad for r in found if r.bad}:
        named = ", ".join(f"{domain}: {n:,}" for domain, n in sorted(bad.items()))
        raise DataError(
            f"{sum(bad.values()):,} of {len(probe):,} sampled rows have no finite difference between the scorer's and "
            f"the trainer's score ({named})"
        )
    if (there := sum(r.n for r in found)) != len(probe):
        raise DataError(f"{len(probe) - there} of {len(probe)} sampled rows were not scored")
    return max(float(r.d) for r in found)


def check_parity(run_id: str, difference: float) -> None:
    """Raise `DataError` if the scorer and the trainer's model differ by more than the tolerance, or by NaN."""
    if not is_within_tolerance(difference):
        raise DataError(
            f"{run_id}: the scorer differs from the trainer's model by {difference:.3g} (allowed: {TOLERANCE})"
        )


def _write_ledger(store: WarehouseTables, test: DataFrame, written: DataFrame, identity: str, ds: str) -> int:
    rows_in = {r.domain: r["count"] for r in test.groupBy("domain").count().collect()}
    rows_out = {r.domain: r["count"] for r in written.groupBy("domain").count().collect()}
    store.write_run_ledger("score", [(identity, ds, d, n, rows_out.get(d, 0)) for d, n in sorted(rows_in.items())])
    if rows_in != rows_out:
        raise DataError(f"{identity}: rows of the split and scored rows differ; see the ledger")
    return sum(rows_out.values())


if __name__ == "__main__":
    run_submitted_step("score")
