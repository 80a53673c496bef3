"""Error rate and power of the gate: how often it holds an equal candidate, and one that is worse in a domain.

`STAR_CTR_LONG=1 pytest tests/jobs/registry/test_gate_error_rate.py -s -m "slow or not slow"` prints the rates that docs/nights.md quotes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2
from scipy.stats import t as student

from star_ctr.conf.settings.gate import GateSettings
from star_ctr.features.evaluation.poisson_bootstrap import Floats, Ints, draw_weights
from star_ctr.features.evaluation.significance import (
    compute_detectable_loss,
    compute_p_below,
    compute_p_count,
    reject_holm,
)
from star_ctr.features.evaluation.user_auc import count_wins
from star_ctr.features.simulation.impressions import CLICK_RATES, SHARES
from star_ctr.jobs.registry.decisions import Outcome
from star_ctr.jobs.registry.gate_checks import ERROR_RATE_SHARES, MIN_BOOTSTRAP_SAMPLES, GateInputs
from star_ctr.jobs.registry.gate_policy import decide
from tests.conftest import LONG

GATE = GateSettings()
COUNT = 400 if LONG else 200
"""Number of nights that are simulated from users."""
Row = dict[str, Any]


def compute_held_share(facts: list[GateInputs]) -> tuple[float, list[str]]:
    """Return the share of nights that are held, and the reasons; no night may have too little data."""
    decided = [decide(GATE, night) for night in facts]
    assert all(outcome is not Outcome.TOO_SMALL for outcome, _ in decided), decided
    reasons = [reason for outcome, reason in decided if outcome is Outcome.HELD]
    return len(reasons) / len(facts), reasons


# --- nights drawn from standard errors: 19 domains that share users


def draw_night(rng: np.random.Generator, std: Floats, loss: Floats, clicks: int = 400) -> GateInputs:
    """Draw a night with independent noise in differences, click rates, calibration and the GAUC of both models."""
    domains = [f"d{k:02d}" for k in range(len(std))]
    errors = std * (0.5 * rng.normal() + np.sqrt(0.75) * rng.normal(size=len(std)))
    found = errors - loss
    weight = 1 / std / (1 / std).sum()
    overall_std = float(np.sqrt((weight**2 * std**2).sum() * 0.75 + 0.25 * (weight * std).sum() ** 2))
    spread = np.sqrt(
        chi2.rvs(MIN_BOOTSTRAP_SAMPLES - 1, size=len(std) + 1, random_state=rng) / (MIN_BOOTSTRAP_SAMPLES - 1)
    )
    names, value = [*domains, "overall"], np.r_[found, weight @ found]
    differences = [
        {"domain": d, "gauc": x, "gauc_low": x - 2 * s, "gauc_high": x + 2 * s, "gauc_std": s, "gauc_effective": 400.0}
        for d, x, s in zip(names, value.tolist(), (np.r_[std, overall_std] * spread).tolist(), strict=True)
    ]

    def night() -> list[Row]:
        counts = rng.poisson(clicks, len(domains))
        rows = [{"domain": d, "rows": 20_000, "clicks": int(n)} for d, n in zip(domains, counts, strict=True)]
        total, gauc = int(counts.sum()), 0.63 + 0.01 * rng.normal()
        overall = {"domain": "overall", "rows": 20_000 * len(domains), "clicks": total, "gauc": gauc}
        limits = {"gauc_low": gauc - 0.0196, "gauc_high": gauc + 0.0196, "log_loss": 0.1}
        return [*rows, {**overall, **limits, "pcoc": clicks * len(domains) / total}]

    before = [night() for _ in range(7)]
    return GateInputs(night(), differences, before, before[-1][-1])


def test_equal_models_are_held_at_most_at_the_error_rate() -> None:
    rng = np.random.default_rng(1)
    std = np.geomspace(0.004, 0.08, 19)
    share, reasons = compute_held_share([draw_night(rng, std, np.zeros(19)) for _ in range(600)])
    print(f"\nestimates: {share:.1%} of 600 nights of equal models are held")
    assert 0.005 < share <= GATE.error_rate, reasons


@pytest.mark.parametrize("clicks", [3, 10])
def test_small_counts_do_not_raise_the_error_rate(clicks: int) -> None:
    """Calibration and click rates are noisy on days with about 57 and 190 clicks."""
    rng = np.random.default_rng(clicks)
    nights = [draw_night(rng, np.full(19, 0.02), np.zeros(19), clicks) for _ in range(500)]
    enough = [night for night in nights if night.candidate[-1]["clicks"] >= GATE.min_clicks]
    assert len(enough) > 350
    assert compute_held_share(enough)[0] <= GATE.error_rate


def test_a_loss_of_domain_loss_is_held_on_nine_of_ten_nights() -> None:
    rng = np.random.default_rng(2)
    std, loss = np.full(19, 0.0115), np.zeros(19)
    loss[7] = GATE.domain_loss
    share, reasons = compute_held_share([draw_night(rng, std, loss) for _ in range(400)])
    print(f"\nestimates: {share:.1%} of 400 nights with a loss of 0.05 at a standard error of 0.0115 are held")
    assert share >= 0.9
    assert sum("domain d07: GAUC -" in reason for reason in reasons) / 400 >= 0.9
    assert compute_detectable_loss(0.035 / 20, 0.9, 0.0115, 400, MIN_BOOTSTRAP_SAMPLES) < 0.05, (
        "the gate computes the same power"
    )


# --- nights simulated from users: 19 domains as in Table 1 of the paper


SortedRows = tuple[Ints, Ints, Floats, Any]
"""Domain, user, score and label of rows that are sorted by user and score."""


class Nights:
    """Simulated days of one set of users. Two models share the same signal, each with its own noise."""

    def __init__(self, rows: int = 120_000, users: int = 3_000) -> None:
        self.rows, self.users = rows, users
        rate = np.array(CLICK_RATES) / 100
        self.level = np.log(rate / (1 - rate)) - 0.6
        self.share = np.array(SHARES) / sum(SHARES)

    @lru_cache(maxsize=1)  # noqa: B019  # the nights of a seed are made one after the other
    def draw(self, seed: int) -> tuple[Ints, Ints, Any, Floats, Floats, SortedRows, Floats]:
        """Draw user, domain, label, both models' scores, the sorted rows of the reference, and noise."""
        rng = np.random.default_rng(seed)
        activity = np.exp(rng.normal(size=self.users))
        user = rng.choice(self.users, self.rows, p=activity / activity.sum())
        domain = rng.choice(len(self.share), self.rows, p=self.share)
        taste = rng.normal(size=self.rows)
        logit = self.level[domain] + 0.4 * rng.normal(size=self.users)[user] + taste
        label = rng.random(self.rows) < 1 / (1 + np.exp(-logit))
        known = 0.6 * taste + 0.5 * rng.normal(size=self.rows)
        candidate, reference = (known + 0.3 * rng.normal(size=self.rows) for _ in range(2))
        return (
            user,
            domain,
            label,
            candidate,
            reference,
            sort_rows(domain, user, reference, label),
            rng.normal(size=self.rows),
        )

    def make_inputs(
        self, seed: int, worse: int | None = None, noise: float = 0.0, equal: GateInputs | None = None
    ) -> GateInputs:
        """Make the inputs of a night; the candidate has more noise in the domain `worse`.

        Args:
            seed: The seed of the night.
            worse: The number of the domain; None if the models are equal.
            noise: The standard deviation of the noise.
            equal: The inputs of the same night with equal models, from which all other domains are copied.
        """
        user, domain, label, candidate_score, _, reference_rows, normal = self.draw(seed)
        if worse is not None:
            candidate_score = candidate_score + noise * normal * (domain == worse)
        drawn = draw_weights(
            np.random.default_rng(seed + 1).integers(-(2**63), 2**63 - 1, self.users), MIN_BOOTSTRAP_SAMPLES, 0
        )
        models = [sort_rows(domain, user, candidate_score, label), reference_rows]
        copied = {d["domain"]: d for d in equal.differences} if equal else {}
        candidate, differences = [], []
        for name in (*range(len(self.share)), None):
            title = "overall" if name is None else f"d{name + 1:02d}"
            part = slice(None) if name is None else domain == name
            clicks = int(label[part].sum())
            row = {"domain": title, "rows": len(user[part]), "clicks": clicks, "pcoc": 1.0, "gauc": 0.65}
            candidate.append({**row, "log_loss": 0.1})
            if equal and name not in (worse, None):
                differences += [copied[title]] if title in copied else []
                continue
            users_by_model = []
            for sorted_domain, *columns in models:
                where = slice(None) if name is None else np.flatnonzero(sorted_domain == name)
                users_by_model.append(per_user(*(column[where] for column in columns)))
            who, rows = users_by_model[0][0], users_by_model[0][1].astype(float)
            if len(who) == 0:
                continue
            times = drawn[:, who].astype(float)
            total = times @ rows
            with np.errstate(invalid="ignore"):
                values = times @ (rows * (users_by_model[0][2] - users_by_model[1][2])) / total
            values = values[~np.isnan(values)]
            std = float(values[1:].std(ddof=1)) if len(values) > 0.95 * MIN_BOOTSTRAP_SAMPLES else None
            low, high = np.quantile(values[1:], [0.025, 0.975]).tolist()
            evidence = {"gauc_std": std, "gauc_effective": rows.sum() ** 2 / (rows**2).sum()}
            differences.append(
                {"domain": title, "gauc": float(values[0]), "gauc_low": low, "gauc_high": high, **evidence}
            )
        return GateInputs(candidate, differences)

    def noise_that_loses(self, domain: int, loss: float) -> float:
        """Find the noise with which a model loses the given GAUC in a domain, on many more rows."""
        rng = np.random.default_rng(0)
        n, users = 400_000, 20_000
        taste, user = rng.normal(size=n), rng.integers(0, users, n)
        label = rng.random(n) < 1 / (1 + np.exp(-(self.level[domain] + 0.4 * rng.normal(size=users)[user] + taste)))
        score = 0.6 * taste + np.sqrt(0.34) * rng.normal(size=n)
        more = rng.normal(size=n)

        def gauc(noise: float) -> float:
            noisy = score + noise * more
            _, rows, auc = per_user(*sort_rows(user, user, noisy, label)[1:])
            return float((rows * auc).sum() / rows.sum())

        low, high, best = 0.0, 5.0, gauc(0.0)
        for _ in range(12):
            noise = (low + high) / 2
            low, high = (noise, high) if best - gauc(noise) < loss else (low, noise)
        return high


