"""When the logs of a day are complete: marker files, hours and rows."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import write_deltalake

from star_ctr.conf.errors import ConfigError, DataError
from star_ctr.conf.settings.root import Settings
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
    assert find_newest_complete_day(conf) == DAYS[1]
    assert check_day_has_files(conf, DAYS[1]) == DAYS[1]
    with pytest.raises(DataError, match="logs.impressions is not complete: 23 of 24 hours; no files for 07"):
        check_day_has_files(conf, DS)


def test_only_hours_with_rows_count(tmp_path: Path) -> None:
    write_hours(tmp_path, missing=23)
    (tmp_path / "logs" / DS / "99").mkdir()
    (tmp_path / "logs" / DS / "99" / "part.csv").write_text("x")
    (tmp_path / "logs" / DS / "23").mkdir()
    (tmp_path / "logs" / DS / "23" / "part.csv").touch()
    assert find_missing(tmp_path, {"hours": 24}) == "23 of 24 hours; no files for 23"


def test_marker(tmp_path: Path) -> None:
    write_hours(tmp_path)
    assert find_missing(tmp_path, {"marker": "{ds}/_SUCCESS"}) == f"no file {DS}/_SUCCESS"
    (tmp_path / "logs" / DS / "_SUCCESS").touch()
    assert find_missing(tmp_path, {"marker": "{ds}/_SUCCESS"}) == ""
    assert find_missing(tmp_path, {"marker": "{ds}/_SUCCESS"}, DAYS[0]) != ""


def test_a_marker_with_the_hour_is_needed_in_each_hour(tmp_path: Path) -> None:
    write_hours(tmp_path)
    marker = {"marker": "{ds}/{hh}/_SUCCESS"}
    for hour in range(23):
        (tmp_path / "logs" / DS / f"{hour:02d}" / "_SUCCESS").touch()
    assert find_missing(tmp_path, marker) == f"no file {DS}/23/_SUCCESS"
    assert find_missing(tmp_path, {**marker, "hours": 23}) == ""
    assert find_missing(tmp_path, {**marker, "hours": 24}) == f"no file {DS}/23/_SUCCESS"
    (tmp_path / "logs" / DS / "23" / "_SUCCESS").touch()
    assert find_missing(tmp_path, marker) == ""


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows(tmp_path: Path, form: str) -> None:
    """The header of a CSV file is not a row."""
    write_hours(tmp_path, form=form)
    if form == "csv":
        for file in (tmp_path / "logs").rglob("part.csv"):
            file.rename(file.with_suffix(".csv.gz"))
    assert find_missing(tmp_path, {"min_rows": 240}, format=form) == ""
    assert find_missing(tmp_path, {"min_rows": 241}, format=form) == "only 240 rows; min_rows is 241"


def test_rows_of_delta_tables_and_avro_files(tmp_path: Path) -> None:
    """Deleted rows do not count, although their files remain."""
    table = str(tmp_path / "logs" / DS)
    rows = views(10).drop(columns="day")
    write_deltalake(table, rows)
    write_deltalake(table, rows, mode="overwrite")
    assert find_missing(tmp_path, {"min_rows": len(rows)}, path="{ds}", format="delta") == ""
    assert find_missing(tmp_path, {"min_rows": 31}, path="{ds}", format="delta") == "only 30 rows; min_rows is 31"
    (tmp_path / "logs" / f"{DS}.avro").write_bytes(make_avro_file([300, 5, 70_000]))
    assert find_missing(tmp_path, {"min_rows": 70_305}, path="{ds}.avro", format="avro") == ""
    assert (
        find_missing(tmp_path, {"min_rows": 70_306}, path="{ds}.avro", format="avro")
        == "only 70,305 rows; min_rows is 70,306"
    )


def make_avro_file(blocks: list[int]) -> bytes:
    """Make an Avro file of blocks with these numbers of rows, each of which is a null and has no bytes."""

    def encode(number: int) -> bytes:
        zigzag, found = number << 1, b""
        while zigzag >= 0x80:
            found, zigzag = found + bytes([zigzag & 0x7F | 0x80]), zigzag >> 7
        return found + bytes([zigzag])

    def add_length(value: bytes) -> bytes:
        return encode(len(value)) + value

    sync = b"0123456789abcdef"
    header = b"Obj\x01" + encode(1) + add_length(b"avro.schema") + add_length(b'"null"') + encode(0) + sync
    # The content of a block is not decoded: line breaks in it are not rows.
    return header + b"".join(encode(rows) + add_length(b"\n" * 1000) + sync for rows in blocks)


def test_all_logs_with_a_rule_must_be_complete(tmp_path: Path) -> None:
    """Labels from half of the clicks would be wrong."""
    write_hours(tmp_path)
    clicks = {"impression": "view", "time": {"column": "at", "unit": "timestamp"}, "path": "clicks/{ds}.csv"}

    def load_settings(**more: Any) -> Settings:
        return settings(tmp_path, {"path": "{ds}/{hh}/*"}, logs={"clicks": {**clicks, **more}})

    assert check_day_has_files(load_settings(), DS) == DS
    marked = load_settings(complete={"marker": "clicks/{ds}.done"})
    (tmp_path / "logs/clicks").mkdir()
    for day in DAYS:
        (tmp_path / f"logs/clicks/{day}.csv").write_text("view,at\n")
    (tmp_path / f"logs/clicks/{DAYS[0]}.done").touch()
    assert find_newest_complete_day(marked) == DAYS[0]
    with pytest.raises(DataError, match=f"logs.clicks is not complete: no file clicks/{DS}.done"):
        check_day_has_files(marked, DS)


def test_a_log_without_a_rule_may_lack_a_day(tmp_path: Path) -> None:
    """An undated impression log does not make the other logs required."""
    write_hours(tmp_path)
    clicks = {"impression": "view", "time": {"column": "at", "unit": "timestamp"}, "path": "clicks/{ds}.csv"}
    assert check_day_has_files(settings(tmp_path, {"path": "*/*/*.csv"}, logs={"clicks": clicks}), DS) == DS


def test_all_sources_must_be_complete(tmp_path: Path) -> None:
    for name, days in (("web", DAYS), ("app", DAYS[:2])):
        for day in days:
            (tmp_path / "logs" / name).mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"x": [1]}).to_csv(tmp_path / "logs" / name / f"{day}.csv", index=False)
    sources = {"web": {"path": "web/{ds}.csv"}, "app": {"path": "app/{ds}.csv"}}
    conf = settings(tmp_path, {"path": None, "sources": sources, "complete": {"min_rows": 1}})
    states = {state.log: state.missing for state in list_source_states(conf, DS)}
    assert states == {"impressions.web": "", "impressions.app": "no files"}
    assert find_newest_complete_day(conf) == DAYS[1]


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"path": "all.csv", "complete": {"hours": 3}}, "`complete` needs the day in `path`"),
        ({"path": "{ds}.csv", "complete": {"marker": "_SUCCESS"}}, "`_SUCCESS` would mark all days as complete"),
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
