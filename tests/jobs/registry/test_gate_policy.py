"""The decisions of the gate on nights with invented metrics."""

from __future__ import annotations

from typing import Any

import pytest

from star_ctr.conf.load import load
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.jobs.registry.decisions import (
    Outcome,
)
from star_ctr.jobs.registry.gate_baseline import estimate_completeness
from star_ctr.jobs.registry.gate_checks import GateInputs, require_bootstrap_samples
from star_ctr.jobs.registry.gate_policy import check_refit, decide

GATE = GateSettings()


def metrics(**changed: Any) -> list[dict[str, Any]]:
    """Make the metrics of a good night with two domains, and change those of `overall`."""
    good = {"gauc": 0.63, "gauc_low": 0.62, "gauc_high": 0.64, "pcoc": 1.0}
    overall = {"domain": "overall", "rows": 100_000, "clicks": 9_000, **good, **changed}
    return [
        {"domain": "home", "rows": 90_000, "clicks": 8_500, **good},
        {"domain": "mail", "rows": 10_000, "clicks": 500, **good},
        overall,
    ]


def differences(overall: float, mail: float = 0.0, half: float = 0.002) -> list[dict[str, Any]]:
    """Make differences of GAUC, candidate minus serving model, with intervals of half width `half`."""
    by_domain = {"home": 0.0, "mail": mail, "overall": overall}
    return [{"domain": d, "gauc": x, "gauc_low": x - half, "gauc_high": x + half} for d, x in by_domain.items()]


def test_the_first_model_is_promoted_if_its_metrics_are_good() -> None:
    outcome, reason = decide(GATE, GateInputs(metrics()))
    assert outcome is Outcome.PROMOTED
    assert "no model is served yet" in reason


@pytest.mark.parametrize(
    ("found", "outcome", "words"),
    [
        (differences(0.001), Outcome.PROMOTED, "+0.0010 (-0.0010 to +0.0030)"),
        (
            differences(-0.0009, half=0.0001),
            Outcome.PROMOTED,
            "worse than the serving model, but within",
        ),  # significant, but within the margin
        (differences(-0.0019, half=0.002), Outcome.PROMOTED, "not worse"),  # beyond the margin, but not significant
        (differences(-0.003, half=0.002), Outcome.HELD, "overall: GAUC -0.0030"),
        (differences(0.0, mail=-0.02, half=0.005), Outcome.HELD, "domain mail: GAUC -0.0200"),
        (differences(0.0, mail=-0.009, half=0.001), Outcome.PROMOTED, "not worse"),
    ],
)
def test_a_candidate_is_held_if_it_is_significantly_worse_by_more_than_the_margin(
    found: list[dict[str, Any]], outcome: Outcome, words: str
) -> None:
    decided, reason = decide(GATE, GateInputs(metrics(), found))
    assert (decided, words in reason) == (outcome, True), reason


def test_a_loss_in_a_small_domain_does_not_hold_a_candidate() -> None:
    gate = GATE.model_copy(update={"domain_rows": 20_000})
    assert decide(gate, GateInputs(metrics(), differences(0.0, mail=-0.5)))[0] is Outcome.PROMOTED


