"""GAUC (eq. 9) in one scan over rows partitioned and sorted by user.

Each task holds whole users. NumPy ranks the rows of many users at a time. Each task returns one row per run and domain:
sums over its users, one per column of bootstrap weights. The AUC of a user in a domain uses the user's impressions in
this domain; for `overall`, it uses all impressions of the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.features.evaluation.grouped_sums import (
    Name,
    Names,
    SumsByDomain,
    iter_slices,
    make_compact_rows,
    split_sign,
)
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, UserSums, draw_weights, find_ties

SUMS = (
    "run_id string, domain string, users long, gauc_users long, gauc_squares long, "
    "gauc_rows array<long>, auc_whole array<long>, auc_part array<long>"
)
"""Schema of the sums of a task; see `UserSums` for the columns."""
_ATTRIBUTES = ("users", "with_both", "squares", "rows", "whole", "part")
"""Attributes of the sums in the order of the columns of SUMS after run and domain."""
_ARROW = pa.schema(
    [("run_id", pa.string()), ("domain", pa.string()), ("users", pa.int64())]
    + [(name, pa.int64()) for name in ("gauc_users", "gauc_squares")]
    + [(name, pa.list_(pa.int64())) for name in ("gauc_rows", "auc_whole", "auc_part")]
)


def sum_users(scores: DataFrame, names: Names, replicates: int, seed: int) -> DataFrame:
    """Compute the sums from which GAUC follows.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        names: The runs and domains of `scores`.
        replicates: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        One row per task, run and domain (including `overall`), with the schema SUMS.
    """
    # Rows are partitioned by one hash of the user. A second hash distinguishes users whose first hash is equal.
    rows = make_compact_rows(scores, F.xxhash64(F.lit(1), "user_id").alias("user"))

    def sum_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = _UserSumsByDomain(names, replicates, seed, UserSums)
        for block in _split_between_users(batches):
            sums.add(block)
        yield sums.to_batch(_ATTRIBUTES, _ARROW)

    # Sort by a single integer column, so that Spark can use its radix sort. NumPy does the rest of the order faster.
    return rows.repartition("key").sortWithinPartitions("key").mapInArrow(sum_partition, SUMS)


def _split_between_users(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in blocks of whole users: the last user of a batch is moved to the next block."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows == 0:
            continue
        key = batch.column("key").to_numpy()
        start = int(np.searchsorted(key, key[-1], side="left"))
        if start == 0 and (not pending or pending[-1].column("key")[-1] == batch.column("key")[0]):
            pending.append(batch)
            continue
        yield _join([*pending, batch.slice(0, start)])
        pending = [batch.slice(start)]
    if pending:
        yield _join(pending)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return one batch with the rows of all batches."""
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _number_users(key: Ints, other: Ints) -> Ints:
    """Return a number for each row's user, (n,).

    Args:
        key: (n,) hash of the user, in ascending order.
        other: (n,) second hash, which distinguishes users with the same `key`.
    """
    key_changes, other_changes = key[1:] != key[:-1], other[1:] != other[:-1]
    if (other_changes & ~key_changes).any():
        order = np.lexsort((other, key))
        user = np.empty(len(key), np.int64)
        user[order] = np.r_[0, np.cumsum((np.diff(key[order]) != 0) | (np.diff(other[order]) != 0))]
        return user
    return np.concatenate([[0], np.cumsum(key_changes)])


class _Rows(NamedTuple):
    """Rows ordered by user and, within a user, by score; each array has shape (n,)."""

    key: Ints
    score: Floats
    positive: Bools


class _UserSumsByDomain(SumsByDomain[UserSums]):
    """The `UserSums` of a task by run and domain."""

    def add(self, block: pa.RecordBatch) -> None:
        """Add compact rows of whole users."""
        names, group = self.names, self.names.places(block["group"].to_numpy())
        run, key = names.run[group], block["key"].to_numpy()
        user = _number_users(key, block["user"].to_numpy())
        score, positive = split_sign(block["score"].to_numpy())
        user_run = user * len(names.runs) + run
        order = np.lexsort((score, user_run))
        rows = _Rows(key[order], score[order], positive[order])
        self._add(user_run[order], run[order], names.runs, rows)
        user_group = (user * len(names.groups) + group)[order]
        # A stable sort keeps the rows of each user and domain in the order of their score.
        suborder = np.argsort(user_group, kind="stable")
        rows = _Rows(rows.key[suborder], rows.score[suborder], rows.positive[suborder])
        self._add(user_group[suborder], group[order][suborder], names.groups, rows)

    def _add(self, group: Ints, indices: Ints, names: list[Name], rows: _Rows) -> None:
        """Add users to the sums of their names.

        Args:
            group: (n,) number of each row's user and name, in ascending order.
            indices: (n,) index in `names` of each row.
            names: The run and domain of each index.
            rows: The rows.
        """
        starts, seen, clicked, wins = find_ties(group, rows.score, rows.positive)
        for k, n in enumerate(np.bincount(indices[starts], minlength=len(names))):
            if n:
                self.sums[names[k]].users += int(n)
        both = np.flatnonzero((clicked > 0) & (clicked < seen))
        both = both[np.argsort(indices[starts[both]], kind="stable")]
        first, seen, clicked = starts[both], seen[both], clicked[both]
        auc = wins[both] / (2.0 * clicked * (seen - clicked))
        weight = draw_weights(rows.key[first], self.replicates, self.seed)
        for name, part in iter_slices(indices[first], names):
            self.sums[name].add(seen[part], auc[part], weight[:, part])
