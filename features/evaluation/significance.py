"""Significance tests: one-sided p-values, and Holm's correction for multiple tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import t

PRIOR_DISPERSION, PRIOR_DOF = 4.0, 12.0
"""Prior dispersion of counts, used without data, and the weight of this prior in degrees of freedom."""


def compute_p_below(estimate: float, std: float, users: float, samples: float = math.inf) -> float:
    """Return the one-sided p-value of an estimate below 0.

    This is the probability of an estimate this low if the true value is 0. It uses Student's t distribution: a few
    hundred bootstrap samples cannot resolve the small p-values that a correction for dozens of tests requires. Their
    standard deviation has a relative error of 1 / sqrt(2 samples), which the degrees of freedom account for.

    Args:
        estimate: The estimate.
        std: Its standard error, the standard deviation over bootstrap samples; 0 if all users agree.
        users: Effective number of users, (sum n)^2 / sum n^2 with n rows per user; above 1.
        samples: Number of bootstrap samples from which `std` was computed.

    Returns:
        The p-value. If `std` is 0, it is 0 for an estimate below 0, else 1.
    """
    if std == 0:
        return 0.0 if estimate < 0 else 1.0
    return float(t.cdf(estimate / std, min(samples, users) - 1))


def compute_detectable_loss(rate: float, power: float, std: float, users: float, samples: float = math.inf) -> float:
    """Return the smallest true loss that a test with `compute_p_below` detects.

    Args:
        rate: Significance level: a loss is detected if the p-value is at most this.
        power: Probability with which the loss must be detected.
        std: As for `compute_p_below`.
        users: As for `compute_p_below`.
        samples: As for `compute_p_below`.
    """
    dof = min(samples, users) - 1
    return float((t.isf(rate, dof) + t.isf(1 - power, dof)) * std)


def estimate_dispersion(events: Sequence[float], expected: Sequence[float]) -> tuple[float, float]:
    """Estimate the variance of nightly counts relative to Poisson counts, shrunk toward a conservative prior.

    A few users cause many of the events, so counts vary more than Poisson counts do. The residuals are differences of
    square roots, because their variance does not depend on the mean. The largest squared residual is replaced by the
    second largest: a single outlier night must not hide a loss on the following nights.

    Args:
        events: Count of each night.
        expected: Expected count of each night; above 0.

    Returns:
        The dispersion, at least 1, and its degrees of freedom.
    """
    squares = sorted(4 * (math.sqrt(c) - math.sqrt(e)) ** 2 for c, e in zip(events, expected, strict=True))
    dof = max(len(squares) - 2, 0)  # one for the expected rate, one for the night that is replaced
    total_square = sum(squares[:-1]) + squares[-2] if dof else 0.0
    total_dof = PRIOR_DOF + dof
    return max(1.0, (PRIOR_DOF * PRIOR_DISPERSION + total_square) / total_dof), total_dof


def compute_p_count(events: float, expected: float, dispersion: tuple[float, float], error: float = 0.0) -> float:
    """Return the one-sided p-value of a low count, from Student's t distribution on square roots.

    This is the probability of a count this low. One minus this value is the p-value of a count this high.

    Args:
        events: The count.
        expected: Its expected value.
        dispersion: The dispersion and its degrees of freedom, from `estimate_dispersion`.
        error: Variance of the expected value, relative to that of the count.
    """
    spread, dof = dispersion
    return float(t.cdf(2 * (math.sqrt(events) - math.sqrt(expected)) / math.sqrt(spread * (1 + error)), dof))


def reject_holm(p: Sequence[float], rate: float) -> list[bool]:
    """Decide which null hypotheses to reject, with Holm's procedure.

    Holm's procedure is valid under any dependence between the tests.

    Args:
        p: The p-value of each test.
        rate: Maximum family-wise error rate.

    Returns:
        For each test, whether its null hypothesis is rejected.
    """
    rejected = [False] * len(p)
    for rank, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if not p[k] <= rate / (len(p) - rank):
            break
        rejected[k] = True
    return rejected
