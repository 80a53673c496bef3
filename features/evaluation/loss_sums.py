"""Log loss in one scan over rows in any order.

Each task returns one row per run and domain: sums over its rows, one per column of bootstrap weights.

Shapes: n rows, C columns of weights (the data and the bootstrap samples).
"""

from __future__ import annotations

import numpy as np
from pyspark.sql import DataFrame

from star_ctr.features.evaluation.grouped_sums import RunDomains, split_sign, sum_rows
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, Weights

LEAST_SCORE = 1e-15
"""Scores are clipped to [LEAST_SCORE, 1 - LEAST_SCORE] for the log loss."""
_FRACTION = 30
"""Number of fractional bits in a summed loss: exact sums of 250 million rows with the largest loss fit into 63 bits."""


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
        One row per task, run and domain (including `overall`), with the sums of `LossSums`.
    """

    def compute_losses(signed: Floats) -> Floats:
        return compute_row_losses(*split_sign(signed))

    return sum_rows(scores, names, samples, seed, LossSums, compute_losses, ("rows", "loss"))
