"""Import: write the scores of runs that were trained outside Spark to `scores`, `metrics`, `runs` and `ledger`.

The folder of a run contains its results and `scores.parquet` (see `model.offline`). Runs that were already imported are
skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import functions as F

from star_ctr.conf.contracts.run_id import format_variant
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.evaluate import ScoredRun, evaluate_runs, read_metrics
from star_ctr.jobs.io.split_rows import read_test_rows
from star_ctr.jobs.io.train_ledger import count_rows_by_domain, write_trained_rows
from star_ctr.jobs.io.warehouse import RunEntry, WarehouseTables, make_in_condition
from star_ctr.jobs.registry.attempts import publish_attempt, read_result
from star_ctr.jobs.score import SCORES_SCHEMA as SCHEMA
from star_ctr.jobs.score import check_parity
from star_ctr.jobs.train import write_runs
from star_ctr.model import offline
from star_ctr.model.training.job import TrainingJob

RUNS_PER_COMMIT = 48
"""Number of runs per commit. Their metrics are computed together, and their ranks must fit in the workers' memory."""

TrainedRun = tuple[Settings, TrainingJob]
"""The settings and the job of a run."""


def run(store: WarehouseTables, runs: Sequence[TrainedRun]) -> Iterator[int]:
    """Import runs that have not been imported yet.

    Args:
        store: The tables of the warehouse.
        runs: The runs, trained and scored.

    Yields:
        The number of imported runs, first before any import and then after each commit.

    Raises:
        DataError: A training run did not finish, not all rows were trained on or scored, or scores are invalid or
            differ from those of the trainer's model.
    """
    imported = _list_imported(store)
    results = [(s, job, read_result(job)) for s, job in runs]
    pending = [(s, job, r) for s, job, r in results if imported.get(job.run_id) != (r["fingerprint"], job.attempt)]
    yield len(runs) - len(pending)
    for start in range(0, len(pending), RUNS_PER_COMMIT):
        part = pending[start : start + RUNS_PER_COMMIT]
        _import(store, part)
        yield len(runs) - len(pending) + start + len(part)


def _import(store: WarehouseTables, part: Sequence[tuple[Settings, TrainingJob, dict[str, Any]]]) -> None:
    """Write the scores, metrics, ledger entries and records of some runs."""
    names = [job.run_id for _, job, _ in part]
    files = [job.path / offline.SCORES for _, job, _ in part]
    scores = store.spark.read.schema(SCHEMA).parquet(*map(str, files))
    store.replace("scores", scores.repartition("run_id"), make_in_condition("run_id", names))
    incomplete = write_trained_rows(store, [(job, record) for _, job, record in part])
    if incomplete:
        raise DataError(f"{', '.join(incomplete)}: not all rows of the split were trained on; see the table `ledger`")
    metadata = [_read_metadata(file) for file in files]
    counts = {
        (r.run_id, r.domain): r["count"]
        for r in store.read("scores").where(F.col("run_id").isin(names)).groupBy("run_id", "domain").count().collect()
    }
    entries = [
        RunEntry(job.run_id, job.ds, domain, n, counts.get((job.run_id, domain), 0))
        for _, job, _ in part
        for domain, n in count_rows_by_domain(read_test_rows(store, job))
    ]
    store.write_run_ledger("score", entries)
    uneven = sorted({e.run_id for e in entries if e.rows_in != e.rows_out})
    if uneven:
        raise DataError(f"{', '.join(uneven)}: the numbers of test rows and scored rows differ; see the table `ledger`")
    evaluate_runs(
        store, [ScoredRun(job.run_id, job.attempt, job.ds, format_variant(s), job.trainer.seed) for s, job, _ in part]
    )
    # Write `runs` last: a run with a score difference in this table counts as imported.
    differences = [float(m.get(b"max_score_difference", b"nan")) for m in metadata]
    for (_, job, _), difference in zip(part, differences, strict=True):
        check_parity(job.run_id, difference)
    write_runs(
        store, [(s, publish_attempt(job, keep=True), d) for (s, job, _), d in zip(part, differences, strict=True)]
    )


def _read_metadata(file: Path) -> dict[bytes, bytes]:
    """Read the metadata of a Parquet file."""
    with file.open("rb") as stream:
        return dict(pq.read_schema(stream).metadata or {})


def _list_imported(store: WarehouseTables) -> dict[str, tuple[str, int]]:
    """Return the fingerprint and the newest attempt of each run that has been scored and imported."""
    if not store.exists("runs"):
        return {}
    fingerprint = F.get_json_object("record", "$.fingerprint")
    scored = store.read("runs").where(F.col("max_score_difference").isNotNull())
    rows = scored.select("run_id", "attempt", fingerprint.alias("fingerprint")).orderBy("attempt").collect()
    return {r.run_id: (r.fingerprint, r.attempt) for r in rows}  # rows are sorted, so the newest attempt is kept


def read_imported_metrics(store: WarehouseTables, runs: Sequence[TrainedRun]) -> list[dict[str, Any]]:
    """Read the metrics of imported runs, in the order of `runs`."""
    return read_metrics(store, [job.run_id for _, job in runs])
