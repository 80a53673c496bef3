"""AUC in one scan over rows sorted by score.

Rows are partitioned by ranges of the score, so that no domain needs to fit into one task. Equal scores are in the same
range. Each task returns one row per run and domain: the wins within its range, and the weights of both classes, from
which the wins across ranges are computed afterwards (`bootstrap.estimate_auc`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, RankSums, Weights, draw_weights

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


def sum_ranks(scores: DataFrame, names: Names, replicates: int, seed: int) -> DataFrame:
    """Compute the sums from which AUC follows.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        names: The runs and domains of `scores`.
        replicates: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        One row per task, run and domain (including `overall`), with the schema SUMS.
    """
    rows = make_compact_rows(scores).withColumn("rank", F.abs("score"))

    def sum_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = _RankSumsByDomain(names, replicates, seed, RankSums)
        block = max(_WEIGHTS // (1 + replicates), 1)
        for batch in batches:
            for start in range(0, batch.num_rows, block):
                sums.add(batch.slice(start, block))
        yield sums.to_batch(_ATTRIBUTES, _ARROW)

    return rows.repartitionByRange("rank").sortWithinPartitions("rank").drop("rank").mapInArrow(sum_partition, SUMS)


class _RankSumsByDomain(SumsByDomain[RankSums]):
    """The `RankSums` of a task by run and domain."""

    def add(self, block: pa.RecordBatch) -> None:
        """Add compact rows in ascending order of their score."""
        names, group = self.names, self.names.places(block.column("group").to_numpy())
        score, positive = split_sign(block.column("score").to_numpy())
        weight = draw_weights(block.column("key").to_numpy(), self.replicates, self.seed)
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
