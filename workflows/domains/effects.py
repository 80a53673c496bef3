"""Effects of domains on each other, from the metrics of models that were trained with and without their rows.

For each domain, there are two questions:

- Gain: how much better is the joint model than a model of this domain alone, on the domain's test rows?
- Effect on others: how much better is the joint model than a model without this domain, on the test rows of the other
  domains together, and of each of them?

All effects are improvements: positive means that training together is better. For the log loss, this is the decrease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from star_ctr.features.evaluation.paired_differences import compute_mean_difference
from star_ctr.features.evaluation.significance import reject_holm
from star_ctr.jobs.tools.run_estimates import METRICS, RowSubset, RunEstimate

JOINT = "joint"
"""Name of the model that is trained on the rows of all domains."""
Family = Literal["gain", "others", "pair"]
"""The three families of effects. Holm's correction is applied to each family and metric."""
Estimates = Mapping[tuple[str, str, int, RowSubset], RunEstimate]
"""Estimates by name of the model, night, seed and part of the test rows."""


def name_alone(domain: str) -> str:
    """Return the name of the model that is trained on the rows of a domain alone."""
    return f"{domain} alone"


def name_without(domain: str) -> str:
    """Return the name of the model that is trained on all rows except those of a domain."""
    return f"without {domain}"


@dataclass(frozen=True)
class Effect:
    """The effect of training together on a metric.

    Attributes:
        family: `gain`: of all other domains on a domain; `others`: of a domain on all others; `pair`: of a domain on
            another one.
        domain: The domain: for `gain`, the one that gains, else the one that has the effect.
        on: The part of the test rows: a domain, or all others (None).
        metric: The metric.
        value: The improvement, the mean over nights and seeds; None if undefined.
        low: The lower bound of its interval; None if undefined.
        high: The upper bound of its interval; None if undefined.
        p: The two-sided p-value; None if undefined.
        is_significant: Whether the effect is significant after Holm's correction over its family and metric.
    """

    family: Family
    domain: str
    on: str | None
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    is_significant: bool = False

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.value is None or self.p is None:
            return "too few users"
        if not self.is_significant:
            return "no significant effect"
        if self.family == "gain":
            return "gains" if self.value > 0 else "is harmed"
        return "helps" if self.value > 0 else "harms"


def list_parts(domains: Sequence[str], all_domains: Sequence[str]) -> list[tuple[str, RowSubset]]:
    """List the parts of the test rows that are evaluated.

    Args:
        domains: The domains whose effects are computed.
        all_domains: All domains with test rows.

    Returns:
        Pairs of the name of a model and a part.
    """
    own = [(JOINT, RowSubset(d)) for d in all_domains]
    alone = [(name_alone(d), RowSubset(d)) for d in domains]
    without = [(name_without(d), RowSubset(on)) for d in domains for on in all_domains]
    rest = [(name, RowSubset(d, is_rest=True)) for d in domains for name in (JOINT, name_without(d))]
    return [*own, *alone, *without, *rest]


def compute_effects(
    estimates: Estimates, domains: Sequence[str], nights: Sequence[str], seeds: Sequence[int], level: float
) -> list[Effect]:
    """Compute all effects, their intervals, and which of them are significant.

    Args:
        estimates: The estimates; see `list_parts`. Parts without test rows may be missing.
        domains: The domains.
        nights: The nights.
        seeds: The seeds.
        level: Confidence level of the intervals, such as 0.95; the error rate of each family is 1 - `level`.

    Returns:
        The effects by metric: gains, effects on all others, and effects on each other domain.
    """
    effects = []
    for metric in METRICS:
        families: dict[Family, list[tuple[Effect, str, RowSubset]]] = {
            "gain": [(Effect("gain", d, d, metric), name_alone(d), RowSubset(d)) for d in domains],
            "others": [(Effect("others", d, None, metric), name_without(d), RowSubset(d, True)) for d in domains],
            "pair": [
                (Effect("pair", d, on, metric), name_without(d), RowSubset(on))
                for d in domains
                for on in domains
                if on != d
            ],
        }
        for members in families.values():
            computed = [
                _compute(effect, reference, part, estimates, nights, seeds, level)
                for effect, reference, part in members
            ]
            effects += _test(computed, 1 - level)
    return effects


def _compute(
    effect: Effect,
    reference: str,
    part: RowSubset,
    estimates: Estimates,
    nights: Sequence[str],
    seeds: Sequence[int],
    level: float,
) -> Effect:
    """Return an effect with its value, its interval and its p-value."""
    sign = -1 if effect.metric == "log_loss" else 1
    # A domain may have no test rows in one of the nights.
    used = [n for n in nights if all((JOINT, n, s, part) in estimates for s in seeds)]
    if not used:
        return effect

    def stack(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.array([[estimates[name, n, s, part].samples[effect.metric] for n in used] for s in seeds])

    differences = sign * (stack(JOINT) - stack(reference)).mean(axis=1)
    counts = [estimates[JOINT, n, seeds[0], part] for n in used]
    users = [c.gauc_users if effect.metric == "gauc" else c.users for c in counts]
    found = compute_mean_difference(differences, min(users), level)
    return effect if found is None else replace(effect, value=found.value, low=found.low, high=found.high, p=found.p)


def _test(effects: Sequence[Effect], rate: float) -> list[Effect]:
    """Mark the significant effects of a family; effects without a p-value do not count as tests."""
    tested = [k for k, effect in enumerate(effects) if effect.p is not None]
    rejected = reject_holm([effects[k].p or 0.0 for k in tested], rate)
    significant = {k for k, is_rejected in zip(tested, rejected, strict=True) if is_rejected}
    return [replace(effect, is_significant=k in significant) for k, effect in enumerate(effects)]
