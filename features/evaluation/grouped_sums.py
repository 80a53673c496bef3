"""Sums by run and domain, as a task of Spark gathers them and hands them out in one batch of rows.

On their way to Python rows have hashes in the place of names, of their user, run and domain: moving text would take
most of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints

Name = tuple[str, str]
"""Run and domain."""


class Names(NamedTuple):
    """The runs and domains of some scores.

    `hashes`: (k,) what stands for each of `groups` in rows, sorted; `run`: (k,) the place of each one's run in `runs`,
    which are named `overall`.
    """

    hashes: Ints
    groups: list[Name]
    run: Ints
    runs: list[Name]

    def places(self, hashes: Ints) -> Ints:
        """The place of each row's group in `groups`."""
        return np.searchsorted(self.hashes, hashes)


def collect_names(scores: DataFrame) -> Names:
    """The names in `scores`, which are read for it."""
    found = sorted(scores.select(_group(), "run_id", "domain").distinct().collect(), key=lambda row: row.group)
    runs = sorted({row.run_id for row in found})
    return Names(
        np.array([row.group for row in found], np.int64),
        [(row.run_id, row.domain) for row in found],
        np.array([runs.index(row.run_id) for row in found], np.int64),
        [(run, OVERALL) for run in runs],
    )


def number_rows(scores: DataFrame, *more: Column) -> DataFrame:
    """Convert `scores` to compact rows: key, group, and score with the label as its sign, as `split_sign` reads it.

    key: a hash of the user, for `resampling.weights`; group: a hash of the run and domain, as in `Names`. The query
    fails on an invalid score, which would otherwise change the ranking and the metrics silently.
    """
    key, score = F.xxhash64("user_id").alias("key"), F.abs(require_valid("score", F.col("score").between(0, 1)))
    clicked = require_valid("label", F.col("label").isin(0.0, 1.0)) > 0
    return scores.select(key, _group(), F.when(clicked, score).otherwise(-score).alias("score"), *more)


def require_valid(column: str, holds: Column) -> Column:
    """Return the column, and fail the query on a row where the condition is false or null."""
    value = F.coalesce(F.col(column).cast("string"), F.lit("null"))
    error = F.raise_error(
        F.concat(F.lit(f"a row has the invalid {column} "), value, F.lit("; no metrics are computed"))
    )
    return F.when(F.coalesce(holds, F.lit(False)), F.col(column)).otherwise(error)


def split_sign(signed: Floats) -> tuple[Floats, Bools]:
    """Scores, and whether the row was clicked: without a click their sign is minus, that of 0.0 too."""
    return np.abs(signed), ~np.signbit(signed)


def _group() -> Column:
    return F.xxhash64("run_id", "domain").alias("group")


def list_parts(kind: Ints, names: Sequence[Name]) -> Iterator[tuple[Name, slice]]:
    """Where each name's rows stand, of those that have any; `kind`: the place of a row's name, sorted."""
    cuts = np.searchsorted(kind, np.arange(len(names) + 1))
    for name, start, end in zip(names, cuts[:-1], cuts[1:], strict=True):
        if start < end:
            yield name, slice(start, end)


def make_batch(names: Sequence[Name], values: Sequence[Sequence[object]], schema: pa.Schema) -> pa.RecordBatch:
    """A row a name: run, domain, and then `values`, column by column."""
    columns = [[run for run, _ in names], [domain for _, domain in names], *values]
    arrays = [pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
