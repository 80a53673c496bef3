"""The gate's decision on a night's candidate, as a pure function of metrics.

A candidate with a missing or non-finite metric is never promoted. `gate_checks` tests GAUC, PCOC and click counts; the
tests share `gate.error_rate`. Before that, `jobs.gate` decides whether there is anything to decide, and holds
candidates with other features than the serving model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.jobs.registry.decisions import Outcome
from star_ctr.jobs.registry.gate_baseline import Row, compute_typical_rows
from star_ctr.jobs.registry.gate_checks import (
    ERROR_RATE_SHARES,
    CheckResult,
    GateInputs,
    check_calibration,
    check_clicks,
    check_gauc,
    check_gauc_drop,
    describe_domain,
    describe_low_power,
    format_difference,
    format_metric,
    get_standard_error,
    index_by_domain,
    select_failed,
)

_NUMBERS = ("auc", "gauc", "pcoc", "log_loss", "gauc_low", "gauc_high", "gauc_std", "gauc_effective")


def decide(gate: GateSettings, inputs: GateInputs) -> tuple[Outcome, str]:
    """Decide whether to promote a night's candidate.

    1. If the day has too little data, or an overall metric is undefined: not enough data.
    2. If a metric is not finite: held.
    3. If one of the checks of `gate_checks` fails: held.
    4. Otherwise: promoted.

    Args:
        gate: The settings of the gate.
        inputs: The metrics.

    Returns:
        The outcome (promoted, held, or not enough data), and the reason with the metrics that led to it.
    """
    if found := [*_find_too_small(gate, inputs), *_find_undefined(inputs)]:
        return Outcome.TOO_SMALL, "; ".join(found)
    if found := list(_find_non_finite(inputs)):
        return Outcome.HELD, "; ".join(found)
    if checks := _run_checks(gate, inputs):
        return Outcome.HELD, "; ".join(check.message for check in checks)
    if not inputs.differences:
        return Outcome.PROMOTED, "no model is served yet, and the candidate passed all checks"
    overall, low_power = index_by_domain(inputs.differences)[OVERALL], describe_low_power(gate, inputs)
    is_worse = overall.get("gauc_high") is not None and overall["gauc_high"] < 0
    verdict = "not worse than the serving model"
    if is_worse:
        verdict = f"worse than the serving model, but within the margin of {gate.gauc_margin} (gate.gauc_margin)"
    return Outcome.PROMOTED, f"{verdict}: overall GAUC {format_difference(overall)}{low_power}"


def _run_checks(gate: GateSettings, inputs: GateInputs) -> list[CheckResult]:
    """Run all checks, and return those that failed."""

    def select_failed_of_kind(kind: str, checks: Sequence[CheckResult]) -> list[CheckResult]:
        return select_failed(checks, gate.error_rate * ERROR_RATE_SHARES[kind])

    worse = select_failed_of_kind("gauc", list(check_gauc(gate, inputs)))
    # If only the candidate dropped, it is worse than the serving model, and the labels of the day are not suspect.
    only_candidate_dropped = any(check.domain == OVERALL for check in worse)
    return [
        *select_failed_of_kind("pcoc", [check_calibration(gate, inputs)]),
        *worse,
        *select_failed_of_kind("clicks", list(check_clicks(gate, inputs))),
        *([] if only_candidate_dropped else select_failed_of_kind("gauc_drop", check_gauc_drop(gate, inputs))),
    ]


def check_refit(gate: GateSettings, totals: Sequence[Row]) -> list[str]:
    """Check the metrics of a refit on its newest training day.

    Args:
        gate: The settings of the gate.
        totals: Metrics without ranking (`compute_totals`) on that day, by domain and overall.

    Returns:
        The reasons why the refit must not be served; empty if there are none.
    """
    overall = index_by_domain(totals).get(OVERALL)
    if overall is None:
        return ["no row of the day was scored"]
    undefined = [
        f"overall {format_metric(name)} on the day is {'undefined' if overall[name] is None else overall[name]}"
        for name in ("pcoc", "log_loss")
        if overall[name] is None or not math.isfinite(overall[name])
    ]
    low, high = gate.pcoc
    if not undefined and not low <= overall["pcoc"] <= high:
        return [f"overall PCOC {overall['pcoc']:.2f} on the day is outside [{low}, {high}] (gate.pcoc)"]
    return undefined


def _find_too_small(gate: GateSettings, inputs: GateInputs) -> list[str]:
    """Return messages if the day, or a large domain, has too few rows or clicks for a decision."""
    now, found = index_by_domain(inputs.candidate), []
    overall = now.get(OVERALL, {"rows": 0, "clicks": 0})
    if overall["rows"] < gate.min_rows:
        found.append(f"{overall['rows']:,} rows (gate.min_rows: {gate.min_rows:,})")
    if overall["clicks"] < gate.min_clicks:
        found.append(f"{overall['clicks']:,} clicks (gate.min_clicks: {gate.min_clicks:,})")
    recent = compute_typical_rows(inputs.recent or inputs.before)
    for domain, typical in compute_typical_rows(inputs.before).items():
        rows = now[domain]["rows"] if domain in now else 0
        if not rows and not recent.get(domain, 0):
            # Absent on at least half of the recent nights: retired, or only active on some days of the week.
            continue
        if typical >= gate.domain_rows and rows < gate.min_share * typical:
            what = "rows" if domain == OVERALL else f"rows in domain {domain}"
            found.append(
                f"{rows:,} {what}, compared with a median of {typical:,.0f} on earlier nights "
                f"(gate.min_share: {gate.min_share})"
            )
    return found


def _find_undefined(inputs: GateInputs) -> list[str]:
    """Return messages for overall metrics that are undefined because the day is too small."""
    overall = index_by_domain(inputs.candidate).get(OVERALL)
    if overall is None:
        return ["the run has no overall metrics"]
    why = {"pcoc": "there are no clicks", "gauc": "no user has both clicked and unclicked rows"}
    found = [
        f"overall {format_metric(name)} is undefined: {why.get(name, 'there are no rows')}"
        for name in ("gauc", "pcoc", "log_loss")
        if name in overall and overall[name] is None
    ]
    if inputs.differences:
        difference = index_by_domain(inputs.differences).get(OVERALL, {})
        if difference.get("gauc") is None:
            found.append("the overall GAUC difference from the serving model is undefined")
        elif get_standard_error(difference, inputs.level) is None:
            found.append("the overall GAUC difference has no standard error: too few users have clicks")
    return found


def _find_non_finite(inputs: GateInputs) -> Iterator[str]:
    """Yield messages for non-finite metrics: every comparison with NaN is false, so they would pass every check."""
    accepted = ("the serving model's accepted ", [{"domain": OVERALL, **inputs.serving_then}])
    for prefix, rows in (("", inputs.candidate), ("the difference in ", inputs.differences), accepted):
        for row in rows:
            for name in _NUMBERS:
                if (value := row.get(name)) is not None and not math.isfinite(value):
                    metric = f"{prefix}{format_metric(name)} ({describe_domain(row['domain'])})"
                    yield f"{metric} is {value}, not a finite number"
