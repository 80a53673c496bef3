"""The history of decisions of the gate and of people, refits, and `serving.json`."""

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
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.gate import read_accepted_metrics
from star_ctr.jobs.refit import publish_refit
from star_ctr.jobs.registry.decisions import (
    Decision,
    Decisions,
    Outcome,
    find_accepted_before,
    find_serving,
    get_evaluated_attempt,
)
from tests import small_logs
from tests.published import publish as publish_run


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
