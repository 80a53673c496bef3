"""GAUC (eq. 9) in one scan over rows partitioned and sorted by user.

Each task holds whole users. NumPy ranks the rows of many users at a time. Each task returns one row per run and domain:
sums over its users, one per column of bootstrap weights (`UserSums`). `compute_gauc` computes GAUC from them. The AUC
of a user in a domain uses the user's impressions in this domain; for `overall`, it uses all impressions of the user.

Shapes: n rows, m users, C columns of weights (the data and the bootstrap samples).
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
    RunDomains,
    SumsByDomain,
    iter_slices,
    make_compact_rows,
    split_sign,
)
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, Weights, draw_weights

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
_FRACTION = 36
"""Number of fractional bits in a summed GAUC: exact sums of 100 million users fit into 63 bits."""


class UserSums:
    """Sums of impression-weighted user AUC (eq. 9) over users with both classes, for all columns of weights.

    Attributes:
        rows: (C,) weighted number of impressions of users with both classes.
        whole: (C,) weighted sum of impressions x AUC, integer part.
        part: (C,) weighted sum of impressions x AUC, fractional part in units of 2^-36.
        users: Number of all users, unweighted.
        with_both: Number of users with both classes, unweighted.
        squares: Sum of the squared number of impressions over users with both classes, unweighted.

    Args:
        columns: Number of columns of weights, C.
    """

    def __init__(self, columns: int) -> None:
        self.users = self.with_both = self.squares = 0
        self.rows, self.whole, self.part = (np.zeros(columns, np.int64) for _ in range(3))

    def add(self, rows: Ints, auc: Floats, weight: Weights) -> None:
        """Add users with both classes. `users` is not updated.

        Args:
            rows: (m,) number of impressions of each user.
            auc: (m,) AUC of each user.
            weight: (C, m) weights.
        """
        value = rows * auc
        whole = np.floor(value)
        part = np.rint(np.ldexp(value - whole, _FRACTION))
        sums = weight.astype(np.int64) @ np.stack([rows, whole, part], axis=1).astype(np.int64)
        self.with_both += len(rows)
        self.squares += int(np.square(rows).sum())
        self.rows += sums[:, 0]
        self.whole += sums[:, 1]
        self.part += sums[:, 2]


def compute_gauc(rows: Ints, whole: Ints, part: Ints) -> Floats:
    """Return the GAUC (eq. 9) from the sums of `UserSums`, (C,); NaN if no user has both classes."""
    value = whole + np.ldexp(part.astype(np.float64), -_FRACTION)
    return np.divide(value, rows, out=np.full(len(rows), np.nan), where=rows > 0)


def sum_users(scores: DataFrame, names: RunDomains, samples: int, seed: int) -> DataFrame:
    """Compute the sums from which GAUC follows.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        names: The runs and domains of `scores`.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        One row per task, run and domain (including `overall`), with the schema SUMS.
    """
    # Rows are partitioned by one hash of the user. A second hash distinguishes users whose first hash is equal.
    rows = make_compact_rows(scores, F.xxhash64(F.lit(1), "user_id").alias("user"))

    def sum_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = _UserSumsByDomain(names, samples, seed, UserSums)
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
        names, group = self.names, self.names.find_groups(block["group"].to_numpy())
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
        starts, seen, clicked, wins = count_wins(group, rows.score, rows.positive)
        for k, n in enumerate(np.bincount(indices[starts], minlength=len(names))):
            if n:
                self.sums[names[k]].users += int(n)
        both = np.flatnonzero((clicked > 0) & (clicked < seen))
        both = both[np.argsort(indices[starts[both]], kind="stable")]
        first, seen, clicked = starts[both], seen[both], clicked[both]
        auc = wins[both] / (2.0 * clicked * (seen - clicked))
        weight = draw_weights(rows.key[first], self.samples, self.seed)
        for name, part in iter_slices(indices[first], names):
            self.sums[name].add(seen[part], auc[part], weight[:, part])


def count_wins(group: Ints, score: Floats, positive: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """Count rows, positive rows and wins by group; tied pairs count as half wins.

    Args:
        group: (n,) group of each row, in ascending order.
        score: (n,) scores, in ascending order within a group.
        positive: (n,) whether each row is positive.

    Returns:
        For each group its first row number, its number of rows, its number of positive rows, and twice the number of
        pairs that positive rows win.
    """
    n = len(group)
    changes = np.r_[True, group[1:] != group[:-1]]
    starts = np.flatnonzero(changes)
    tie = np.flatnonzero(changes | np.r_[True, score[1:] != score[:-1]])
    below = np.r_[0, np.cumsum(~positive)]
    beaten = np.repeat(below[tie] + below[np.r_[tie[1:], n]], np.diff(np.r_[tie, n]))
    rows = np.diff(np.r_[starts, n])
    won = np.where(positive, beaten - np.repeat(2 * below[starts], rows), 0)
    return starts, rows, np.add.reduceat(positive.astype(np.int64), starts), np.add.reduceat(won, starts)
