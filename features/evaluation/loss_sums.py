"""Log loss in one scan over rows in any order.

Each task returns one row per run and domain: sums over its rows, one per column of bootstrap weights.

Shapes: n rows, C columns of weights (the data and the bootstrap samples).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from star_ctr.features.evaluation.grouped_sums import (
    RunDomains,
    SumsByDomain,
    iter_slices,
    make_compact_rows,
    split_sign,
)
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, Weights, draw_weights

LEAST_SCORE = 1e-15
"""Scores are clipped to [LEAST_SCORE, 1 - LEAST_SCORE] for the log loss."""
SUMS = "run_id string, domain string, rows array<long>, loss array<long>"
"""Schema of the sums of a task; see `LossSums` for the columns."""
_ATTRIBUTES = ("rows", "loss")
_ARROW = pa.schema(
    [("run_id", pa.string()), ("domain", pa.string())] + [(name, pa.list_(pa.int64())) for name in _ATTRIBUTES]
)
_FRACTION = 30
"""Number of fractional bits in a summed loss: exact sums of 250 million rows with the largest loss fit into 63 bits."""
_WEIGHTS = 1 << 20
"""Number of weights in a block of rows."""


class LossSums:
    """Sums of the log loss, for all columns of weights.

    Attributes:
        rows: (C,) weight of the rows.
        loss: (C,) weighted sum of the losses, in units of 2^-30.

    Args:
        columns: Number of columns of weights, C.
    """

    def __init__(self, columns: int) -> None:
        self.rows, self.loss = (np.zeros(columns, np.int64) for _ in range(2))

    def add(self, loss: Floats, weight: Weights) -> None:
        """Add rows.

        Args:
            loss: (n,) log loss of each row.
            weight: (C, n) weights.
        """
        # Integers, so that the sums do not depend on the order of rows.
        self.loss += weight.astype(np.int64) @ np.rint(np.ldexp(loss, _FRACTION)).astype(np.int64)
        self.rows += weight.sum(axis=1, dtype=np.int64)


def compute_log_loss(rows: Ints, loss: Ints) -> Floats:
    """Return the mean log loss from the sums of `LossSums`, (C,); NaN without rows."""
    return np.divide(
        np.ldexp(loss.astype(np.float64), -_FRACTION), rows, out=np.full(len(rows), np.nan), where=rows > 0
    )


def compute_row_losses(score: Floats, positive: Bools) -> Floats:
    """Return the log loss of each row, (n,).

    Args:
        score: (n,) scores in [0, 1].
        positive: (n,) whether each row is positive.
    """
    p = np.clip(score, LEAST_SCORE, 1 - LEAST_SCORE)
    return -np.where(positive, np.log(p), np.log1p(-p))


def sum_losses(scores: DataFrame, names: RunDomains, samples: int, seed: int) -> DataFrame:
    """Compute the sums from which the log loss follows.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        names: The runs and domains of `scores`.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        One row per task, run and domain (including `overall`), with the schema SUMS.
    """

    def sum_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = _LossSumsByDomain(names, samples, seed, LossSums)
        block = max(_WEIGHTS // (1 + samples), 1)
        for batch in batches:
            for start in range(0, batch.num_rows, block):
                sums.add(batch.slice(start, block))
        yield sums.to_batch(_ATTRIBUTES, _ARROW)

    return make_compact_rows(scores).mapInArrow(sum_partition, SUMS)


class _LossSumsByDomain(SumsByDomain[LossSums]):
    """The `LossSums` of a task by run and domain."""

    def add(self, block: pa.RecordBatch) -> None:
        """Add compact rows."""
        names, group = self.names, self.names.find_groups(block["group"].to_numpy())
        loss = compute_row_losses(*split_sign(block["score"].to_numpy()))
        weight = draw_weights(block["key"].to_numpy(), self.samples, self.seed)
        for indices, named in ((group, names.groups), (names.run[group], names.runs)):
            order = np.argsort(indices, kind="stable")
            ordered = np.take(weight, order, axis=1)
            for name, part in iter_slices(indices[order], named):
                self.sums[name].add(loss[order][part], ordered[:, part])