def test_a_day_with_too_few_rows_is_not_enough_data() -> None:
    before = [metrics(), metrics()]
    small = [{**r, "rows": r["rows"] // 10} for r in metrics()]
    outcome, reason = decide(GATE, GateInputs(small, differences(-0.1), before))
    assert outcome is Outcome.TOO_SMALL
    assert "10,000 rows, compared with a median of 100,000 on earlier nights" in reason
    outcome, reason = decide(GATE, GateInputs([r for r in metrics() if r["domain"] != "mail"], (), before))
    assert outcome is Outcome.TOO_SMALL
    assert "0 rows in domain mail, compared with a median of 10,000 on earlier nights" in reason
    assert decide(GATE, GateInputs(metrics(rows=900), ()))[0] is Outcome.TOO_SMALL
    assert decide(GATE, GateInputs(metrics(clicks=5), ()))[0] is Outcome.TOO_SMALL


def test_shuffled_labels_are_held_although_both_models_drop_equally() -> None:
    serving = {"gauc": 0.64}
    shuffled = metrics(gauc=0.5, gauc_low=0.49, gauc_high=0.51)
    outcome, reason = decide(GATE, GateInputs(shuffled, differences(0.0), (), serving))
    assert outcome is Outcome.HELD
    assert "check the labels of this day" in reason
    outcome, reason = decide(GATE, GateInputs(shuffled, differences(-0.12), (), serving))
    assert outcome is Outcome.HELD
    assert "labels" not in reason, "the serving model has not dropped, so the labels are not suspect"
    assert decide(GATE, GateInputs(metrics(), differences(0.0), (), serving))[0] is Outcome.PROMOTED


def test_a_gauc_drop_by_chance_on_a_small_day_is_not_held() -> None:
    serving = {"gauc": 0.64, "gauc_low": 0.54, "gauc_high": 0.74}
    small = metrics(gauc=0.58, gauc_low=0.54, gauc_high=0.62)
    assert decide(GATE, GateInputs(small, differences(0.0), (), serving))[0] is Outcome.PROMOTED
    sure = {**serving, "gauc_low": 0.635, "gauc_high": 0.645}
    fell = metrics(gauc=0.58, gauc_low=0.575, gauc_high=0.585)
    assert decide(GATE, GateInputs(fell, differences(0.0), (), sure))[0] is Outcome.HELD


def with_domain(rows: list[dict[str, Any]], domain: str, **changed: Any) -> list[dict[str, Any]]:
    return [{**r, **changed} if r["domain"] == domain else r for r in rows]


def test_missing_clicks_in_a_large_domain_are_held() -> None:
    before = [metrics(), metrics()]
    gone = with_domain(metrics(), "mail", clicks=0, gauc=None, gauc_low=None, gauc_high=None, pcoc=None)
    without = [
        {**d, "gauc": None, "gauc_low": None, "gauc_high": None} if d["domain"] == "mail" else d
        for d in differences(0.0)
    ]
    for facts in (GateInputs(gone, without, before), GateInputs(gone, (), before)):
        outcome, reason = decide(GATE, facts)
        assert outcome is Outcome.HELD
        assert (
            "domain mail: 0 clicks in 10,000 rows, expected 500 at the median click rate of 2 earlier nights" in reason
        )
    few = with_domain(metrics(), "mail", clicks=60)
    assert decide(GATE, GateInputs(few, differences(0.0), before))[0] is Outcome.HELD, "fewer than gate.min_share"
    fewer = with_domain(metrics(), "mail", clicks=300)
    assert decide(GATE, GateInputs(fewer, differences(0.0), before))[0] is Outcome.PROMOTED
    assert (
        decide(GATE, GateInputs(gone, without, [with_domain(n, "mail", clicks=0) for n in before]))[0]
        is Outcome.PROMOTED
    )
    rare = [with_domain(night, "mail", clicks=2) for night in before]
    assert decide(GATE, GateInputs(gone, without, rare))[0] is Outcome.PROMOTED, (
        "two missing clicks are not significant"
    )
    overall = metrics(clicks=1_000)
    assert "overall: 1,000 clicks in 100,000 rows" in decide(GATE, GateInputs(overall, differences(0.0), before))[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["gauc", "auc", "pcoc", "log_loss", "gauc_low", "gauc_high", "gauc_std"])
@pytest.mark.parametrize("domain", ["overall", "mail"])
def test_a_non_finite_metric_is_held(name: str, value: float, domain: str) -> None:
    candidate_inputs = GateInputs(with_domain(metrics(), domain, **{name: value}), differences(0.001))
    difference_inputs = GateInputs(metrics(), with_domain(differences(0.001), domain, **{name: value}))
    serving_inputs = GateInputs(metrics(), differences(0.001), (), {"gauc": 0.63, name: value})
    for facts in (candidate_inputs, difference_inputs, serving_inputs):
        outcome, reason = decide(GATE, facts)
        assert outcome is Outcome.HELD
        assert f"is {value}, not a finite number" in reason


@pytest.mark.parametrize("name", ["gauc", "pcoc", "log_loss"])
def test_a_missing_overall_metric_is_not_enough_data(name: str) -> None:
    gate = GATE.model_copy(update={"min_rows": 0, "min_clicks": 0})
    outcome, reason = decide(gate, GateInputs(metrics(**{name: None})))
    assert outcome is Outcome.TOO_SMALL
    assert f"overall {name.upper().replace('_', ' ').replace('LOG LOSS', 'log loss')} is undefined" in reason
    assert decide(gate, GateInputs([r for r in metrics() if r["domain"] != "overall"]))[0] is Outcome.TOO_SMALL


def test_an_untestable_difference_is_not_promoted() -> None:
    missing = with_domain(differences(0.0), "overall", gauc=None, gauc_low=None, gauc_high=None)
    assert decide(GATE, GateInputs(metrics(), missing))[0] is Outcome.TOO_SMALL
    untested = with_domain(differences(-0.3), "overall", gauc_low=None, gauc_high=None)
    assert decide(GATE, GateInputs(metrics(), untested))[0] is Outcome.TOO_SMALL
    assert (
        decide(GATE, GateInputs(metrics(), [d for d in differences(0.0) if d["domain"] != "overall"]))[0]
        is Outcome.TOO_SMALL
    )


@pytest.mark.parametrize(("configured", "used"), [(0, 200), (50, 200), (500, 500)])
def test_the_gate_uses_enough_bootstrap_draws(configured: int, used: int) -> None:
    settings = load("demo", [f"evaluate.bootstrap_samples={configured}"])
    assert require_bootstrap_samples(settings).evaluate == settings.evaluate.model_copy(
        update={"bootstrap_samples": used}
    )


def test_a_difference_without_spread_is_significant() -> None:
    """The candidate has no ranking in a domain and the serving model is perfect: the difference has no spread."""
    sure = with_domain(differences(0.0), "mail", gauc=-0.5, gauc_low=-0.5, gauc_high=-0.5, gauc_std=0.0)
    assert decide(GATE, GateInputs(metrics(), sure))[0] is Outcome.HELD


def test_a_promotion_names_domains_with_low_power() -> None:
    outcome, reason = decide(
        GATE, GateInputs(metrics(), with_domain(differences(0.001), "mail", gauc_low=-0.1, gauc_high=0.1))
    )
    assert outcome is Outcome.PROMOTED
    assert (
        "too few users to detect a loss of 0.05 (gate.domain_loss) on 90% of nights in 1 of 2 large domains: mail"
        in reason
    )


def test_a_refit_needs_a_pcoc_within_the_band() -> None:
    assert check_refit(GATE, metrics(log_loss=0.2)) == []
    assert "PCOC 2.00 on the day is outside [0.7, 1.4]" in check_refit(GATE, metrics(log_loss=0.2, pcoc=2.0))[0]
    for value in (None, float("nan"), float("inf")):
        assert check_refit(GATE, metrics(log_loss=0.2, pcoc=value))
        assert check_refit(GATE, metrics(log_loss=value))
    assert check_refit(GATE, metrics()[:2])


@pytest.mark.parametrize("pcoc", [0.5, 2.0])
def test_a_model_with_a_pcoc_outside_the_band_is_held(pcoc: float) -> None:
    outcome, reason = decide(GATE, GateInputs(metrics(pcoc=pcoc)))
    assert outcome is Outcome.HELD
    assert "gate.pcoc" in reason


@pytest.mark.parametrize(
    ("pcoc", "completeness", "outcome"),
    [
        (1.9, 1.0, Outcome.HELD),
        (1.9, 0.7, Outcome.PROMOTED),
        (2.1, 0.6, Outcome.PROMOTED),
        (2.1, 0.7, Outcome.HELD),
        (0.9, 0.7, Outcome.HELD),
        (1.9, None, Outcome.PROMOTED),
        (0.6, None, Outcome.HELD),
    ],
)
def test_open_labels_do_not_count_as_missing_clicks(pcoc: float, completeness: float | None, outcome: Outcome) -> None:
    found, reason = decide(GATE, GateInputs(metrics(pcoc=pcoc), completeness=completeness))
    assert found is outcome, reason
    if completeness == 0.7 and outcome is Outcome.HELD:
        assert f"PCOC {0.7 * pcoc:.2f} (corrected for an estimated 30% of clicks still missing) is outside" in reason


def test_completeness_is_the_median_share_of_clicks_known_on_earlier_nights() -> None:
    def night(run: str, clicks: int, **more: int) -> dict[str, Any]:
        return {"run_id": run, "domain": "overall", "clicks": clicks, **more}

    before = [night("a", 80), night("b", 60), night("c", 99), night("d", 70), {**night("a", 1), "domain": "home"}]
    final = [night("a", 100), night("b", 100), night("d", 100), night("gone", 100)]
    candidate = [night("e", 50, open_labels=10)]
    assert estimate_completeness(candidate, before, final) == 0.7
    assert estimate_completeness(candidate, before, []) is None
    assert estimate_completeness([night("e", 50, open_labels=0)], before, final) == 1.0
    assert estimate_completeness(candidate, [night("a", 101)], final) == 1.0
    assert estimate_completeness(candidate, [night("a", 0)], final) is None


def test_a_significant_loss_within_the_margin_is_called_a_loss() -> None:
    outcome, reason = decide(GATE, GateInputs(metrics(), differences(-0.0008, half=0.0004)))
    assert outcome is Outcome.PROMOTED
    assert "worse than the serving model, but within the margin of 0.001" in reason
    assert decide(GATE, GateInputs(metrics(), differences(-0.0002)))[1].startswith("not worse than the serving model")


def test_the_pcoc_band_of_the_gate_is_validated() -> None:
    with pytest.raises(ValueError, match="lower bound first"):
        GateSettings(pcoc=(1.2, 0.8))
