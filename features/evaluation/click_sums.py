"""Sums for PCOC, in one scan over rows in any order.

Each task returns one row per run and domain: sums over its rows, one per column of bootstrap weights.

Shapes: n rows, C columns of weights (the data and the bootstrap samples).
"""

from __future__ import annotations

import numpy as np
from pyspark.sql import DataFrame

from star_ctr.features.evaluation.grouped_sums import RunDomains, split_sign, sum_rows
from star_ctr.features.evaluation.poisson_bootstrap import Floats, Ints, Weights

_FRACTION = 32
"""Number of fractional bits in a sum of scores: exact sums of a billion rows fit into 63 bits."""


class ClickSums:
    """Predicted and actual clicks, for all columns of weights.

    Attributes:
        predicted: (C,) weighted sum of the scores, in units of 2^-32.
        clicks: (C,) total weight of the clicked rows.

    Args:
        columns: Number of columns of weights, C.
    """

    def __init__(self, columns: int) -> None:
        self.predicted, self.clicks = (np.zeros(columns, np.int64) for _ in range(2))

    def add(self, signed: Floats, weight: Weights) -> None:
        """Add rows.

        Args:
            signed: (n,) score of each row, with the sign that `split_sign` reads.
            weight: (C, n) weights.
        """
        score, is_clicked = split_sign(signed)
        # Integers, so that the sums do not depend on the order of rows.
        self.predicted += weight.astype(np.int64) @ np.rint(np.ldexp(score, _FRACTION)).astype(np.int64)
        self.clicks += weight[:, is_clicked].sum(axis=1, dtype=np.int64)


def compute_pcoc(predicted: Ints, clicks: Ints) -> Floats:
    """Return predicted clicks / actual clicks from the sums of `ClickSums`, (C,); NaN without clicks."""
    return np.divide(
        np.ldexp(predicted.astype(np.float64), -_FRACTION), clicks, out=np.full(len(clicks), np.nan), where=clicks > 0
    )


def sum_clicks(scores: DataFrame, names: RunDomains, samples: int, seed: int) -> DataFrame:
    """Compute the sums that PCOC is computed from.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        names: The runs and domains of `scores`.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        One row per task, run and domain (including `overall`), with the sums of `ClickSums`.
    """
    return sum_rows(scores, names, samples, seed, ClickSums, lambda signed: signed, ("predicted", "clicks"))
