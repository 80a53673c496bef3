"""Mean difference of a metric between two models that were each trained with several seeds, with an interval.

There are two sources of randomness: the users of the test day, and the seeds of training. The variance of the mean over
seeds is estimated as the sum of two parts:

- The variance between bootstrap samples of users (`poisson_bootstrap`), of the mean over seeds.
- The variance between seeds, divided by their number.

Random errors of a model in the scores of individual users are part of both, so the sum is conservative.

Shapes: S seeds, C columns (the data and the bootstrap samples).

This module uses NumPy and SciPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from star_ctr.features.evaluation.poisson_bootstrap import Floats, compute_standard_error


@dataclass(frozen=True)
class MeanDifference:
    """A mean difference over seeds.

    Attributes:
        value: The difference.
        low: The lower bound of its interval; None if the interval is undefined.
        high: The upper bound; None if the interval is undefined.
        p: The two-sided p-value of a difference of 0; None if the interval is undefined.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None


def compute_mean_difference(differences: Floats, users: float, level: float) -> MeanDifference | None:
    """Compute the mean difference over seeds, with an interval and a p-value from Student's t distribution.

    The degrees of freedom are those of Welch and Satterthwaite for the two parts of the variance. With one seed, the
    interval does not include the variance between seeds.

    Args:
        differences: The difference of each seed, for the data (first column) and for each bootstrap sample, (S, C).
        users: Effective number of users, (sum n)^2 / sum n^2 with n rows per user.
        level: Confidence level of the interval, such as 0.95.

    Returns:
        The mean difference; None if it is undefined in the data.
    """
    means = differences.mean(axis=0)
    value = float(means[0])
    if math.isnan(value):
        return None
    error = compute_standard_error(means[1:], level)
    user_dof = min(len(means) - 1, users) - 1
    if error is None or user_dof < 1:
        return MeanDifference(value, None, None, None)
    parts = [(error**2, user_dof)]
    if (seeds := len(differences)) > 1:
        parts.append((float(np.var(differences[:, 0], ddof=1)) / seeds, seeds - 1))
    std, dof = combine_variances(parts)
    if std == 0:
        return MeanDifference(value, value, value, float(value == 0))
    margin = float(t.isf((1 - level) / 2, dof)) * std
    return MeanDifference(value, value - margin, value + margin, float(2 * t.sf(abs(value) / std, dof)))


def combine_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Add independent variances.

    Args:
        parts: The estimated variances, with their degrees of freedom.

    Returns:
        The standard deviation of the sum, and its degrees of freedom by Welch and Satterthwaite; infinite if all
        variances are 0.
    """
    variance = sum(v for v, _ in parts)
    return math.sqrt(variance), variance**2 / sum(v**2 / dof for v, dof in parts) if variance else math.inf
