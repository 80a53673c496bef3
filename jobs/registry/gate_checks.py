"""The statistical tests behind the gate's verdict.

Each reason to hold a candidate combines a significance test and a margin: the metric must be significantly worse, and
by more than the margin. The tests share `gate.error_rate`: each kind of test gets a part of it (`PARTS`), and the tests
of one kind (one per domain) are corrected by Holm's procedure. A candidate as good as the serving model, on an ordinary
day, is therefore held on at most that share of nights, for any number of domains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scipy.stats import norm

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.features.evaluation.significance import (
    compute_detectable_loss,
    compute_p_below,
    compute_p_count,
    reject_holm,
)
from star_ctr.jobs.registry.gate_baseline import Row, compute_typical_rows, estimate_click_rate

DRAWS = 200
"""Minimum number of bootstrap draws for the gate: the standard error is then accurate to 5 %."""
PARTS = {"gauc": 0.7, "gauc_drop": 0.1, "pcoc": 0.1, "clicks": 0.1}
"""Share of the error rate by kind of test. The last three detect failures that are usually obvious."""
_POWER = 0.9
_NAMED = 5


@dataclass(frozen=True)
class GateInputs:
    """The metrics by domain that a verdict is based on.

    `candidate`: metrics of the candidate. `differences`: candidate minus serving model on the same rows, with intervals
    and EVIDENCE. `before`: metrics of the candidates of the baseline nights (`baseline_runs`), one list per night.
    `serving_then`: the overall metrics of the serving model when it was accepted. `recent`: like `before`, for the last
    nights, whatever the gate decided. All except `candidate` may be empty. `level`: the confidence level of intervals.
    """

    candidate: Sequence[Row]
    differences: Sequence[Row] = ()
    before: Sequence[Sequence[Row]] = ()
    serving_then: Row = field(default_factory=dict)
    level: float = 0.95
    recent: Sequence[Sequence[Row]] = ()


class CheckResult(NamedTuple):
    """A test of a domain: its p-value, whether the margin is exceeded, and a message."""

    domain: str
    p: float
    beyond: bool
    message: str


def select_failed(checks: Sequence[CheckResult], rate: float) -> list[CheckResult]:
    """Return the checks that are significant at a family-wise error rate and exceed their margin."""
    rejected = reject_holm([check.p for check in checks], rate)
    return [check for check, reject in zip(checks, rejected, strict=True) if reject and check.beyond]


def check_gauc(gate: GateSettings, inputs: GateInputs) -> Iterator[CheckResult]:
    """Compare GAUC with the serving model, overall and in large domains."""
    for difference, users, std in _iter_testable(gate, inputs):
        margin = gate.gauc_margin if difference["domain"] == OVERALL else gate.domain_margin
        told = f"{format_domain(difference['domain'])}: GAUC {format_interval(difference)}"
        p = compute_p_below(difference["gauc"], std, users, DRAWS)
        message = f"{told} against the serving model (margin: {margin})"
        yield CheckResult(difference["domain"], p, difference["gauc"] < -margin, message)


def _iter_testable(gate: GateSettings, inputs: GateInputs) -> Iterator[tuple[Row, float, float]]:
    """Yield the testable GAUC differences, overall and in large domains, with effective users and std."""
    rows = {r["domain"]: r["rows"] for r in inputs.candidate}
    for difference in inputs.differences:
        domain, std = difference["domain"], get_standard_error(difference, inputs.level)
        users = difference.get("gauc_effective") or math.inf
        large = domain == OVERALL or rows.get(domain, 0) >= gate.domain_rows
        if large and difference["gauc"] is not None and std is not None and users > 1:
            yield difference, users, std


def check_calibration(gate: GateSettings, inputs: GateInputs) -> CheckResult:
    """Compare predicted and actual clicks, overall."""
    overall = index_by_domain(inputs.candidate)[OVERALL]
    pcoc, clicks = overall["pcoc"], overall["clicks"]
    low, high = gate.pcoc
    message = f"overall PCOC {pcoc:.2f} is outside [{low}, {high}] (gate.pcoc)"
    below = compute_p_count(clicks, pcoc * clicks, estimate_click_rate(inputs.before, OVERALL).dispersed)
    return CheckResult(OVERALL, 2 * min(below, 1 - below), not low <= pcoc <= high, message)


def check_gauc_drop(gate: GateSettings, inputs: GateInputs) -> list[CheckResult]:
    """Compare GAUC with the serving model's when it was accepted; empty if there is nothing to compare with."""
    overall, then = index_by_domain(inputs.candidate)[OVERALL], inputs.serving_then.get("gauc")
    if then is None:
        return []
    difference = index_by_domain(inputs.differences).get(OVERALL, {})
    users = difference.get("gauc_effective") or overall.get("gauc_users") or math.inf
    own = get_standard_error(overall, inputs.level)
    if own is None and users < math.inf:
        own = 0.5 / math.sqrt(users)  # upper bound for the mean of values in [0, 1]
    beyond = overall["gauc"] - (then - gate.drop_margin)
    if own is None or users <= 1:
        p = 0.0  # no standard error is known: decide by the margin alone
    else:
        p = compute_p_below(
            beyond, math.hypot(own, get_standard_error(inputs.serving_then, inputs.level) or own), users, DRAWS
        )
    message = (
        f"overall GAUC {overall['gauc']:.4f} is more than {gate.drop_margin} (gate.drop_margin) below the {then:.4f} "
        "at which the serving model was accepted; both models dropped: check the labels of this day"
    )
    return [CheckResult(OVERALL, p, beyond < 0, message)]


