"""The baseline of the gate: the earlier nights it selects, and its decisions on lasting changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from star_ctr.conf.contracts.run_id import make_refit_run_id
from star_ctr.conf.load import load
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.jobs import gate
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.decisions import Decision, Outcome
from star_ctr.jobs.registry.gate_baseline import (
    BASELINE_NIGHTS,
    compute_typical_rows,
    estimate_click_rate,
    select_baseline_runs,
)
from star_ctr.jobs.registry.gate_checks import GateInputs
from star_ctr.jobs.registry.gate_policy import decide

GATE = GateSettings()
RUNS = [f"2026-03-{day:02d}-star" for day in range(1, 31)]
Row = dict[str, Any]


def decision(run: str, outcome: Outcome, against: str = "") -> Decision:
    return Decision(run[:10], run, 1, against, 1 if against else None, outcome, "")


def night(**domains: tuple[int, int]) -> list[Row]:
    """Make the metrics of a night from the rows and clicks of each domain."""
    found: list[Row] = [{"domain": d, "rows": rows, "clicks": clicks} for d, (rows, clicks) in domains.items()]
    total = {name: sum(row[name] for row in found) for name in ("rows", "clicks")}
    good = {"gauc": 0.65, "gauc_low": 0.6, "gauc_high": 0.7, "log_loss": 0.1, "pcoc": 1.0}
    return [*found, {"domain": "overall", **total, **good}]


class Sequel:
    """Consecutive nights. The gate decides on each one with the baseline of the previous nights."""

    def __init__(self) -> None:
        self.nights: list[list[Row]] = []
        self.decisions: list[Decision] = []

    def next(self, **domains: tuple[int, int]) -> Outcome:
        runs, metrics = RUNS[: len(self.nights)], night(**domains)
        before = [self.nights[RUNS.index(run)] for run in select_baseline_runs(runs, self.decisions)]
        outcome, _ = decide(GATE, GateInputs(metrics, (), before, {}, 0.95, self.nights[-BASELINE_NIGHTS:]))
        self.decisions.append(decision(RUNS[len(self.nights)], outcome))
        self.nights.append(metrics)
        return outcome

    def promote(self) -> None:
        """Promote the last night manually."""
        self.decisions.append(decision(RUNS[len(self.nights) - 1], Outcome.PROMOTED_MANUALLY))


HOME, MAIL = (50_000, 3_000), (10_000, 500)


@pytest.mark.parametrize(
    ("mail", "outcome"), [((10_000, 100), Outcome.HELD), ((10_000, 0), Outcome.HELD), ((2_000, 100), Outcome.TOO_SMALL)]
)
def test_a_lasting_loss_is_not_part_of_the_baseline_until_a_person_accepts_it(
    mail: tuple[int, int], outcome: Outcome
) -> None:
    sequel = Sequel()
    assert {sequel.next(home=HOME, mail=MAIL) for _ in range(8)} == {Outcome.PROMOTED}
    assert {sequel.next(home=HOME, mail=mail) for _ in range(10)} == {outcome}
    assert sequel.next(home=HOME, mail=MAIL) is Outcome.PROMOTED, "the loss has ended"
    assert sequel.next(home=HOME, mail=mail) is outcome
    sequel.promote()
    assert {sequel.next(home=HOME, mail=mail) for _ in range(8)} == {Outcome.PROMOTED}, "one promotion is enough"


@pytest.mark.parametrize("outlier", [(40_000, 12_000), (40_000, 1), (500_000, 25_000)])
def test_one_outlier_night_does_not_change_the_baseline(outlier: tuple[int, int]) -> None:
    before = [*[night(home=HOME, mail=MAIL)] * 3, night(home=HOME, mail=outlier), *[night(home=HOME, mail=MAIL)] * 3]
    assert decide(GATE, GateInputs(night(home=HOME, mail=MAIL), (), before))[0] is Outcome.PROMOTED
    assert decide(GATE, GateInputs(night(home=HOME, mail=(10_000, 0)), (), before))[0] is Outcome.HELD
    assert decide(GATE, GateInputs(night(home=HOME, mail=(10_000, 60)), (), before))[0] is Outcome.HELD


def test_a_weekend_domain_is_not_expected_on_other_days() -> None:
    sequel = Sequel()
    for day in range(28):
        weekend = {"mail": MAIL} if day % 7 in (2, 3) else {}
        assert sequel.next(home=HOME, **weekend) is Outcome.PROMOTED, f"night {day}"
    lost = {"mail": (10_000, 0)}
    assert [sequel.next(home=HOME, **extra) for extra in ({}, lost)] == [Outcome.PROMOTED, Outcome.HELD]


def test_a_retired_domain_is_expected_until_most_nights_lack_it() -> None:
    sequel = Sequel()
    for _ in range(7):
        sequel.next(home=HOME, mail=MAIL)
    assert [sequel.next(home=HOME) for _ in range(12)] == [Outcome.TOO_SMALL] * 4 + [Outcome.PROMOTED] * 8
    sequel = Sequel()
    for _ in range(7):
        sequel.next(home=HOME, mail=MAIL)
    assert sequel.next(home=HOME) is Outcome.TOO_SMALL
    sequel.promote()
    assert sequel.next(home=HOME) is Outcome.PROMOTED


def test_only_promoted_or_undecided_nights_are_selected() -> None:
    outcomes = [Outcome.PROMOTED, Outcome.HELD, Outcome.TOO_SMALL, Outcome.PROMOTED]
    decisions = [decision(run, outcome) for run, outcome in zip(RUNS, outcomes, strict=False)]
    assert select_baseline_runs(RUNS[:5], decisions) == [RUNS[0], RUNS[3], RUNS[4]], "undecided nights count"
    assert select_baseline_runs(RUNS[1:3], decisions) == RUNS[1:3], "all count if none is left"
    assert select_baseline_runs(RUNS[:20], decisions) == RUNS[13:20]
    assert select_baseline_runs([], decisions) == []
    again = [*decisions, decision(RUNS[1], Outcome.PROMOTED)]
    assert RUNS[1] in select_baseline_runs(RUNS[:5], again), "the last decision on a night counts"


def test_a_manually_promoted_night_starts_the_baseline() -> None:
    decisions = [decision(RUNS[0], Outcome.PROMOTED), decision(RUNS[1], Outcome.HELD)]
    manual = [*decisions, decision(RUNS[1], Outcome.PROMOTED_MANUALLY)]
    assert select_baseline_runs(RUNS[:3], manual) == RUNS[1:3]
    refit = [*manual, decision(make_refit_run_id(RUNS[1]), Outcome.REFIT, RUNS[1])]
    assert select_baseline_runs(RUNS[:3], refit) == RUNS[1:3]
    undone = [*manual, decision(RUNS[0], Outcome.ROLLED_BACK, RUNS[1])]
    assert select_baseline_runs(RUNS[:3], undone) == [RUNS[0], RUNS[2]]
    promoted = [*decisions, decision(RUNS[0], Outcome.PROMOTED_MANUALLY)]
    assert select_baseline_runs(RUNS[:3], promoted) == [RUNS[0], RUNS[2]], "the gate had also promoted it"


def test_typical_rows_and_click_rates_are_medians() -> None:
    nights = [night(home=(100, 10)), night(home=(300, 90), mail=(50, 5)), night(home=(200, 40), mail=(70, 0))]
    assert compute_typical_rows(nights) == {"home": 200, "mail": 50, "overall": 270}
    assert compute_typical_rows(nights[:2])["mail"] == 0
    expected = estimate_click_rate(nights, "home")
    assert (expected.rate, expected.nights, expected.rows) == (0.2, 3, 600)
    assert estimate_click_rate(nights, "mail").rate == 0.05, "nights without the domain do not affect its click rate"
    assert estimate_click_rate(nights, "none").rate == 0.0
    assert compute_typical_rows([]) == {}


def test_a_night_that_runs_again_ignores_final_metrics_of_later_nights(tmp_path: Path) -> None:
    store = WarehouseTables(load("demo", [f"paths.warehouse={tmp_path}", f"paths.logs={tmp_path}"]), cast(Any, None))
    assert gate._read_final_metrics(store, ["a"], "2026-03-05") == [], "no table yet"
    rows = [
        {"run_id": run, "domain": "overall", "clicks": clicks, "as_of": night}
        for run, clicks, night in (("a", 10, "2026-03-04"), ("b", 20, "2026-03-06"), ("other", 30, "2026-03-04"))
    ]
    write_deltalake(f"{tmp_path}/final_metrics", pa.Table.from_pylist(rows), partition_by="run_id")
    assert [row["clicks"] for row in gate._read_final_metrics(store, ["a", "b"], "2026-03-05")] == [10]
    assert len(gate._read_final_metrics(store, ["a", "b"], "2026-03-06")) == 2
