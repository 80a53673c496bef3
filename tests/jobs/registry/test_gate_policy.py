"""The decisions of the gate on nights with invented metrics, and the history of decisions with `serving.json`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import make_refit_run_id, make_run_id, strip_refit_suffix
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.gate import _require_bootstrap_samples, read_accepted_metrics
from star_ctr.jobs.refit import publish_refit
from star_ctr.jobs.registry.decisions import (
    Decision,
    Decisions,
    Outcome,
    find_accepted_before,
    find_serving,
    get_evaluated_attempt,
)
from star_ctr.jobs.registry.gate_checks import GateInputs
from star_ctr.jobs.registry.gate_policy import check_refit, decide
from tests import small_logs
from tests.published import publish as publish_run

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
        (differences(-0.0009, half=0.0001), Outcome.PROMOTED, "not worse"),  # significant, but within the margin
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
    assert _require_bootstrap_samples(settings).evaluate == settings.evaluate.model_copy(
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


def test_the_pcoc_band_of_the_gate_is_validated() -> None:
    with pytest.raises(ValueError, match="lower bound first"):
        GateSettings(pcoc=(1.2, 0.8))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(small_logs.write(tmp_path, small_logs.frames()))


def add(
    decisions: Decisions, ds: str, run_id: str, against: str, outcome: Outcome, reason: str, **more: Any
) -> Decision:
    decided = decisions.read_all()
    decision = Decision(ds, run_id, 1, against, 1 if against else None, outcome, reason, **more)
    decisions.add(decision, decided)
    return decision


def pointer(settings: Settings) -> str:
    return str(json.loads((Path(settings.paths.warehouse) / "serving.json").read_text())["run_id"])


def test_decisions_are_appended_and_the_pointer_is_updated(settings: Settings) -> None:
    decisions = Decisions(settings)
    assert find_serving(decisions.read_all()) is None
    add(decisions, "2026-03-02", "a", "", Outcome.PROMOTED, "first")
    add(decisions, "2026-03-03", "b", "a", Outcome.HELD, "worse")
    assert pointer(settings) == "a"
    publish_run(settings, "a", "2026-03-02")
    publish_run(settings, "b", "2026-03-03")
    decisions.promote("b", "the day was odd", by="ann")
    assert pointer(settings) == "b"
    with pytest.raises(UserError, match="is already serving"):
        decisions.promote("b", "again")
    with pytest.raises(UserError, match="no finished run in .*the newest: b, a"):
        decisions.promote("c", "why not")
    decisions.rollback("complaints", by="bob")
    assert pointer(settings) == "a"
    written = json.loads((Path(settings.paths.warehouse) / "serving.json").read_text())
    assert (written["outcome"], written["reason"], written["attempt"]) == ("rolled back", "complaints", 1)
    with pytest.raises(UserError, match="no earlier serving model to roll back to"):
        decisions.rollback("more complaints")
    history = [(d.run_id, str(d.outcome), d.by) for d in decisions.read_all()]
    assert history == [
        ("a", "promoted", "gate"),
        ("b", "held", "gate"),
        ("b", "promoted manually", "ann"),
        ("a", "rolled back", "bob"),
    ]


def test_a_refit_replaces_the_evaluated_model(settings: Settings) -> None:
    decisions, ds = Decisions(settings), small_logs.DAYS[2]
    run_id = make_run_id(settings, ds)
    add(decisions, ds, run_id, "", Outcome.PROMOTED, "first")
    add(decisions, ds, make_refit_run_id(run_id), run_id, Outcome.REFIT, "asked for")
    assert pointer(settings) == make_refit_run_id(run_id)
    assert strip_refit_suffix(make_refit_run_id(run_id)) == strip_refit_suffix(run_id) == run_id
    found = find_accepted_before(settings, decisions.read_all(), small_logs.DAYS[3])
    assert found is not None
    assert found.model == (run_id, 1)
    publish_run(settings, run_id, ds)
    decisions.rollback("it drifts", by="bob")
    assert pointer(settings) == run_id


def test_a_manually_promoted_refit_has_the_metrics_of_the_run_it_was_made_from(settings: Settings) -> None:
    ds = small_logs.DAYS[2]
    run_id = make_run_id(settings, ds)
    night_metrics = [{"domain": OVERALL, "gauc": 0.6}]
    before = Decision(small_logs.DAYS[1], "other", 1, "", None, Outcome.PROMOTED, "first")
    promoted = Decision(ds, run_id, 2, "other", 1, Outcome.PROMOTED, "better", evidence={"metrics": night_metrics})
    refit = Decision(ds, make_refit_run_id(run_id), 1, run_id, 2, Outcome.REFIT_HELD, "PCOC 3.00")
    # The reference of a manual decision is the previous serving run, not the run that the refit was made from.
    manual = Decision(ds, make_refit_run_id(run_id), 1, "other", 1, Outcome.PROMOTED_MANUALLY, "looks fine", by="ann")
    assert get_evaluated_attempt([before, promoted, refit, manual], manual) == (run_id, 2)
    assert read_accepted_metrics([before, promoted, refit, manual], manual) == night_metrics
    assert get_evaluated_attempt([manual], manual) == (run_id, None)
    assert read_accepted_metrics([manual], manual) == []


def test_a_refit_that_fails_its_checks_is_not_served(settings: Settings) -> None:
    decisions, ds = Decisions(settings), small_logs.DAYS[2]
    run_id = make_run_id(settings, ds)
    add(decisions, ds, run_id, "", Outcome.PROMOTED, "first")
    refit = Decision(ds, make_refit_run_id(run_id), 1, run_id, 1, Outcome.REFIT, "asked for")
    held = (Outcome.REFIT_HELD, "the refit is not served: PCOC 3.00; and more", run_id)
    for _ in range(2):
        assert publish_refit(decisions, refit, ["PCOC 3.00", "and more"]) == held
        assert (pointer(settings), len(decisions.read_all())) == (run_id, 2), "the decision is written once"
    last = decisions.read_all()[-1]
    assert (last.run_id, last.reference_run_id, last.outcome, last.reason) == (
        make_refit_run_id(run_id),
        run_id,
        *held[:2],
    )
    for _ in range(2):
        assert publish_refit(decisions, refit, []) == (Outcome.REFIT, "asked for", make_refit_run_id(run_id))
        assert (pointer(settings), len(decisions.read_all())) == (make_refit_run_id(run_id), 3)
    # The refit, retrained on other rows, is broken: the evaluated model replaces it.
    outcome, _, served = publish_refit(decisions, refit, ["PCOC 3.00"])
    assert (outcome, served, pointer(settings)) == (Outcome.ROLLED_BACK, run_id, run_id)
    assert publish_refit(decisions, refit, ["PCOC 3.00"])[2] == run_id


def test_a_refit_is_held_once_if_another_model_is_serving(settings: Settings) -> None:
    decisions, ds = Decisions(settings), small_logs.DAYS[2]
    run_id = make_run_id(settings, ds)
    add(decisions, ds, run_id, "", Outcome.PROMOTED, "first")
    add(decisions, ds, "other", run_id, Outcome.PROMOTED, "better")
    refit = Decision(ds, make_refit_run_id(run_id), 1, run_id, 1, Outcome.REFIT, "asked for")
    for _ in range(2):
        found = publish_refit(decisions, refit, [])
        assert found == (Outcome.REFIT_HELD, "the refit is not served: other is serving now", "other")
        assert len(decisions.read_all()) == 3


def test_a_refit_that_a_person_promoted_meanwhile_is_not_rolled_back(settings: Settings) -> None:
    decisions, ds = Decisions(settings), small_logs.DAYS[2]
    run_id = make_run_id(settings, ds)
    refit_id = make_refit_run_id(run_id)
    add(decisions, small_logs.DAYS[1], "older", "", Outcome.PROMOTED, "first")
    add(decisions, ds, run_id, "older", Outcome.PROMOTED, "better")
    add(decisions, small_logs.DAYS[1], "older", run_id, Outcome.ROLLED_BACK, "complaints", by="ann")
    add(decisions, ds, refit_id, "older", Outcome.PROMOTED_MANUALLY, "looks fine", by="ann")
    refit = Decision(ds, refit_id, 1, run_id, 1, Outcome.REFIT, "asked for")
    assert publish_refit(decisions, refit, []) == (Outcome.REFIT, "asked for", refit_id)
    assert (pointer(settings), len(decisions.read_all())) == (refit_id, 4)


def test_a_refit_without_an_earlier_model_is_never_rolled_back(settings: Settings) -> None:
    decisions, ds = Decisions(settings), small_logs.DAYS[2]
    refit_id = make_refit_run_id(make_run_id(settings, ds))
    add(decisions, ds, refit_id, "", Outcome.PROMOTED_MANUALLY, "looks fine", by="ann")
    refit = Decision(ds, refit_id, 1, make_run_id(settings, ds), 1, Outcome.REFIT, "asked for")
    assert publish_refit(decisions, refit, ["PCOC 3.00"])[2] == refit_id
    assert pointer(settings) == refit_id


def test_a_missing_pointer_is_written_again(settings: Settings) -> None:
    decisions = Decisions(settings)
    add(decisions, "2026-03-02", "a", "", Outcome.PROMOTED, "first")
    (Path(settings.paths.warehouse) / "serving.json").unlink()
    decisions.update_pointer()
    assert pointer(settings) == "a"


def test_the_previous_accepted_night_has_the_same_configuration(settings: Settings) -> None:
    days = small_logs.DAYS
    first, second = (Decision(ds, make_run_id(settings, ds), 1, "", None, Outcome.PROMOTED, "") for ds in days[1:3])
    other = Decision(days[2], "another configuration's", 1, "", None, Outcome.PROMOTED, "")
    assert find_accepted_before(settings, [first, other], days[3]) == first
    assert find_accepted_before(settings, [first, second], days[2]) == first
    rolled = Decision(first.ds, *first.model, *second.model, Outcome.ROLLED_BACK, "")
    assert find_accepted_before(settings, [first, second, rolled], days[3]) == first
    again = replace(first, attempt=2)
    assert find_accepted_before(settings, [first, again], days[3]) == again, (
        "of several attempts, the last accepted one"
    )
