"""The statistical tests that the gate bases its decision on.

Each reason to hold a candidate combines a significance test with a margin: the metric must be significantly worse, and
by more than the margin. The tests share `gate.error_rate`: each kind of test gets a part of it (`ERROR_RATE_SHARES`),
and the tests of one kind (one per domain) are corrected by Holm's procedure. A candidate that is as good as the serving
model is therefore held, on an ordinary day, with at most that probability, for any number of domains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scipy.stats import norm

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.significance import (
    compute_detectable_loss,
    compute_p_below,
    compute_p_count,
    reject_holm,
)
from star_ctr.jobs.registry.gate_baseline import Row, compute_typical_rows, estimate_click_rate

MIN_BOOTSTRAP_SAMPLES = 200
"""Minimum number of bootstrap samples for the gate: the standard error is then accurate to 5%."""
ERROR_RATE_SHARES = {"gauc": 0.7, "gauc_drop": 0.1, "pcoc": 0.1, "clicks": 0.1}
"""Share of `gate.error_rate` by kind of test. The last three kinds detect failures that are usually obvious."""
_POWER = 0.9
"""Probability with which a loss of `gate.domain_loss` should be detected."""
_MAX_LISTED = 5
"""Maximum number of domains that a message lists."""


def require_bootstrap_samples(settings: Settings) -> Settings:
    """Return settings with at least as many bootstrap samples as the tests of the gate need."""
    samples = max(settings.evaluate.bootstrap_samples, MIN_BOOTSTRAP_SAMPLES)
    return settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"bootstrap_samples": samples})})


@dataclass(frozen=True)
class GateInputs:
    """The metrics by domain that the gate bases its decision on. All except `candidate` may be empty.

    Attributes:
        candidate: Metrics of the candidate.
        differences: Candidate minus serving model on the same rows, with INTERVALS and TEST_INPUTS.
        before: Metrics of the candidates of the baseline nights (`select_baseline_runs`), one list per night.
        serving_then: Overall metrics that the serving model was accepted with.
        level: Confidence level of the intervals.
        recent: Like `before`, for the most recent nights, regardless of what the gate decided on them.
        completeness: Share of the day's clicks that are known now: 1 if all labels are final, an estimate if some are
            open, or None if it is unknown.
    """

    candidate: Sequence[Row]
    differences: Sequence[Row] = ()
    before: Sequence[Sequence[Row]] = ()
    serving_then: Row = field(default_factory=dict)
    level: float = 0.95
    recent: Sequence[Sequence[Row]] = ()
    completeness: float | None = 1.0


class CheckResult(NamedTuple):
    """A test of a domain: its p-value, whether the margin is exceeded, and a message."""

    domain: str
    p: float
    exceeds_margin: bool
    message: str


def select_failed(checks: Sequence[CheckResult], rate: float) -> list[CheckResult]:
    """Select the checks that are significant at the family-wise error rate `rate` and exceed their margin."""
    rejected = reject_holm([check.p for check in checks], rate)
    return [check for check, reject in zip(checks, rejected, strict=True) if reject and check.exceeds_margin]


def check_gauc(gate: GateSettings, inputs: GateInputs) -> Iterator[CheckResult]:
    """Compare the GAUC of the candidate with that of the serving model, overall and in large domains."""
    for difference, users, std in _iter_testable(gate, inputs):
        margin = gate.gauc_margin if difference["domain"] == OVERALL else gate.domain_margin
        change = f"{describe_domain(difference['domain'])}: GAUC {format_difference(difference)}"
        p = compute_p_below(difference["gauc"], std, users, MIN_BOOTSTRAP_SAMPLES)
        message = f"{change} against the serving model (margin: {margin})"
        yield CheckResult(difference["domain"], p, difference["gauc"] < -margin, message)


def _iter_testable(gate: GateSettings, inputs: GateInputs) -> Iterator[tuple[Row, float, float]]:
    """Yield the GAUC differences that can be tested, overall and in large domains.

    Each comes with its effective number of users and its standard error.
    """
    rows = {r["domain"]: r["rows"] for r in inputs.candidate}
    for difference in inputs.differences:
        domain, std = difference["domain"], get_standard_error(difference, inputs.level)
        users = difference.get("gauc_effective") or math.inf
        is_large = domain == OVERALL or rows.get(domain, 0) >= gate.domain_rows
        if is_large and difference["gauc"] is not None and std is not None and users > 1:
            yield difference, users, std


def check_calibration(gate: GateSettings, inputs: GateInputs) -> CheckResult:
    """Check the overall PCOC (predicted over actual clicks) against the band `gate.pcoc`.

    While labels are open, clicks are missing, so PCOC is too high. It is multiplied by the share of clicks that is
    known. If the share is unknown, only the lower bound is checked.

    Returns:
        The check.
    """
    overall, (low, high) = index_by_domain(inputs.candidate)[OVERALL], gate.pcoc
    clicks, completeness = overall["clicks"], inputs.completeness
    pcoc = overall["pcoc"] * (1.0 if completeness is None else completeness)
    note = ""
    if completeness is not None and completeness < 1:
        note = f" (corrected for an estimated {1 - completeness:.0%} of clicks still missing)"
    message = f"overall PCOC {pcoc:.2f}{note} is outside [{low}, {high}] (gate.pcoc)"
    below = compute_p_count(clicks, pcoc * clicks, estimate_click_rate(inputs.before, OVERALL).dispersed)
    exceeds_margin = pcoc < low or (completeness is not None and pcoc > high)
    return CheckResult(OVERALL, 2 * min(below, 1 - below), exceeds_margin, message)


def check_gauc_drop(gate: GateSettings, inputs: GateInputs) -> list[CheckResult]:
    """Compare the overall GAUC of the candidate with the GAUC that the serving model was accepted with.

    Returns:
        The check; empty if the accepted GAUC is unknown.
    """
    overall, accepted = index_by_domain(inputs.candidate)[OVERALL], inputs.serving_then.get("gauc")
    if accepted is None:
        return []
    difference = index_by_domain(inputs.differences).get(OVERALL, {})
    users = difference.get("gauc_effective") or overall.get("gauc_users") or math.inf
    std = get_standard_error(overall, inputs.level)
    if std is None and users < math.inf:
        std = 0.5 / math.sqrt(users)  # upper bound for the mean of values in [0, 1]
    distance = overall["gauc"] - (accepted - gate.drop_margin)
    if std is None or users <= 1:
        p = 0.0  # the standard error is unknown, so only the margin decides
    else:
        p = compute_p_below(
            distance,
            math.hypot(std, get_standard_error(inputs.serving_then, inputs.level) or std),
            users,
            MIN_BOOTSTRAP_SAMPLES,
        )
    message = (
        f"overall GAUC {overall['gauc']:.4f} is more than {gate.drop_margin} (gate.drop_margin) below {accepted:.4f}, "
        "the GAUC that the serving model was accepted with; both models dropped: check the labels of this day"
    )
    return [CheckResult(OVERALL, p, distance < 0, message)]


def check_clicks(gate: GateSettings, inputs: GateInputs) -> Iterator[CheckResult]:
    """Compare click rates with those of the baseline nights, overall and in large domains."""
    now = index_by_domain(inputs.candidate)
    for domain, typical in compute_typical_rows(inputs.before).items():
        rows = now[domain]["rows"] if domain in now else 0
        usual = estimate_click_rate(inputs.before, domain)
        expected = usual.rate * rows
        if max(rows, typical) < gate.domain_rows or not expected:
            continue
        clicks = now[domain]["clicks"]
        message = (
            f"{describe_domain(domain)}: {clicks:,} clicks in {rows:,} rows, expected {expected:,.0f} at the median "
            f"click rate of {usual.nights} earlier nights (gate.min_share: {gate.min_share}): check for missing clicks"
        )
        exceeds_margin = clicks == 0 or clicks < gate.min_share * expected
        # Within the margin, the p-value does not matter.
        p = compute_p_count(clicks, expected, usual.dispersed, usual.error(rows)) if exceeds_margin else 1.0
        yield CheckResult(domain, p, exceeds_margin, message)


def describe_low_power(gate: GateSettings, inputs: GateInputs) -> str:
    """Describe the large domains that have too few users to detect a loss of `gate.domain_loss`.

    Returns:
        The end of a message, starting with a semicolon; empty if there are no such domains.
    """
    rows = {r["domain"]: r["rows"] for r in inputs.candidate}
    domains = [d["domain"] for d in inputs.differences if d["domain"] != OVERALL]
    large = [domain for domain in domains if rows.get(domain, 0) >= gate.domain_rows]
    tested = list(_iter_testable(gate, inputs))
    rate = gate.error_rate * ERROR_RATE_SHARES["gauc"] / max(len(tested), 1)
    detectable = {
        difference["domain"]
        for difference, users, std in tested
        if max(compute_detectable_loss(rate, _POWER, std, users, MIN_BOOTSTRAP_SAMPLES), gate.domain_margin)
        <= gate.domain_loss
    }
    undetectable = [domain for domain in large if domain not in detectable]
    if not undetectable:
        return ""
    more = f" and {len(undetectable) - _MAX_LISTED} more" if len(undetectable) > _MAX_LISTED else ""
    return (
        f"; too few users to detect a loss of {gate.domain_loss} (gate.domain_loss) on {_POWER:.0%} of nights in "
        f"{len(undetectable)} of {len(large)} large domains: {', '.join(undetectable[:_MAX_LISTED])}{more}"
    )


def get_standard_error(row: Row, level: float) -> float | None:
    """Return the standard error of a row's GAUC: `gauc_std`, or else an estimate from its confidence interval.

    Args:
        row: The row.
        level: Confidence level of the interval.

    Returns:
        The standard error; None if the row has neither.
    """
    if (std := row.get("gauc_std")) is not None:
        return float(std)
    low, high = row.get("gauc_low"), row.get("gauc_high")
    return None if low is None or high is None else float((high - low) / (2 * norm.isf((1 - level) / 2)))


def format_difference(difference: Row) -> str:
    """Format a GAUC difference, with its interval if it has one."""
    if difference["gauc_low"] is None:
        return f"{difference['gauc']:+.4f}"
    return f"{difference['gauc']:+.4f} ({difference['gauc_low']:+.4f} to {difference['gauc_high']:+.4f})"


def format_metric(name: str) -> str:
    """Return the name of a metric for messages."""
    return "log loss" if name == "log_loss" else name.upper()


def describe_domain(domain: str) -> str:
    """Return the name of a domain for messages."""
    return OVERALL if domain == OVERALL else f"domain {domain}"


def index_by_domain(rows: Sequence[Row]) -> dict[str, Row]:
    """Index rows by domain."""
    return {r["domain"]: r for r in rows}
