"""Significance tests: one-sided p-values, and Holm's correction for multiple tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import t

PRIOR_DISPERSION, PRIOR_FREEDOM = 4.0, 12.0
"""Prior dispersion of counts, used without data, and the weight of this prior in degrees of freedom."""


def compute_p_below(estimate: float, std: float, users: float, draws: float = math.inf) -> float:
    """Return the one-sided p-value of an estimate below 0: the probability of one this low if the true value is 0.

    Uses Student's t. A few hundred bootstrap draws cannot resolve the small p-values that a correction for dozens of
    tests requires. Their standard deviation is accurate to 1 / sqrt(2 draws), which the degrees of freedom account for.

    Args:
        estimate: The estimate.
        std: Its standard error, the standard deviation of its bootstrap draws; 0 if all users agree.
        users: Effective number of users, (sum n)^2 / sum n^2; above 1.
        draws: Number of bootstrap draws behind `std`.
    """
    if std == 0:
        return 0.0 if estimate < 0 else 1.0
    return float(t.cdf(estimate / std, min(draws, users) - 1))


def compute_detectable_loss(rate: float, power: float, std: float, users: float, draws: float = math.inf) -> float:
    """Return the smallest true loss for which `compute_p_below` is at most `rate` with probability `power`."""
    freedom = min(draws, users) - 1
    return float((t.isf(rate, freedom) + t.isf(1 - power, freedom)) * std)


def estimate_dispersion(events: Sequence[float], expected: Sequence[float]) -> tuple[float, float]:
    """Estimate the variance of nightly counts relative to Poisson counts, shrunk toward a conservative prior.

    A few users cause many of the events, so counts vary more than Poisson counts do. The residuals are those of square
    roots, whose variance does not depend on the mean. The largest one counts only as much as the second largest: one
    odd night must not hide a loss on the nights after it.

    Args:
        events: Count of each night.
        expected: Expected count of each night; above 0.

    Returns:
        The dispersion, at least 1, and its degrees of freedom.
    """
    squares = sorted(4 * (math.sqrt(c) - math.sqrt(e)) ** 2 for c, e in zip(events, expected, strict=True))
    freedom = max(len(squares) - 2, 0)  # one for the expected rate, one for the night that is cut
    found = sum(squares[:-1]) + squares[-2] if freedom else 0.0
    total = PRIOR_FREEDOM + freedom
    return max(1.0, (PRIOR_FREEDOM * PRIOR_DISPERSION + found) / total), total


def compute_p_count(events: float, expected: float, dispersed: tuple[float, float], error: float = 0.0) -> float:
    """Return the one-sided p-value of a count this low, by Student's t on square roots.

    One minus this value is the p-value of a count this high.

    Args:
        events: The count.
        expected: Its expected value.
        dispersed: Dispersion and its degrees of freedom, from `estimate_dispersion`.
        error: Variance of the expected value, relative to that of the count.
    """
    spread, freedom = dispersed
    return float(t.cdf(2 * (math.sqrt(events) - math.sqrt(expected)) / math.sqrt(spread * (1 + error)), freedom))


def reject_holm(p: Sequence[float], rate: float) -> list[bool]:
    """Return which null hypotheses to reject so that the family-wise error rate is at most `rate`.

    Holm's procedure is valid under any dependence between the tests.
    """
    rejected = [False] * len(p)
    for rank, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if not p[k] <= rate / (len(p) - rank):
            break
        rejected[k] = True
    return rejected
