"""Collect: the scores of runs that were trained outside Spark, into `scores`, `metrics`, `runs` and the ledger.

A run's folder holds its record and `scores.parquet` (`model.offline`). What stands there already is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import functions as F

from star_ctr.conf.contracts.run_id import format_variant
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.evaluate import Run, evaluate_runs, read_metrics
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.registry.attempts import publish_attempt, read_result
from star_ctr.jobs.score import SCORES as SCHEMA
from star_ctr.jobs.score import check_parity
from star_ctr.jobs.train import count_split_rows, write_runs, write_trained_rows
from star_ctr.model import offline
from star_ctr.model.training.job import TrainingJob

AT_ONCE = 48
"""Runs in one commit: their metrics are computed in one pass, whose ranks must fit the workers."""

TrainedRun = tuple[Settings, TrainingJob]


def run(store: WarehouseTables, runs: Sequence[TrainedRun]) -> Iterator[int]:
    """Bring runs into the tables; yields how many are there after each commit."""
    there = _list_imported(store)
    results = [(s, job, read_result(job)) for s, job in runs]
    waiting = [(s, job, r) for s, job, r in results if there.get(job.run_id) != (r["fingerprint"], job.attempt)]
    yield len(runs) - len(waiting)
    for start in range(0, len(waiting), AT_ONCE):
        part = waiting[start : start + AT_ONCE]
        _import(store, part)
        yield len(runs) - len(waiting) + start + len(part)


def _import(store: WarehouseTables, part: Sequence[tuple[Settings, TrainingJob, dict[str, Any]]]) -> None:
    names = [job.run_id for _, job, _ in part]
    files = [str(job.path / offline.SCORES) for _, job, _ in part]
    scores = store.spark.read.schema(SCHEMA).parquet(*files)
    store.replace("scores", scores.repartition("run_id"), make_in_condition("run_id", names))
    short = write_trained_rows(store, [(job, record) for _, job, record in part])
    if short:
        raise DataError(f"{', '.join(short)}: not all rows were trained on; see the ledger")
    metadata = [pq.read_schema(file).metadata or {} for file in files]
    counts = {
        (r.run_id, r.domain): r["count"]
        for r in store.read("scores").where(F.col("run_id").isin(names)).groupBy("run_id", "domain").count().collect()
    }
    entries = [
        (job.run_id, job.ds, domain, n, counts.get((job.run_id, domain), 0))
        for _, job, _ in part
        for domain, n in count_split_rows(store, job, "test")
    ]
    store.write_run_ledger("score", entries)
    uneven = sorted({run_id for run_id, *_, n_in, n_out in entries if n_in != n_out})
    if uneven:
        raise DataError(f"{', '.join(uneven)}: rows of the split and scored rows differ; see the ledger")
    evaluate_runs(
        store, [Run(job.run_id, job.attempt, job.ds, format_variant(s), job.trainer.seed) for s, job, _ in part]
    )
    # Last: what stands in `runs` with a difference counts as collected.
    differences = [float(m.get(b"max_score_difference", b"nan")) for m in metadata]
    for (_, job, _), difference in zip(part, differences, strict=True):
        check_parity(job.run_id, difference)
    write_runs(
        store, [(s, publish_attempt(job, keep=True), d) for (s, job, _), d in zip(part, differences, strict=True)]
    )


def _list_imported(store: WarehouseTables) -> dict[str, tuple[str, int]]:
    """Return the fingerprint and attempt of each run that has been scored and collected."""
    if not store.exists("runs"):
        return {}
    fingerprint = F.get_json_object("record", "$.fingerprint")
    scored = store.read("runs").where(F.col("max_score_difference").isNotNull())
    rows = scored.select("run_id", "attempt", fingerprint.alias("fingerprint")).orderBy("attempt").collect()
    return {r.run_id: (r.fingerprint, r.attempt) for r in rows}  # the newest attempt wins


def read_imported_metrics(store: WarehouseTables, runs: Sequence[TrainedRun]) -> list[dict[str, Any]]:
    """The metrics of collected runs, in their order."""
    return read_metrics(store, [job.run_id for _, job in runs])