def sort_rows(domain: Ints, user: Ints, score: Floats, label: Any) -> SortedRows:
    """Return domain, user, score and label of the rows, sorted by user and score."""
    by_score = np.argsort(score)
    order = by_score[np.argsort(user[by_score].astype(np.int16), kind="stable")]  # 16 bits: NumPy sorts by radix
    return domain[order], user[order], score[order], label[order]


def per_user(user: Ints, score: Floats, label: Any) -> tuple[Ints, Ints, Floats]:
    """Compute number, rows and AUC of the users with both classes, from rows that are sorted by user and score."""
    starts, rows, clicked, wins = count_wins(user, score, label)
    both = (clicked > 0) & (clicked < rows)
    rows, clicked = rows[both], clicked[both]
    return user[starts[both]], rows, wins[both] / (2.0 * clicked * (rows - clicked))


@pytest.mark.slow
def test_error_rate_and_power_on_simulated_users() -> None:
    nights, count = Nights(), COUNT
    noise = {domain: nights.noise_that_loses(domain, GATE.domain_loss) for domain in (13, 7)}
    equal: list[GateInputs] = []
    lost: dict[int, list[GateInputs]] = {domain: [] for domain in noise}
    for k in range(count):
        equal.append(nights.make_inputs(2 * k))
        for domain, deviation in noise.items():
            lost[domain].append(nights.make_inputs(2 * k, domain, deviation, equal[-1]))
    share, reasons = compute_held_share(equal)
    large = [sum(r["rows"] >= GATE.domain_rows for r in n.candidate) - 1 for n in equal]
    without = np.mean([any(_old_rule(d, n) for d in n.differences) for n in equal])
    print(f"\nusers: {share:.1%} of {count} nights of equal models are held ({np.mean(large):.0f} large domains);")
    print(f"       {without:.1%} with an uncorrected 95 % interval per domain")
    assert share <= GATE.error_rate, reasons
    assert without > 0.2, "uncorrected intervals hold far more nights"
    for domain, least in ((13, 0.9), (7, 0.0)):
        title = f"d{domain + 1:02d}"
        share, reasons = compute_held_share(lost[domain])
        named = sum(f"domain {title}: GAUC -" in reason for reason in reasons) / count
        found = [next(d for d in n.differences if d["domain"] == title) for n in lost[domain]]
        std, loss = np.mean([d["gauc_std"] for d in found]), -np.mean([d["gauc"] for d in found])
        chance = np.mean([expected_power(d, np.mean(large) + 1) for d in found])
        print(f"       {share:.1%} with a loss of {loss:.3f} in {title} (standard error {std:.4f}): ", end="")
        print(f"{named:.1%} for that domain, {chance:.1%} expected")
        assert abs(loss - GATE.domain_loss) < 0.005
        assert share >= least
        assert named == pytest.approx(chance, abs=0.06), "the power that the gate claims is correct"


