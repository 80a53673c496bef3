"""Tests of whether a number fell by chance: one-sided p-values, and Holm's correction for many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binom, poisson, t


def p_below(estimate: float, std: float, users: float, draws: float = math.inf) -> float:
    """The chance of an estimate as low as this one where its true value is 0.

    The tail is that of Student's t. Quantiles of some hundred draws end at one in a few hundred, above what a test
    among dozens must resolve; their standard deviation is known to 1 / sqrt(2 draws), and the degrees of freedom say
    how well.

    Args:
        estimate: The estimate.
        std: Its standard error, the standard deviation of its bootstrap draws. 0: all users agree.
        users: Effective number of users that it averages over, (sum n)^2 / sum n^2; above 1.
        draws: Bootstrap draws that `std` comes from.
    """
    if std == 0:
        return 0.0 if estimate < 0 else 1.0
    return float(t.cdf(estimate / std, min(draws, users) - 1))


def smallest_seen(rate: float, power: float, std: float, users: float, draws: float = math.inf) -> float:
    """The smallest true loss for which `p_below` is at most `rate` with a chance of `power`."""
    freedom = min(draws, users) - 1
    return float((t.isf(rate, freedom) + t.isf(1 - power, freedom)) * std)


def p_fewer(events: int, trials: int, events_before: int, trials_before: int) -> float:
    """The chance of so few events, where the rate is that of the trials before; exact, given all events."""
    return float(binom.cdf(events, events + events_before, trials / (trials + trials_before)))


def p_poisson(events: int, expected: float) -> float:
    """The chance of a number of events at least as far from the expected one, to either side."""
    return min(1.0, 2 * float(min(poisson.cdf(events, expected), poisson.sf(events - 1, expected))))


def holm(p: Sequence[float], rate: float) -> list[bool]:
    """Which of several null hypotheses to reject, so that one that is true is rejected with a chance of `rate` at most.

    Holm's procedure holds for tests that depend on each other in any way.
    """
    rejected = [False] * len(p)
    for rank, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if not p[k] <= rate / (len(p) - rank):
            break
        rejected[k] = True
    return rejected
