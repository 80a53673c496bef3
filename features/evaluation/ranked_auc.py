"""AUC in one scan over rows sorted by score.

Rows are partitioned by ranges of the score, so that no domain needs to fit into one task. Equal scores are in the same
range. Each task returns one row per run and domain: the wins within its range, and the weights of both classes, from
which the wins across ranges are computed afterwards (`bootstrap.estimate_auc`).

Shapes: n rows, C columns of weights (the data and the bootstrap samples).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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

SUMS = "run_id string, domain string, lowest double, positive array<long>, negative array<long>, wins array<long>"
"""Schema of the sums of a task; see `RankSums` for the columns."""
_ATTRIBUTES = ("lowest", "positive", "negative", "wins")
"""Attributes of the sums in the order of the columns of SUMS after run and domain."""
_ARROW = pa.schema(
    [("run_id", pa.string()), ("domain", pa.string()), ("lowest", pa.float64())]
    + [(name, pa.list_(pa.int64())) for name in ("positive", "negative", "wins")]
)
_WEIGHTS = 1 << 20
"""Number of weights in a block: a block's intermediate results then fit into the cache of a core."""


class RankSums:
    """Sums of weighted AUC over rows that are added in the order of their score, for all columns of weights.

    The sums are exact up to about four billion rows.

    Attributes:
        positive: (C,) weight of the positive rows.
        negative: (C,) weight of the negative rows.
        wins: (C,) twice the weight of the pairs in which the positive row has the higher score; a tie counts as half a
            win.
        lowest: Lowest score, NaN without rows.

    Args:
        columns: Number of columns of weights, C.
    """

    def __init__(self, columns: int) -> None:
        self.positive, self.negative, self.wins = (np.zeros(columns, np.int64) for _ in range(3))
        self.lowest = np.nan
        self._score = np.nan
        self._tied = np.zeros((2, columns), np.int64)

    def add(self, score: Floats, positive: Bools, weight: Weights) -> None:
        """Add a block of rows.

        Args:
            score: (n,) scores in ascending order, n > 0, none below the scores of earlier blocks.
            positive: (n,) whether each row is positive.
            weight: (C, n) weights.
        """
        starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
        ends = np.r_[starts[1:], len(score)]
        below = np.zeros((len(weight), len(score) + 1), np.int32)
        np.cumsum(weight * ~positive, axis=1, dtype=np.int32, out=below[:, 1:])
        found = np.flatnonzero(positive)
        tie = np.searchsorted(starts, found, side="right") - 1
        counts = weight[:, found].astype(np.int64)
        added = counts.sum(axis=1)
        self.wins += np.einsum("cp,cp->c", counts, below[:, starts[tie]] + below[:, ends[tie]])
        self.wins += 2 * self.negative * added

        def sum_weights(start: int, end: int) -> Ints:
            """Return the positive and negative weight of a range of rows, (2, C)."""
            negative = below[:, end] - below[:, start]
            return np.stack([weight[:, start:end].sum(axis=1, dtype=np.int64) - negative, negative])

        first, last = sum_weights(0, ends[0]), sum_weights(starts[-1], ends[-1])
        if self._score == score[0]:
            # Pairs with equal scores of earlier blocks were counted as whole wins or as none: make them half wins.
            self.wins += self._tied[0] * first[1] - self._tied[1] * first[0]
            last = last + self._tied if len(starts) == 1 else last
        self._score, self._tied = score[-1], last
        self.lowest = score[0] if np.isnan(self.lowest) else self.lowest
        self.positive += added
        self.negative += below[:, -1]


def compute_auc(positive: Ints, negative: Ints, wins: Ints) -> Floats:
    """Return the AUC from the sums of `RankSums`, (C,); NaN if a class is missing."""
    pairs = 2.0 * positive * negative
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def sum_ranks(scores: DataFrame, names: RunDomains, samples: int, seed: int) -> DataFrame:
    """Compute the sums from which AUC follows.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        names: The runs and domains of `scores`.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        One row per task, run and domain (including `overall`), with the schema SUMS.
    """
    rows = make_compact_rows(scores).withColumn("rank", F.abs("score"))

    def sum_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = _RankSumsByDomain(names, samples, seed, RankSums)
        block = max(_WEIGHTS // (1 + samples), 1)
        for batch in batches:
            for start in range(0, batch.num_rows, block):
                sums.add(batch.slice(start, block))
        yield sums.to_batch(_ATTRIBUTES, _ARROW)

    return rows.repartitionByRange("rank").sortWithinPartitions("rank").drop("rank").mapInArrow(sum_partition, SUMS)


class _RankSumsByDomain(SumsByDomain[RankSums]):
    """The `RankSums` of a task by run and domain."""

    def add(self, block: pa.RecordBatch) -> None:
        """Add compact rows in ascending order of their score."""
        names, group = self.names, self.names.find_groups(block.column("group").to_numpy())
        score, positive = split_sign(block.column("score").to_numpy())
        weight = draw_weights(block.column("key").to_numpy(), self.samples, self.seed)
        self._add(names.run[group], names.runs, score, positive, weight)
        self._add(group, names.groups, score, positive, weight)

    def _add(self, indices: Ints, names: list[Name], score: Floats, positive: Bools, weight: Weights) -> None:
        """Add rows to the sums of their names.

        Args:
            indices: (n,) index in `names` of each row.
            names: The run and domain of each index.
            score: (n,) scores in ascending order.
            positive: (n,) whether each row is positive.
            weight: (C, n) weights.
        """
        if len(names) > 1:
            order = np.argsort(indices, kind="stable")
            indices, score, positive = indices[order], score[order], positive[order]
            weight = np.take(weight, order, axis=1)
        for name, part in iter_slices(indices, names):
            self.sums[name].add(score[part], positive[part], weight[:, part])