def check_clicks(gate: GateSettings, inputs: GateInputs) -> Iterator[CheckResult]:
    """Compare click rates with earlier nights, overall and in large domains."""
    now = index_by_domain(inputs.candidate)
    for domain, typical in compute_typical_rows(inputs.before).items():
        rows = now[domain]["rows"] if domain in now else 0
        usual = estimate_click_rate(inputs.before, domain)
        expected = usual.rate * rows
        if max(rows, typical) < gate.domain_rows or not expected:
            continue
        clicks = now[domain]["clicks"]
        message = (
            f"{format_domain(domain)}: {clicks:,} clicks in {rows:,} rows, expected {expected:,.0f} at the median click "
            f"rate of {usual.nights} earlier nights (gate.min_share: {gate.min_share}): check for missing clicks"
        )
        beyond = clicks == 0 or clicks < gate.min_share * expected
        # Within the margin the p-value does not matter.
        p = compute_p_count(clicks, expected, usual.dispersed, usual.error(rows)) if beyond else 1.0
        yield CheckResult(domain, p, beyond, message)


def describe_low_power(gate: GateSettings, inputs: GateInputs) -> str:
    """Name the large domains with too little power to detect a loss of `gate.domain_loss`."""
    rows = {r["domain"]: r["rows"] for r in inputs.candidate}
    domains = [d["domain"] for d in inputs.differences if d["domain"] != OVERALL]
    large = [domain for domain in domains if rows.get(domain, 0) >= gate.domain_rows]
    tested = list(_iter_testable(gate, inputs))
    rate = gate.error_rate * PARTS["gauc"] / max(len(tested), 1)
    seen = {
        difference["domain"]
        for difference, users, std in tested
        if max(compute_detectable_loss(rate, _POWER, std, users, DRAWS), gate.domain_margin) <= gate.domain_loss
    }
    missed = [domain for domain in large if domain not in seen]
    if not missed:
        return ""
    more = f" and {len(missed) - _NAMED} more" if len(missed) > _NAMED else ""
    return (
        f"; too few users to detect a loss of {gate.domain_loss} (gate.domain_loss) on {_POWER:.0%} of nights in "
        f"{len(missed)} of {len(large)} large domains: {', '.join(missed[:_NAMED])}{more}"
    )


def get_standard_error(row: Row, level: float) -> float | None:
    """Return the standard error of a row's GAUC, from its bootstrap draws or its interval."""
    if (std := row.get("gauc_std")) is not None:
        return float(std)
    low, high = row.get("gauc_low"), row.get("gauc_high")
    return None if low is None or high is None else float((high - low) / (2 * norm.isf((1 - level) / 2)))


def format_interval(difference: Row) -> str:
    """Format a difference with its interval."""
    if difference["gauc_low"] is None:
        return f"{difference['gauc']:+.4f}"
    return f"{difference['gauc']:+.4f} ({difference['gauc_low']:+.4f} to {difference['gauc_high']:+.4f})"


def format_metric(name: str) -> str:
    """Return the name of a metric in messages."""
    return "log loss" if name == "log_loss" else name.upper()


def format_domain(domain: str) -> str:
    """Return the name of a domain in messages."""
    return OVERALL if domain == OVERALL else f"domain {domain}"


def index_by_domain(rows: Sequence[Row]) -> dict[str, Row]:
    """Index rows by domain."""
    return {r["domain"]: r for r in rows}
