"""Helpers for sums by run and domain: compact rows as input, and one batch of sums per Spark task as output.

Rows sent to Python contain hashes of the user, run and domain in place of their names, because sending strings would
take most of the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, Weights, draw_weights

S = TypeVar("S")
Name = tuple[str, str]
"""Run and domain."""
_WEIGHTS = 1 << 20
"""Number of weights in a block of rows."""


class RowSums(Protocol):
    """Sums over rows, for all columns of weights."""

    def add(self, values: Floats, weight: Weights, /) -> None:
        """Add rows with their values, (n,), and weights, (C, n)."""


class RunDomains(NamedTuple):
    """The runs and domains of scores.

    Attributes:
        hashes: (k,) hash of each group in the compact rows, in ascending order.
        groups: The run and domain of each hash.
        run: (k,) index in `runs` of the run of each group.
        runs: Each run with the domain `overall`.
    """

    hashes: Ints
    groups: list[Name]
    run: Ints
    runs: list[Name]

    def find_groups(self, hashes: Ints) -> Ints:
        """Return the index in `groups` of each hash, (n,)."""
        return np.searchsorted(self.hashes, hashes)


class SumsByDomain(Generic[S]):
    """The sums of a Spark task by run and domain.

    Args:
        names: The runs and domains.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        make_sums: Creates empty sums for a number of samples, including the data itself.
    """

    def __init__(self, names: RunDomains, samples: int, seed: int, make_sums: Callable[[int], S]) -> None:
        self.names, self.samples, self.seed = names, samples, seed
        self.sums: dict[Name, S] = defaultdict(lambda: make_sums(1 + samples))

    def to_batch(self, attributes: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
        """Return all sums as a batch: run, domain, and then the given attributes of the sums."""
        values = [[getattr(sums, name) for sums in self.sums.values()] for name in attributes]
        return make_batch(list(self.sums), values, schema)


def sum_rows(
    scores: DataFrame,
    names: RunDomains,
    samples: int,
    seed: int,
    make_sums: Callable[[int], RowSums],
    compute_values: Callable[[Floats], Floats],
    attributes: Sequence[str],
) -> DataFrame:
    """Sum values of rows in one scan, in any order.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        names: The runs and domains of `scores`.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        make_sums: Creates empty sums, given the number of columns of weights.
        compute_values: Computes the value of each row, (n,), from the signed scores of compact rows.
        attributes: Names of the sums, each an integer per column of weights, (C,).

    Returns:
        One row per task, run and domain (including `overall`), with `run_id`, `domain` and the sums as lists.
    """
    numbers = [(name, pa.list_(pa.int64())) for name in attributes]
    schema = pa.schema([("run_id", pa.string()), ("domain", pa.string()), *numbers])
    block = max(_WEIGHTS // (1 + samples), 1)

    def sum_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = SumsByDomain(names, samples, seed, make_sums)
        for batch in batches:
            for start in range(0, batch.num_rows, block):
                _add_rows(sums, batch.slice(start, block), compute_values)
        yield sums.to_batch(attributes, schema)

    columns = ", ".join(f"{name} array<long>" for name in attributes)
    return make_compact_rows(scores).mapInArrow(sum_partition, f"run_id string, domain string, {columns}")


def _add_rows(sums: SumsByDomain[RowSums], block: pa.RecordBatch, compute_values: Callable[[Floats], Floats]) -> None:
    """Add compact rows to the sums of their domain and of `overall`."""
    names, group = sums.names, sums.names.find_groups(block["group"].to_numpy())
    values = compute_values(block["score"].to_numpy())
    weight = draw_weights(block["key"].to_numpy(), sums.samples, sums.seed)
    for indices, named in ((group, names.groups), (names.run[group], names.runs)):
        order = np.argsort(indices, kind="stable")
        ordered = np.take(weight, order, axis=1)
        for name, part in iter_slices(indices[order], named):
            sums.sums[name].add(values[order][part], ordered[:, part])


def collect_names(scores: DataFrame) -> RunDomains:
    """Read `scores` and return its runs and domains."""
    found = sorted(scores.select(_group(), "run_id", "domain").distinct().collect(), key=lambda row: row.group)
    runs = sorted({row.run_id for row in found})
    return RunDomains(
        np.array([row.group for row in found], np.int64),
        [(row.run_id, row.domain) for row in found],
        np.array([runs.index(row.run_id) for row in found], np.int64),
        [(run, OVERALL) for run in runs],
    )


def make_compact_rows(scores: DataFrame, *more: Column) -> DataFrame:
    """Convert scores to compact rows of numbers.

    The query fails on an invalid score or label, which would otherwise change the ranking and the metrics silently.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        *more: Additional columns to keep.

    Returns:
        Rows with `key`, a hash of the user for `poisson_bootstrap.draw_weights`; `group`, a hash of the run and domain
        as in `RunDomains`; `score`, positive for label 1 and negative for label 0 (see `split_sign`); and `more`.
    """
    key, score = F.xxhash64("user_id").alias("key"), F.abs(require_valid("score", F.col("score").between(0, 1)))
    is_clicked = require_valid("label", F.col("label").isin(0.0, 1.0)) > 0
    return scores.select(key, _group(), F.when(is_clicked, score).otherwise(-score).alias("score"), *more)


def require_valid(column: str, holds: Column) -> Column:
    """Return a column that fails the query on rows with an invalid value.

    Args:
        column: The column to check.
        holds: The condition for a valid value. A row is invalid if it is false or null.
    """
    value = F.coalesce(F.col(column).cast("string"), F.lit("null"))
    error = F.raise_error(
        F.concat(F.lit(f"a row has the invalid {column} "), value, F.lit("; no metrics are computed"))
    )
    return F.when(F.coalesce(holds, F.lit(False)), F.col(column)).otherwise(error)


def split_sign(signed: Floats) -> tuple[Floats, Bools]:
    """Split signed scores from `make_compact_rows` into scores and labels.

    Returns:
        The scores, and whether each row was clicked. The sign of a row without a click is negative, also for a score of
        0.0 (-0.0).
    """
    return np.abs(signed), ~np.signbit(signed)


def _group() -> Column:
    """Return the hash of run and domain."""
    return F.xxhash64("run_id", "domain").alias("group")


def iter_slices(indices: Ints, names: Sequence[Name]) -> Iterator[tuple[Name, slice]]:
    """Yield each name that has rows, with the slice of its rows.

    Args:
        indices: (n,) index in `names` of each row, in ascending order.
        names: The run and domain of each index.
    """
    bounds = np.searchsorted(indices, np.arange(len(names) + 1))
    for name, start, end in zip(names, bounds[:-1], bounds[1:], strict=True):
        if start < end:
            yield name, slice(start, end)


def make_batch(names: Sequence[Name], values: Sequence[Sequence[object]], schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with one row per name.

    Args:
        names: Run and domain of each row, for the first two columns.
        values: The values of each further column.
        schema: The schema of the batch.
    """
    columns = [[run for run, _ in names], [domain for _, domain in names], *values]
    arrays = [pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
