"""Jumps in the data: in the report, after `features`, and in the reason of the gate."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from star_ctr.conf.load import load
from star_ctr.jobs.gate import add_jumps
from star_ctr.jobs.quality.jump_list import describe_jumps
from star_ctr.jobs.quality.measures import NULL, ROWS, Measure, write_measures
from star_ctr.workflows.report.data import collect
from star_ctr.workflows.report.data_jumps import render_jumps
from star_ctr.workflows.report.page import render
from tests.workflows.report.test_report import words
from tests.workflows.synthetic_nights import NIGHTS, SyntheticNights

LAST = NIGHTS[-1]
COLUMN = "impressions.<b>slot</b>"


@pytest.fixture
def warehouse(tmp_path: Path) -> SyntheticNights:
    warehouse = SyntheticNights(tmp_path)
    warehouse.metrics(LAST)
    return warehouse


def write_profile(warehouse: SyntheticNights, earlier: int, nulls: int, columns: int = 1) -> None:
    """Write a profile of `earlier` days with few missing values, and of the last night with `nulls` of 10,000."""
    measures = []
    for k in range(earlier, -1, -1):
        ds = (dt.date.fromisoformat(LAST) - dt.timedelta(days=k)).isoformat()
        measures.append(Measure(ds, "impressions", "", ROWS, 10_000, 10_000))
        for c in range(columns):
            name = COLUMN + str(c) * (c > 0)
            measures.append(Measure(ds, "impressions", name, NULL, 10_000, 20 if k else nulls))
    write_measures(warehouse.settings, "ingest", measures, "ds > ''")


def test_jumps_are_shown_with_their_history(warehouse: SyntheticNights) -> None:
    write_profile(warehouse, earlier=5, nulls=3_100)
    section = render_jumps(collect(warehouse.settings))
    sentence = f"null share of {COLUMN} rose from 0.2% to 31%"
    assert f"{sentence[0].upper()}{sentence[1:]}." in words(section)
    assert "<b>" not in section
    assert section.count('<svg class="spark"') == 1
    assert section.count(",") >= 5, "a line over all days"
    assert "2026-01-03 to 2026-01-08" in section
    assert "5 earlier days" in words(section)
    assert section in render(collect(warehouse.settings), "")
    assert describe_jumps(warehouse.settings, LAST) == [sentence]


def test_a_night_without_jumps_says_so(warehouse: SyntheticNights) -> None:
    assert "The profile has 0 earlier days; a comparison needs 3." in words(render_jumps(collect(warehouse.settings)))
    assert describe_jumps(warehouse.settings, LAST) == []
    write_profile(warehouse, earlier=1, nulls=3_100)
    assert "The profile has 1 earlier day; a comparison needs 3." in words(render_jumps(collect(warehouse.settings)))
    write_profile(warehouse, earlier=4, nulls=21)
    assert "Nothing jumped, compared with 4 earlier days." in words(render_jumps(collect(warehouse.settings)))
    assert describe_jumps(warehouse.settings, LAST) == ["no jumps in the data, compared with 4 earlier days"]


def test_jumps_can_be_disabled(warehouse: SyntheticNights) -> None:
    write_profile(warehouse, earlier=5, nulls=3_100)
    off = load("demo", [f"paths.warehouse={warehouse.folder}", "checks.jumps=false"])
    assert "(checks.jumps: false)" in words(render_jumps(collect(off)))
    assert describe_jumps(off, LAST) == []
    assert add_jumps(off, LAST, "not worse") == "not worse"


def test_the_reason_of_the_gate_lists_the_most_severe_jumps(warehouse: SyntheticNights) -> None:
    write_profile(warehouse, earlier=5, nulls=21)
    assert add_jumps(warehouse.settings, LAST, "not worse") == "not worse"
    write_profile(warehouse, earlier=5, nulls=3_100, columns=14)
    reason = add_jumps(warehouse.settings, LAST, "not worse")
    assert reason.startswith("not worse; jumps in the data: null share of impressions.")
    assert reason.count("rose from 0.2% to 31%") == 3
    assert reason.endswith(", 11 more measures jumped")
    section = words(render_jumps(collect(warehouse.settings)))
    assert section.count("rose from") == 10
    assert "4 more are not shown." in section
