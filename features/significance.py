"""Significance tests: one-sided p-values, and Holm's correction for multiple tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binom, poisson, t


def p_below(estimate: float, std: float, users: float, draws: float = math.inf) -> float:
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


def smallest_detectable(rate: float, power: float, std: float, users: float, draws: float = math.inf) -> float:
    """Return the smallest true loss for which `p_below` is at most `rate` with probability `power`."""
    freedom = min(draws, users) - 1
    return float((t.isf(rate, freedom) + t.isf(1 - power, freedom)) * std)


def p_fewer(events: int, trials: int, events_before: int, trials_before: int) -> float:
    """Return the p-value of so few events at the rate of the earlier trials; exact, conditional on all events."""
    return float(binom.cdf(events, events + events_before, trials / (trials + trials_before)))


def p_poisson(events: int, expected: float) -> float:
    """Return the two-sided p-value of a number of events against its expected value."""
    return min(1.0, 2 * float(min(poisson.cdf(events, expected), poisson.sf(events - 1, expected))))


def holm(p: Sequence[float], rate: float) -> list[bool]:
    """Return which null hypotheses to reject so that the family-wise error rate is at most `rate`.

    Holm's procedure is valid under any dependence between the tests.
    """
    rejected = [False] * len(p)
    for rank, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if not p[k] <= rate / (len(p) - rank):
            break
        rejected[k] = True
    return rejected
