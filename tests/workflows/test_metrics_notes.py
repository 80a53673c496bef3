"""What `star-ctr metrics` says about nights without metrics of an outcome, and about gaps from references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from typer.testing import CliRunner

from star_ctr.conf.contracts.run_id import make_reference_run_id
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.label_records import AS_OF, OUTCOMES_CLOSE, PART
from star_ctr.workflows.cli import app
from tests.workflows.synthetic_nights import SyntheticNights

NIGHTS = ("2026-03-03", "2026-03-04", "2026-03-05")
OUTCOME = [
    "logs.events={path: events.csv, impression: view, event: what, time: {column: at}}",
    "label.also={purchase: {window_hours: 36}, long_view: 0.3}",
    "window.days=2",
]
INCREMENTAL = ["window.days=1", "split.vocabulary=grown", "trainer.warm_start=previous"]


class Warehouse(SyntheticNights):
    """Generated nights, with the options that select them."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        super().__init__(folder, domains=("home",))
        self.overrides = [f"paths.warehouse={folder}", *overrides]
        self.settings = load("demo", self.overrides)

    def outcome(self, ds: str, name: str = "purchase") -> None:
        row = {"run_id": self.run(ds), "attempt": 1, "ds": ds, "outcome": name, "rows": 10, "gauc": 0.6}
        self.write("outcome_metrics", [{**row, "domain": domain} for domain in ("home", "overall")])

    def show(self, *arguments: str) -> str:
        options = [word for override in self.overrides for word in ("--set", override)]
        result = CliRunner().invoke(app, ["metrics", "--conf", "demo", *options, *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())


@pytest.fixture
def outcomes(tmp_path: Path) -> Warehouse:
    found = Warehouse(tmp_path, *OUTCOME)
    for ds in NIGHTS:
        found.metrics(ds)
    return found


@pytest.fixture
def incremental(tmp_path: Path) -> Warehouse:
    """Two nights with references; the first reference was not calibrated."""
    found = Warehouse(tmp_path, *INCREMENTAL, "reference={}")
    for ds in NIGHTS[:2]:
        found.metrics(ds, open_labels=3 * (ds == NIGHTS[0]))
        found.gap(ds, -0.02, -0.01)
        for run in (found.run(ds), make_reference_run_id(found.run(ds))):
            is_first_reference = ds == NIGHTS[0] and run.endswith("-reference")
            record = {"calibration_maps": None if is_first_reference else {"method": "platt"}}
            found.write("runs", [{"run_id": run, "attempt": 1, "record": json.dumps(record)}])
    return found


def test_the_title_names_the_outcome_and_a_line_the_nights_that_follow(outcomes: Warehouse) -> None:
    outcomes.outcome(NIGHTS[0])
    shown = outcomes.show("--outcome", "purchase")
    assert "gauc of purchase, star-pn-" in shown
    assert (
        "the attribution windows (36 h) of 2026-03-04 and 2026-03-05 are still open; night 2026-03-06 computes the first of "
        "their metrics"
    ) in shown
    assert "of 2026-03-04 and 2026-03-05 are still open" in outcomes.show(
        "--outcome", "purchase", "--run-id", outcomes.run(NIGHTS[2])
    )
    assert "2026-03-05" not in outcomes.show("--outcome", "purchase", "--to", NIGHTS[0])
    assert "still open" not in outcomes.show()
    assert "gauc of star-pn-" in outcomes.show()


def test_the_recorded_end_of_the_windows_is_preferred(outcomes: Warehouse) -> None:
    outcomes.outcome(NIGHTS[0])
    outcomes.outcome(NIGHTS[1])
    record = DayRecord("", {OUTCOMES_CLOSE: {"purchase": "2026-03-06"}})
    DayRecords(outcomes.settings).write(PART, {NIGHTS[2]: record})
    shown = outcomes.show("--outcome", "purchase")
    assert "the attribution windows (36 h) of 2026-03-05 are still open; night 2026-03-06 computes its metrics" in shown


def test_days_with_open_nights_only_are_explained(outcomes: Warehouse) -> None:
    outcomes.outcome(NIGHTS[0])
    with pytest.raises(UserError, match=r"of 2026-03-05 are still open; night 2026-03-07 computes its metrics"):
        outcomes.show("--outcome", "purchase", "--from", NIGHTS[2])


def test_an_outcome_without_any_metrics_is_explained(outcomes: Warehouse) -> None:
    words = (
        r"no metrics of purchase yet, although 3 nights have been evaluated: the attribution windows .* of 2026-03-04 and 2026-03-05 .*"
        r"night 2026-03-06 computes the first of their metrics; 2026-03-03 was evaluated without metrics of purchase; `star-ctr evaluate --ds "
    )
    for _ in range(2):  # without the table, then without rows of the outcome
        with pytest.raises(DataError, match=words):
            outcomes.show("--outcome", "purchase")
        outcomes.outcome(NIGHTS[0], "long_view")
    assert "2026-03-04 and 2026-03-05 were evaluated without metrics of long_view" in outcomes.show(
        "--outcome", "long_view"
    )


def test_labels_that_are_open_again_are_explained(outcomes: Warehouse) -> None:
    """An older night that runs again computes its labels as they were known on that night."""
    closing = {NIGHTS[0]: "2026-03-05", NIGHTS[1]: "2026-03-06", NIGHTS[2]: "2026-03-07"}
    records = {ds: DayRecord("", {OUTCOMES_CLOSE: {"purchase": closing[ds]}, AS_OF: ds}) for ds in NIGHTS}
    DayRecords(outcomes.settings).write(PART, records)
    with pytest.raises(DataError, match="the labels of 2026-03-03 are open again; the next night computes them"):
        outcomes.show("--outcome", "purchase")


def test_many_open_nights_are_summarized(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, *OUTCOME[:1], "label.also={purchase: {window_hours: 168}}", "window.days=7")
    for day in range(1, 8):
        warehouse.metrics(f"2026-03-0{day}")
    with pytest.raises(DataError, match="7 nights from 2026-03-01 to 2026-03-07 are still open; night 2026-03-08"):
        warehouse.show("--outcome", "purchase")


@pytest.mark.parametrize(
    "command", [["metrics"], ["metrics", "--outcome", "purchase"], ["tables", "--show", "metrics"]]
)
def test_commands_before_the_first_night_name_the_configuration(tmp_path: Path, command: list[str]) -> None:
    options = [w for o in (f"paths.warehouse={tmp_path}", *OUTCOME) for w in ("--set", o)]
    with pytest.raises(DataError, match=r"no such table yet; run `star-ctr \w+ --conf demo` first"):
        CliRunner().invoke(app, [*command, "--conf", "demo", *options], catch_exceptions=False)


def test_an_empty_list_of_tables_names_the_configuration(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tables", "--conf", "demo", "--set", f"paths.warehouse={tmp_path}"])
    assert "run `star-ctr nightly --conf demo` first" in " ".join(result.output.split())


def test_missing_gaps_are_explained(incremental: Warehouse) -> None:
    assert "no gaps for ece: they are computed for gauc" in incremental.show("--metric", "ece")
    assert "no differences" not in incremental.show("--metric", "auc")


def test_an_outcome_has_no_gaps(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, *INCREMENTAL, "label.also={long_view: 0.3}")
    warehouse.metrics(NIGHTS[0])
    warehouse.outcome(NIGHTS[0], "long_view")
    words = "no gaps for the outcome long_view"
    assert words not in warehouse.show("--outcome", "long_view"), "the section is not set"
    warehouse.overrides.append("reference={}")
    assert words in warehouse.show("--outcome", "long_view")


def test_gaps_of_open_nights_are_marked(incremental: Warehouse) -> None:
    shown = incremental.show().partition("from scratch")[2]
    assert "home" not in shown, "only overall has gaps"
    assert "overall ~-0.0200* -0.0200*" in shown
    assert "~ computed while some labels were open; gaps are not recomputed" in shown


def test_gaps_in_pcoc_from_uncalibrated_references_have_no_star(incremental: Warehouse) -> None:
    note = "03-03: PCOC and log loss are not comparable: only one of the two models was calibrated on earlier scores"
    for metric in ("pcoc", "log_loss"):
        shown = incremental.show("--metric", metric).partition("from scratch")[2]
        assert "overall ~-0.0200 -0.0200*" in shown
        assert note in shown
    assert "not comparable" not in incremental.show()


@pytest.mark.parametrize(
    ("night", "reference", "is_comparable"),
    [
        ({"calibration_maps": {"method": "bias"}}, {}, True),
        ({"calibration_maps": None}, {"calibration_maps": None}, True),
        ({"calibration_maps": None}, {"calibration_maps": {"method": "bias"}}, False),
    ],
)
def test_gaps_are_comparable_unless_only_one_model_was_calibrated(
    tmp_path: Path, night: dict[str, Any], reference: dict[str, Any], is_comparable: bool
) -> None:
    warehouse = Warehouse(tmp_path, *INCREMENTAL, "reference={}")
    warehouse.metrics(NIGHTS[0])
    warehouse.gap(NIGHTS[0], -0.02, -0.01)
    run = warehouse.run(NIGHTS[0])
    rows = [(run, night), (make_reference_run_id(run), reference)]
    records = [{"run_id": name, "attempt": 1, "record": json.dumps(record)} for name, record in rows]
    write_deltalake(f"{tmp_path}/runs", pa.Table.from_pylist(records), partition_by=["run_id"])
    assert ("-0.0200*" in warehouse.show("--metric", "pcoc")) == is_comparable
