"""Read the rows of the split that a training job is pinned to."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import SplitPartition
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.model.training.job import TrainingJob


def read_train_rows(store: WarehouseTables, job: TrainingJob) -> DataFrame:
    """Read the training rows of a job."""
    return _read(store, job, job.train_partitions)


def read_test_rows(store: WarehouseTables, job: TrainingJob) -> DataFrame:
    """Read the test rows of a job; a refit has none."""
    return _read(store, job, job.test_partitions)


def _read(store: WarehouseTables, job: TrainingJob, partitions: Iterable[SplitPartition]) -> DataFrame:
    rows = store.read(Path(job.split).name, job.versions["split"])
    conditions = ((F.col("ds") == p.ds) & (F.col("part") == p.part) for p in partitions)
    return rows.where(reduce(lambda a, b: a | b, conditions))
