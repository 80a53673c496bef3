"""The gate's baseline: the earlier nights that a night is compared with, and their rows and click rates by domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median, median_low
from typing import Any, NamedTuple

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import strip_refit_suffix
from star_ctr.features.evaluation.significance import estimate_dispersion
from star_ctr.jobs.registry.decisions import Decision, Outcome, list_accepted

Row = Mapping[str, Any]
"""A row of `metrics` or `differences`."""
BASELINE_NIGHTS = 7
"""Number of earlier nights to compare with."""


class ClickRate(NamedTuple):
    """The typical click rate of a domain on the baseline nights.

    `rate` is the median of the nightly click rates; `nights` and `rows` are the nights and rows that it is based on.
    `dispersed` holds the dispersion of the nightly clicks and its degrees of freedom, from `estimate_dispersion`.
    """

    rate: float
    nights: int
    rows: int
    dispersed: tuple[float, float]

    def error(self, rows: int) -> float:
        """Return the variance of the expected clicks in `rows` rows, relative to the variance of the actual clicks."""
        # Variance of a median relative to that of a mean. With fewer than 3 nights, the median is the mean.
        median_factor = 1.0 if self.nights < 3 else math.pi / 2
        return median_factor * rows / self.rows if self.rows else 0.0


def select_baseline_runs(runs: Sequence[str], decisions: Sequence[Decision]) -> list[str]:
    """Select the runs of the earlier nights that form the baseline.

    1. Exclude nights that were held or did not have enough data, so that a persistent fault does not become the
       baseline.
    2. If a person promoted such a night, the change is accepted: the baseline starts with that night.
    3. If no night remains, use all nights.

    Args:
        runs: The run of each earlier night, oldest first.
        decisions: All decisions, oldest first.

    Returns:
        The newest `BASELINE_NIGHTS` runs of the baseline, oldest first.
    """
    verdicts = (Outcome.PROMOTED, Outcome.HELD, Outcome.TOO_SMALL)
    decided = {d.run_id: d.outcome for d in decisions if d.outcome in verdicts}
    excluded = {run for run, outcome in decided.items() if outcome is not Outcome.PROMOTED}
    promoted_manually = {
        strip_refit_suffix(d.run_id) for d in list_accepted(decisions) if d.outcome is Outcome.PROMOTED_MANUALLY
    } & excluded
    start = max((k for k, run in enumerate(runs) if run in promoted_manually), default=0)
    selected = [run for run in runs[start:] if run not in excluded - promoted_manually]
    return (selected or list(runs))[-BASELINE_NIGHTS:]


def compute_typical_rows(nights: Sequence[Sequence[Row]]) -> dict[str, float]:
    """Compute the median of each domain's nightly rows; a night without the domain counts as 0 rows.

    For an even number of nights, the lower of the two middle values is used. A domain that is absent on half of the
    nights therefore has a median of 0.

    Args:
        nights: The metrics of each night, one row per domain.

    Returns:
        The median by domain.
    """
    found: dict[str, list[int]] = {}
    for night in nights:
        for row in night:
            found.setdefault(row["domain"], []).append(row["rows"])
    return {domain: median_low([*rows, *[0] * (len(nights) - len(rows))]) for domain, rows in found.items()}


def estimate_click_rate(nights: Sequence[Sequence[Row]], domain: str) -> ClickRate:
    """Estimate the typical click rate of a domain from the nights on which it has rows.

    Args:
        nights: The metrics of each night, one row per domain.
        domain: The domain.

    Returns:
        The click rate; the rate is 0 if no night has rows of the domain.
    """
    observed = [row for night in nights for row in night if row["domain"] == domain and row["rows"]]
    rate = median([row["clicks"] / row["rows"] for row in observed]) if observed else 0.0
    counted = observed if rate else []
    expected = [rate * row["rows"] for row in counted]
    dispersed = estimate_dispersion([row["clicks"] for row in counted], expected)
    return ClickRate(rate, len(observed), sum(row["rows"] for row in observed), dispersed)


def estimate_completeness(candidate: Sequence[Row], before: Sequence[Row], final: Sequence[Row]) -> float | None:
    """Estimate the share of a day's clicks that is known when its night is evaluated.

    Args:
        candidate: The metrics of the night's candidate, one row per domain.
        before: The metrics of earlier nights, with `run_id`.
        final: The final metrics of those earlier nights that have them.

    Returns:
        1 if the candidate has no open labels. Otherwise, the median share of clicks that were known when earlier nights
        were evaluated, or None if none of these nights has final metrics.
    """
    if not any(row["domain"] == OVERALL and row.get("open_labels") for row in candidate):
        return 1.0
    known = {row["run_id"]: row["clicks"] for row in before if row["domain"] == OVERALL}
    shares = [
        known[row["run_id"]] / row["clicks"]
        for row in final
        if row["domain"] == OVERALL and row["run_id"] in known and row["clicks"]
    ]
    share = float(median(shares)) if shares else 0.0
    # Without known clicks, nothing can be said about PCOC.
    return min(share, 1.0) if share > 0 else None
