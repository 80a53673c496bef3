"""AUC in one sorted pass: rows are dealt out by ranges of the score, so that no domain must fit one task.

What leaves a task is a row for each run and domain: the wins within its range, and the weights of both classes, from
which those across ranges follow. Equal scores stand in one range.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.features.evaluation.grouped_sums import Name, Names, list_parts, make_batch, number_rows, split_sign
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, RankSums, Weights, draw_weights

SUMS = "run_id string, domain string, lowest double, positive array<long>, negative array<long>, wins array<long>"
_ARROW = pa.schema(
    [("run_id", pa.string()), ("domain", pa.string()), ("lowest", pa.float64())]
    + [(name, pa.list_(pa.int64())) for name in ("positive", "negative", "wins")]
)
_WEIGHTS = 1 << 20
"""Weights at a time: what is summed of them fits a core's cache."""


def sum_ranks(scores: DataFrame, names: Names, replicates: int, seed: int) -> DataFrame:
    """SUMS of each task's range. `scores`: run_id, user_id, domain, label (0.0 or 1.0), score; `names`: those in it."""
    rows = number_rows(scores).withColumn("rank", F.abs("score"))

    def pass_over(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = _Groups(names, replicates, seed)
        block = max(_WEIGHTS // (1 + replicates), 1)
        for batch in batches:
            for start in range(0, batch.num_rows, block):
                sums.add(batch.slice(start, block))
        yield sums.batch()

    return rows.repartitionByRange("rank").sortWithinPartitions("rank").drop("rank").mapInArrow(pass_over, SUMS)


class _Groups:
    """Sums by run and domain."""

    def __init__(self, names: Names, replicates: int, seed: int) -> None:
        self.names, self.replicates, self.seed = names, replicates, seed
        self.sums: dict[tuple[str, str], RankSums] = defaultdict(lambda: RankSums(1 + replicates))

    def add(self, block: pa.RecordBatch) -> None:
        """Rows in the order of their score."""
        names, group = self.names, self.names.places(block.column("group").to_numpy())
        score, positive = split_sign(block.column("score").to_numpy())
        weight = draw_weights(block.column("key").to_numpy(), self.replicates, self.seed)
        self._add(names.run[group], names.runs, score, positive, weight)
        self._add(group, names.groups, score, positive, weight)

    def _add(self, kind: Ints, names: list[Name], score: Floats, positive: Bools, weight: Weights) -> None:
        """Add rows to the sums that `names` has at their `kind`."""
        if len(names) > 1:
            order = np.argsort(kind, kind="stable")
            kind, score, positive, weight = kind[order], score[order], positive[order], np.take(weight, order, axis=1)
        for name, part in list_parts(kind, names):
            self.sums[name].add(score[part], positive[part], weight[:, part])

    def batch(self) -> pa.RecordBatch:
        """All sums, as SUMS."""
        sums = self.sums.values()
        values = [[getattr(s, name) for s in sums] for name in ("lowest", "positive", "negative", "wins")]
        return make_batch(list(self.sums), values, _ARROW)
