"""The gate's baseline: the earlier nights that a night is compared with, and their rows and click rates by domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median, median_low
from typing import Any, NamedTuple

from star_ctr.conf.contracts.run_id import strip_refit_suffix
from star_ctr.features.evaluation.significance import estimate_dispersion
from star_ctr.jobs.registry.decisions import Decision, Outcome, list_accepted

Row = Mapping[str, Any]
"""A row of `metrics` or `differences`."""
NIGHTS = 7
"""Number of earlier nights to compare with."""


class ClickRate(NamedTuple):
    """The usual click rate of a domain: the median of nightly rates, with the nights and rows behind it.

    `dispersed`: dispersion of nightly clicks and its degrees of freedom.
    """

    rate: float
    nights: int
    rows: int
    dispersed: tuple[float, float]

    def error(self, rows: int) -> float:
        """Return the variance of the expected clicks in `rows` rows, relative to that of the clicks themselves."""
        of_median = 1.0 if self.nights < 3 else math.pi / 2  # relative to the variance of a mean
        return of_median * rows / self.rows if self.rows else 0.0


def select_baseline_runs(runs: Sequence[str], decisions: Sequence[Decision]) -> list[str]:
    """Select the runs of the earlier nights that form the baseline.

    Nights that were held or did not have enough data are left out, so that a persistent fault does not become the
    baseline. If a person promoted such a night, the change is accepted, and the baseline starts there. If no night is
    left, all nights count.

    Args:
        runs: The run of each earlier night, oldest first.
        decisions: All decisions, in their order.

    Returns:
        The newest `NIGHTS` runs that count, oldest first.
    """
    verdicts = (Outcome.PROMOTED, Outcome.HELD, Outcome.TOO_SMALL)
    decided = {d.run_id: d.outcome for d in decisions if d.outcome in verdicts}
    left_out = {run for run, outcome in decided.items() if outcome is not Outcome.PROMOTED}
    by_hand = {
        strip_refit_suffix(d.run_id) for d in list_accepted(decisions) if d.outcome is Outcome.PROMOTED_MANUALLY
    } & left_out
    start = max((k for k, run in enumerate(runs) if run in by_hand), default=0)
    usual = [run for run in runs[start:] if run not in left_out - by_hand]
    return (usual or list(runs))[-NIGHTS:]


def compute_typical_rows(nights: Sequence[Sequence[Row]]) -> dict[str, float]:
    """Return the median of each domain's nightly rows; a night without the domain counts as 0 rows.

    For an even number of nights, this is the lower middle value: 0 for a domain that is absent on half of the nights.
    """
    found: dict[str, list[int]] = {}
    for night in nights:
        for row in night:
            found.setdefault(row["domain"], []).append(row["rows"])
    return {domain: median_low([*rows, *[0] * (len(nights) - len(rows))]) for domain, rows in found.items()}


def estimate_click_rate(nights: Sequence[Sequence[Row]], domain: str) -> ClickRate:
    """Return the usual click rate of a domain, from the nights that have rows of it."""
    there = [row for night in nights for row in night if row["domain"] == domain and row["rows"]]
    rate = median([row["clicks"] / row["rows"] for row in there]) if there else 0.0
    counted = there if rate else []
    expected = [rate * row["rows"] for row in counted]
    dispersed = estimate_dispersion([row["clicks"] for row in counted], expected)
    return ClickRate(rate, len(there), sum(row["rows"] for row in there), dispersed)