def expected_power(difference: Row, tests: float) -> float:
    """Return the power to detect a loss of `domain_loss`, from the standard error."""
    dof = min(MIN_BOOTSTRAP_SAMPLES, difference["gauc_effective"]) - 1
    critical = student.isf(GATE.error_rate * ERROR_RATE_SHARES["gauc"] / tests, dof)
    return float(student.cdf(GATE.domain_loss / difference["gauc_std"] - critical, dof))


def _old_rule(difference: Row, night: GateInputs) -> bool:
    rows = next(r["rows"] for r in night.candidate if r["domain"] == difference["domain"])
    margin = GATE.gauc_margin if difference["domain"] == "overall" else GATE.domain_margin
    return bool(rows >= GATE.domain_rows and difference["gauc"] < -margin and difference["gauc_high"] < 0)


# --- significance tests


def test_p_values_match_simulation() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(200_000, 12))
    t = means.mean(axis=1) / (means.std(axis=1, ddof=1) / np.sqrt(12))
    assert compute_p_below(-0.2, 0.1, 12) == pytest.approx((t < -2).mean(), abs=0.002)
    assert compute_p_below(-0.1, 0.0, 5) == 0.0
    assert compute_p_below(0.0, 0.0, 5) == 1.0
    counts, expected = rng.poisson(120.0, 200_000), rng.poisson(4 * 120.0, 200_000) / 4
    p = student.cdf(2 * (np.sqrt(counts) - np.sqrt(expected)) / np.sqrt(1.25), 1e6)
    assert compute_p_count(100, 121.0, (1.0, 1e6), 0.25) == pytest.approx(student.cdf(-2 / np.sqrt(1.25), 1e6))
    assert (p < 0.01).mean() == pytest.approx(0.01, abs=0.003)
    seen = compute_detectable_loss(0.01, 0.9, 0.02, 150)
    critical = 0.02 * -np.quantile(rng.standard_t(149, 400_000), 0.01)
    assert (-seen + 0.02 * rng.standard_t(149, 400_000) < -critical).mean() == pytest.approx(0.9, abs=0.01)


def test_holm_matches_the_step_down_procedure() -> None:
    assert reject_holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert reject_holm([0.03, 0.02], 0.05) == [True, True]
    assert reject_holm([0.03, 0.04], 0.05) == [False, False]
    assert reject_holm([], 0.05) == []
