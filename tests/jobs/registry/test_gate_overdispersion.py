"""Error rate and power of the click and PCOC checks if a few users make many of the clicks.

`pytest tests/jobs/registry/test_gate_overdispersion.py -s` prints the rates that docs/nights.md quotes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from star_ctr.conf.settings.gate import GateSettings
from star_ctr.features.evaluation.poisson_bootstrap import Floats, Ints
from star_ctr.features.evaluation.significance import (
    PRIOR_DISPERSION,
    PRIOR_DOF,
    compute_p_count,
    estimate_dispersion,
)
from star_ctr.jobs.registry.decisions import Outcome
from star_ctr.jobs.registry.gate_checks import GateInputs
from star_ctr.jobs.registry.gate_policy import decide

GATE = GateSettings(min_clicks=0)
Row = dict[str, Any]
Draw = Callable[[np.random.Generator], tuple[Ints, Ints, Floats]]
"""A function that draws the rows, clicks and expected clicks of each domain for one night."""


def night(rows: Ints, clicks: Ints, expected: Floats) -> list[Row]:
    """Make the metrics of a night; every model predicts the expected clicks."""
    counts = enumerate(zip(rows.tolist(), clicks.tolist(), strict=True))
    overall: Row = {"domain": "overall", "rows": int(rows.sum()), "clicks": int(clicks.sum())}
    good = {"gauc": 0.65, "gauc_low": 0.6, "gauc_high": 0.7, "log_loss": 0.1}
    pcoc = float(expected.sum()) / max(int(clicks.sum()), 1)
    return [*({"domain": f"d{k}", "rows": n, "clicks": c} for k, (n, c) in counts), {**overall, **good, "pcoc": pcoc}]


def negative_binomial(mean: float, fano: float, domains: int = 19, rows: int = 4_000) -> Draw:
    """Return a `Draw` with this mean of clicks, and ratio of variance to mean, in each domain."""

    def draw(rng: np.random.Generator) -> tuple[Ints, Ints, Floats]:
        rate = mean if fano == 1 else rng.gamma(mean / (fano - 1), fano - 1, domains)
        return np.full(domains, rows), rng.poisson(rate, domains), np.full(domains, mean)

    return draw


def log_normal_users(
    activity: float, propensity: float, users: int = 400, domains: int = 19, rate: float = 0.004
) -> Draw:
    """Return a `Draw` with about 4,000 rows per domain; `activity` and `propensity` are log-normal deviations."""

    def draw(rng: np.random.Generator) -> tuple[Ints, Ints, Floats]:
        size = (domains, users)
        n = rng.poisson(4_000 / users * np.exp(activity * rng.normal(size=size) - activity**2 / 2))
        p = np.minimum(0.9, rate * np.exp(propensity * rng.normal(size=size) - propensity**2 / 2))
        return n.sum(1), rng.binomial(n, p).sum(1), (n * rate).sum(1)

    return draw


def compute_held_share(
    draw: Draw, count: int, before: int = 7, lost: int | None = None
) -> tuple[float, dict[str, int]]:
    """Return the share of nights that are held, and how many of them for PCOC and for clicks."""
    rng, kinds, held = np.random.default_rng(1), {"PCOC": 0, "clicks in": 0, "domain d0: 0 clicks": 0}, 0
    for _ in range(count):
        nights = [night(*draw(rng)) for _ in range(before)]
        rows, clicks, expected = draw(rng)
        if lost is not None:
            clicks[lost] = 0
        outcome, reason = decide(GATE, GateInputs(night(rows, clicks, expected), (), nights))
        held += outcome is Outcome.HELD
        for word in kinds:
            kinds[word] += word in reason
    return held / count, kinds


HEALTHY = {
    "Poisson, mean 3": negative_binomial(3, 1),
    "negative binomial, mean 20, Fano factor 4": negative_binomial(20, 4),
    "negative binomial, mean 20, Fano factor 8": negative_binomial(20, 8),
    "negative binomial, mean 80, Fano factor 8": negative_binomial(80, 8),
    "users, activity sd 1.5, click rate sd 1": log_normal_users(1.5, 1),
    "users, activity sd 2, click rate sd 1.5": log_normal_users(2, 1.5),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_nights_are_held_at_most_at_the_error_rate(kind: str) -> None:
    share, kinds = compute_held_share(HEALTHY[kind], 400)
    print(f"\n{kind}: {share:.1%} of 400 healthy nights are held ({kinds['PCOC']} PCOC, {kinds['clicks in']} clicks)")
    assert share <= GATE.error_rate


@pytest.mark.parametrize(
    ("mean", "fano", "before"), [(50, 1, 7), (50, 4, 7), (50, 8, 7), (100, 15, 7), (50, 4, 3), (200, 4, 1)]
)
def test_missing_clicks_in_a_domain_are_held(mean: int, fano: int, before: int) -> None:
    share, kinds = compute_held_share(negative_binomial(mean, fano), 300, before, lost=0)
    print(
        f"\nmean {mean}, Fano factor {fano}, {before} nights before: {share:.1%} of 300 nights without clicks are held"
    )
    assert share >= 0.9
    assert kinds["domain d0: 0 clicks"] >= 0.9 * 300


@pytest.mark.parametrize("before", [0, 1, 7])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_pcoc_is_held_with_thousands_of_clicks(before: int, factor: float) -> None:
    """19 domains with 150 clicks each."""
    draw = negative_binomial(150, 8)

    def wrong(rng: np.random.Generator) -> tuple[Ints, Ints, Floats]:
        rows, clicks, expected = draw(rng)
        return rows, clicks, factor * expected

    share, kinds = compute_held_share(wrong, 200, before)
    assert share >= 0.95
    assert kinds["PCOC"] >= 0.95 * 200


def test_dispersion_is_unbiased_except_for_the_prior() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3_000):
        events = rng.poisson(rng.gamma(200 / 7, 7, 7))
        estimate, dof = estimate_dispersion(events.tolist(), [float(np.median(events))] * 7)
        assert dof == PRIOR_DOF + 5
        found.append((estimate * dof - PRIOR_DOF * PRIOR_DISPERSION) / 5)
    assert np.mean(found) == pytest.approx(8, rel=0.15)
    for few in ([], [30], [30, 60]):
        assert estimate_dispersion(few, [40.0] * len(few)) == (PRIOR_DISPERSION, PRIOR_DOF)
    steady = estimate_dispersion([100] * 200, [100.0] * 200)
    assert steady == (1.0, PRIOR_DOF + 198), "never less than Poisson counts"


def test_one_outlier_night_hardly_changes_the_dispersion() -> None:
    ordinary, expected = [95, 104, 100, 108, 92, 101], [100.0] * 7
    without, _ = estimate_dispersion([*ordinary, 99], expected)
    with_outlier, _ = estimate_dispersion([*ordinary, 9_000], expected)
    assert with_outlier < 1.1 * without
    assert compute_p_count(0, 50, (with_outlier, 17)) < 1e-4
