"""The gate's verdict on a night's candidate, as a pure function of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from star_ctr.conf.gating import GateSettings
from star_ctr.conf.layout import OVERALL
from star_ctr.jobs.decisions import Outcome

Row = Mapping[str, Any]
"""A row of `metrics` or `differences`."""


@dataclass(frozen=True)
class Facts:
    """What is known of a night: metrics by domain of the candidate and, on the same rows, of the serving model.

    `differences`: candidate less serving model, with intervals. `before`: metrics of earlier nights, of each its
    candidate's. `serving_then`: the overall metrics with which the serving model was accepted. All but the candidate's
    are empty where there is none.
    """

    candidate: Sequence[Row]
    differences: Sequence[Row] = ()
    before: Sequence[Row] = ()
    serving_then: Row = field(default_factory=dict)


def verdict(gate: GateSettings, facts: Facts) -> tuple[Outcome, str]:
    """Promoted, held, or not enough data to say; and the reason in words, with the numbers."""
    if found := _too_small(gate, facts):
        return Outcome.TOO_SMALL, "; ".join(found)
    if found := [*_miscalibrated(gate, facts), *_worse(gate, facts), *_fallen(gate, facts)]:
        return Outcome.HELD, "; ".join(found)
    if not facts.differences:
        return Outcome.PROMOTED, "no model is served yet, and nothing speaks against this one"
    return (
        Outcome.PROMOTED,
        f"not worse than the serving model: overall GAUC {_of(_by_domain(facts.differences)[OVERALL])}",
    )


def _too_small(gate: GateSettings, facts: Facts) -> list[str]:
    now = _by_domain(facts.candidate)
    overall, found = now[OVERALL], []
    if overall["rows"] < gate.min_rows:
        found.append(f"{overall['rows']:,} rows (gate.min_rows: {gate.min_rows:,})")
    if overall["clicks"] < gate.min_clicks:
        found.append(f"{overall['clicks']:,} clicks (gate.min_clicks: {gate.min_clicks:,})")
    usual: dict[str, list[int]] = {}
    for row in facts.before:
        usual.setdefault(row["domain"], []).append(row["rows"])
    for domain, sizes in usual.items():
        rows = now[domain]["rows"] if domain in now else 0
        typical = median(sizes)
        if typical >= gate.domain_rows and rows < gate.min_share * typical:
            what = "rows" if domain == OVERALL else f"rows in domain {domain}"
            found.append(
                f"{rows:,} {what}, where the nights before had {typical:,.0f} (gate.min_share: {gate.min_share})"
            )
    return found


def _miscalibrated(gate: GateSettings, facts: Facts) -> list[str]:
    pcoc = _by_domain(facts.candidate)[OVERALL]["pcoc"]
    low, high = gate.pcoc
    if pcoc is None or low <= pcoc <= high:
        return []
    return [f"overall PCOC {pcoc:.2f} is outside of {low} to {high} (gate.pcoc)"]


def _fallen(gate: GateSettings, facts: Facts) -> list[str]:
    """Both models are far below what they were; a candidate that is alone in that is worse than the serving model."""
    overall, difference = _by_domain(facts.candidate)[OVERALL], _by_domain(facts.differences).get(OVERALL)
    if difference is not None and _is_worse(difference, gate.gauc_margin):
        return []
    then, now = facts.serving_then.get("gauc"), overall["gauc"]
    best = overall.get("gauc_high") or now
    if then is None or now is None or best >= then - gate.drop_margin:
        return []
    return [
        f"overall GAUC {now:.4f}, at best {best:.4f}, is more than {gate.drop_margin} (gate.drop_margin) below the "
        f"{then:.4f} with which the serving model was accepted, which does no better on this day: are its labels right?"
    ]


def _worse(gate: GateSettings, facts: Facts) -> list[str]:
    rows = {r["domain"]: r["rows"] for r in facts.candidate}
    found = []
    for difference in facts.differences:
        domain = difference["domain"]
        large = domain == OVERALL or rows[domain] >= gate.domain_rows
        margin = gate.gauc_margin if domain == OVERALL else gate.domain_margin
        if large and _is_worse(difference, margin):
            where = "overall" if domain == OVERALL else f"domain {domain}"
            found.append(f"{where}: GAUC {_of(difference)} against the serving model (margin: {margin})")
    return found


def _is_worse(difference: Row, margin: float) -> bool:
    lost, at_best = difference["gauc"], difference["gauc_high"]
    # Without an interval (a tiny domain, or no replicates) the number alone has to do.
    return lost is not None and lost < -margin and (lost if at_best is None else at_best) < 0


def _of(difference: Row) -> str:
    if difference["gauc"] is None:
        return "undefined"
    if difference["gauc_low"] is None:
        return f"{difference['gauc']:+.4f}"
    return f"{difference['gauc']:+.4f} ({difference['gauc_low']:+.4f} to {difference['gauc_high']:+.4f})"


def _by_domain(rows: Sequence[Row]) -> dict[str, Row]:
    return {r["domain"]: r for r in rows}
