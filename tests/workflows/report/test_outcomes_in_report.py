"""Further outcomes and references in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import make_reference_run_id
from star_ctr.conf.load import load
from star_ctr.workflows.report import quality
from star_ctr.workflows.report.data import collect
from star_ctr.workflows.report.outcomes import render_outcomes
from tests.workflows.report.test_report import words
from tests.workflows.synthetic_nights import NIGHTS, SyntheticNights

LAST, BEFORE = NIGHTS[-1], NIGHTS[-2]


def write_outcome(warehouse: SyntheticNights, ds: str, pcoc: float, rows: int) -> None:
    more = {"outcome": "buy", "log_loss": 0.1, "auc": 0.7, "gauc": 0.6, "ece": 0.0021, "pcoc": pcoc, "clicks": 7}
    values = [
        {"run_id": warehouse.run(ds), "attempt": 1, "ds": ds, "domain": domain, "rows": number, **more}
        for domain, number in (("home", rows), ("search", 5000), (OVERALL, 9000))
    ]
    warehouse.write("outcome_metrics", values)


def test_outcomes_have_a_table_by_domain(tmp_path: Path) -> None:
    warehouse = SyntheticNights(tmp_path)
    warehouse.settings = load("demo", [f"paths.warehouse={tmp_path}", "label.also={buy: 0.3, view: 0.1}"])
    for ds in (NIGHTS[0], BEFORE, LAST):
        warehouse.metrics(ds)
    assert "not final on any night yet" in render_outcomes(collect(warehouse.settings))
    write_outcome(warehouse, NIGHTS[0], 1.25, 900)
    write_outcome(warehouse, BEFORE, 1.125, 901)
    page = render_outcomes(collect(warehouse.settings))
    shown = words(page)
    assert f"buy by domain, night {BEFORE}" in shown
    assert "view by domain" not in shown
    columns = "domain GAUC over the nights GAUC PCOC AUC ECE rows positives"
    table = shown.partition("buy by domain")[2]
    assert columns in table
    assert "home 0.6000 ± 0 1.125 ▼ 0.125 0.7000 ± 0 0.0021 ± 0 901 ▲ 1 7 ± 0" in table
    assert table.index("overall") < table.index("search") < table.index("home")
    assert f"relative to the night of {NIGHTS[0]}" in table
    assert '<tr class="few"><th>home</th>' in page
    assert f"buy by domain, night {NIGHTS[0]}" in words(render_outcomes(collect(warehouse.settings, NIGHTS[0])))


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_a_reference_that_was_not_calibrated_has_a_note(tmp_path: Path, is_calibrated: bool) -> None:
    options = ["trainer.warm_start=previous", "split.vocabulary=grown", "reference={}"]
    warehouse = SyntheticNights(tmp_path)
    warehouse.settings = load("demo", [f"paths.warehouse={tmp_path}", *options])
    warehouse.metrics(LAST)
    warehouse.gap(LAST, -0.02, -0.01)
    run, maps = warehouse.run(LAST), {"method": "platt"}
    for name, found in ((run, maps), (make_reference_run_id(run), maps if is_calibrated else None)):
        record = json.dumps({"calibration_maps": found})
        warehouse.write("runs", [{"run_id": name, "attempt": 1, "record": record, "max_score_difference": 0.0}])
    note = "PCOC and log loss are not comparable: only one of the two models was calibrated on earlier scores."
    assert (note in words(quality.render_gaps(collect(warehouse.settings)))) != is_calibrated
