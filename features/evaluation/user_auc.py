"""GAUC (eq. 9) in one sorted pass: users are brought together, and NumPy ranks the rows of many of them at a time.

What leaves a task is a row for each run and domain: sums over its users, one a column of weights (`resampling`). Within
a domain a user's impressions are those in it; for `overall`, all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.features.evaluation.grouped_sums import Name, Names, list_parts, make_batch, number_rows, split_sign
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, UserSums, draw_weights, find_ties

SUMS = (
    "run_id string, domain string, users long, gauc_users long, gauc_squares long, "
    "gauc_rows array<long>, auc_whole array<long>, auc_part array<long>"
)
_ARROW = pa.schema(
    [("run_id", pa.string()), ("domain", pa.string()), ("users", pa.int64())]
    + [(name, pa.int64()) for name in ("gauc_users", "gauc_squares")]
    + [(name, pa.list_(pa.int64())) for name in ("gauc_rows", "auc_whole", "auc_part")]
)


def sum_users(scores: DataFrame, names: Names, replicates: int, seed: int) -> DataFrame:
    """SUMS of each task's users. `scores`: run_id, user_id, domain, label (0.0 or 1.0), score; `names`: those in it."""
    # Users are brought together by one hash; a second one tells apart those that share the first.
    rows = number_rows(scores, F.xxhash64(F.lit(1), "user_id").alias("user"))

    def pass_over(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = _Groups(names, replicates, seed)
        for block in _split_between_users(batches):
            sums.add(block)
        yield sums.batch()

    # One column to sort by, so that Spark sorts by its bits; the rest of the order is cheaper in NumPy.
    return rows.repartition("key").sortWithinPartitions("key").mapInArrow(pass_over, SUMS)


def _split_between_users(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, cut between users: the last user of a batch waits for the next."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows == 0:
            continue
        key = batch.column("key").to_numpy()
        start = int(np.searchsorted(key, key[-1], side="left"))
        if start == 0 and (not waiting or waiting[-1].column("key")[-1] == batch.column("key")[0]):
            waiting.append(batch)
            continue
        yield _join([*waiting, batch.slice(0, start)])
        waiting = [batch.slice(start)]
    if waiting:
        yield _join(waiting)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _number_users(key: Ints, other: Ints) -> Ints:
    """A number for each row's user; `key` is sorted, and `other` tells apart users of one key."""
    next_key, next_other = key[1:] != key[:-1], other[1:] != other[:-1]
    if (next_other & ~next_key).any():
        order = np.lexsort((other, key))
        user = np.empty(len(key), np.int64)
        user[order] = np.r_[0, np.cumsum((np.diff(key[order]) != 0) | (np.diff(other[order]) != 0))]
        return user
    return np.concatenate([[0], np.cumsum(next_key)])


class _Rows(NamedTuple):
    """Rows in the order of their users' scores, (n,) each."""

    key: Ints
    score: Floats
    positive: Bools


class _Groups:
    """Sums by run and domain."""

    def __init__(self, names: Names, replicates: int, seed: int) -> None:
        self.names, self.replicates, self.seed = names, replicates, seed
        self.sums: dict[tuple[str, str], UserSums] = defaultdict(lambda: UserSums(1 + replicates))

    def add(self, block: pa.RecordBatch) -> None:
        """Rows of whole users."""
        names, group = self.names, self.names.places(block["group"].to_numpy())
        run, key = names.run[group], block["key"].to_numpy()
        user = _number_users(key, block["user"].to_numpy())
        score, positive = split_sign(block["score"].to_numpy())
        of_user = user * len(names.runs) + run
        order = np.lexsort((score, of_user))
        rows = _Rows(key[order], score[order], positive[order])
        self._add(of_user[order], run[order], names.runs, rows)
        of_group = (user * len(names.groups) + group)[order]
        again = np.argsort(of_group, kind="stable")
        rows = _Rows(rows.key[again], rows.score[again], rows.positive[again])
        self._add(of_group[again], group[order][again], names.groups, rows)

    def _add(self, group: Ints, kind: Ints, names: list[Name], rows: _Rows) -> None:
        """Add the users that `group` tells apart (rows are sorted by it) to the sums of `names` at their `kind`."""
        starts, seen, clicked, wins = find_ties(group, rows.score, rows.positive)
        for k, n in enumerate(np.bincount(kind[starts], minlength=len(names))):
            if n:
                self.sums[names[k]].users += int(n)
        both = np.flatnonzero((clicked > 0) & (clicked < seen))
        both = both[np.argsort(kind[starts[both]], kind="stable")]
        first, seen, clicked = starts[both], seen[both], clicked[both]
        of_auc = wins[both] / (2.0 * clicked * (seen - clicked))
        weight = draw_weights(rows.key[first], self.replicates, self.seed)
        for name, part in list_parts(kind[first], names):
            self.sums[name].add(seen[part], of_auc[part], weight[:, part])

    def batch(self) -> pa.RecordBatch:
        """All sums, as SUMS."""
        sums = self.sums.values()
        values = [
            [getattr(s, name) for s in sums] for name in ("users", "with_both", "squares", "rows", "whole", "part")
        ]
        return make_batch(list(self.sums), values, _ARROW)
