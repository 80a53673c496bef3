"""Ledger entries of training runs: the rows that each run was trained on, and the reasons for those left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame

from star_ctr.jobs.io.split_rows import read_train_rows
from star_ctr.jobs.io.warehouse import RunEntry, WarehouseTables
from star_ctr.model.training.job import TrainingJob

NOT_SAMPLED = "no click, not sampled (trainer.negatives)"
"""Reason in the ledger for training rows that were not sampled."""
EXCLUDED_DOMAIN = "domain not trained on (trainer.data)"
"""Reason in the ledger for training rows of domains that `trainer.data` does not select."""


def write_trained_rows(store: WarehouseTables, runs: Sequence[tuple[TrainingJob, dict[str, Any]]]) -> list[str]:
    """Write to the ledger how many rows of the split each run was trained on.

    Args:
        store: The tables.
        runs: The jobs and their training results.

    Returns:
        The ids of the runs that were not trained on all rows of their split.
    """
    entries, incomplete = [], []
    counts: dict[tuple[str, int, str], list[tuple[str, int]]] = {}
    for job, record in runs:
        split = (job.split, job.versions["split"], job.ds)
        if split not in counts:
            counts[split] = count_rows_by_domain(read_train_rows(store, job))
        # The record counts a row once per epoch, the ledger only once.
        epochs, trained = job.trainer.epochs, record["rows"]
        unused = {NOT_SAMPLED: record.get("left_out", {}), EXCLUDED_DOMAIN: record.get("excluded", {})}
        for domain, n in counts[split]:
            by_reason = {reason: rows[domain] for reason, rows in unused.items() if domain in rows}
            wanted, used = n - sum(by_reason.values()), trained.get(domain, 0)
            if wanted or not by_reason:
                entries.append(RunEntry(job.run_id, job.ds, domain, wanted, used // epochs))
            entries += [RunEntry(job.run_id, job.ds, domain, rows, 0, reason) for reason, rows in by_reason.items()]
            if used != wanted * epochs and job.run_id not in incomplete:
                incomplete.append(job.run_id)
    store.write_run_ledger("train", entries)
    return incomplete


def count_rows_by_domain(rows: DataFrame) -> list[tuple[str, int]]:
    """Count the rows of each domain."""
    return sorted((r.domain, r["count"]) for r in rows.groupBy("domain").count().collect())
