"""When the logs of a day are complete: marker files, hours and rows."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from star_ctr.conf.errors import ConfigError, DataError
from star_ctr.jobs.ingest import check_day_has_files
from star_ctr.jobs.io.completeness import find_newest_complete_day, list_source_states
from tests.jobs.messy_logs import DAYS, DS, settings, views


def write_hours(folder: Path, missing: int | None = None, form: str = "csv") -> None:
    """Write a file per day and hour, with ten rows each; the newest day may lack an hour."""
    rows = views(10).drop(columns="day").iloc[:10]
    for day in DAYS:
        for hour in range(24):
            if (day, hour) != (DS, missing):
                path = folder / "logs" / day / f"{hour:02d}" / f"part.{form}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if form == "parquet":
                    rows.to_parquet(path, index=False)
                else:
                    path.write_bytes(gzip.compress(rows.to_csv(index=False).encode()))


def find_missing(folder: Path, complete: dict[str, Any], ds: str = DS, **log: Any) -> str:
    [state] = list_source_states(settings(folder, {"path": "{ds}/{hh}/*", "complete": complete, **log}), ds)
    return state.missing


def test_hours(tmp_path: Path) -> None:
    write_hours(tmp_path, missing=7)
    assert find_missing(tmp_path, {"hours": 24}) == "23 of 24 hours; no files for 07"
    assert find_missing(tmp_path, {"hours": 23}) == ""
    assert find_missing(tmp_path, {"hours": 24}, DAYS[0]) == ""
    assert find_missing(tmp_path, {"hours": 24}, "2026-04-01") == "no files"
    conf = settings(tmp_path, {"path": "{ds}/{hh}/*", "complete": {"hours": 24}})
    assert find_newest_complete_day(conf, "impressions") == DAYS[1]
    assert check_day_has_files(conf, DAYS[1]) == DAYS[1]
    with pytest.raises(DataError, match="logs.impressions is not complete: 23 of 24 hours; no files for 07"):
        check_day_has_files(conf, DS)


def test_marker(tmp_path: Path) -> None:
    write_hours(tmp_path)
    assert find_missing(tmp_path, {"marker": "{ds}/_SUCCESS"}) == f"no file {DS}/_SUCCESS"
    (tmp_path / "logs" / DS / "_SUCCESS").touch()
    assert find_missing(tmp_path, {"marker": "{ds}/_SUCCESS"}) == ""
    assert find_missing(tmp_path, {"marker": "{ds}/_SUCCESS"}, DAYS[0]) != ""


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows(tmp_path: Path, form: str) -> None:
    """The header of a CSV file is not a row."""
    write_hours(tmp_path, form=form)
    if form == "csv":
        for file in (tmp_path / "logs").rglob("part.csv"):
            file.rename(file.with_suffix(".csv.gz"))
    assert find_missing(tmp_path, {"min_rows": 240}, format=form) == ""
    assert find_missing(tmp_path, {"min_rows": 241}, format=form) == "240 of at least 241 rows"


def test_all_sources_must_be_complete(tmp_path: Path) -> None:
    for name, days in (("web", DAYS), ("app", DAYS[:2])):
        for day in days:
            (tmp_path / "logs" / name).mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"x": [1]}).to_csv(tmp_path / "logs" / name / f"{day}.csv", index=False)
    sources = {"web": {"path": "web/{ds}.csv"}, "app": {"path": "app/{ds}.csv"}}
    conf = settings(tmp_path, {"path": None, "sources": sources})
    states = {state.log: state.missing for state in list_source_states(conf, DS)}
    assert states == {"impressions.web": "", "impressions.app": "no files"}
    assert find_newest_complete_day(conf, "impressions") == DAYS[1]


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"path": "all.csv", "complete": {"hours": 3}}, "`complete` needs the day in `path`"),
        ({"path": "{ds}.csv", "complete": {"hours": 3}}, "`complete.hours` needs the hour in `path` as {hh}"),
        ({"path": None}, "give exactly one of `path`, `table` and `sources`"),
        ({"path": "x", "table": "y"}, "but `path` and `table` are given"),
        ({"path": None, "sources": {"web": {}}}, "sources.web: give exactly one of `path` and `table`"),
    ],
)
def test_inconsistent_sources_are_errors(tmp_path: Path, log: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, log)
    assert message in str(caught.value)
