"""Listing of log files: wildcards, placeholders, and folders with any characters."""

from __future__ import annotations

import os
from pathlib import Path

import boto3
import fsspec
import pandas as pd
import pytest
from deltalake import DeltaTable, write_deltalake
from fsspec.implementations.local import LocalFileSystem

from star_ctr.conf.errors import ConfigError, DataError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.log_files import LogFile, hash_files, list_files, list_log_days
from star_ctr.jobs.io.path_patterns import parse_path
from star_ctr.jobs.tools import ready

NAMES = ("My Ads (2026)", "a%20b", "a#b", "aüb", "a?b", "a[1]b", "a{1,2}b", "a+b", "a:b", "a*b", "it's", 'a"b')


def make_settings(folder: Path, path: str, *more: str) -> Settings:
    logs = str(folder).replace("'", "''")
    return load("demo", [f"paths.logs='{logs}'", f"logs.impressions.path='{path}'", *more])


def list_log(folder: Path, path: str, *files: str) -> list[LogFile]:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("x")
    return list_files(make_settings(folder, path), "impressions")


@pytest.mark.parametrize("name", NAMES)
def test_folders_may_have_any_name(tmp_path: Path, name: str) -> None:
    """`paths.logs` is a folder and no glob: its special characters match themselves only."""
    (tmp_path / "axb" / "views").mkdir(parents=True)
    (tmp_path / "axb" / "views" / "2026-03-01.csv").write_text("other")
    found = list_log(tmp_path / name, "views/{ds}.csv", "views/2026-03-02.csv")
    assert [(f.day, f.path) for f in found] == [("2026-03-02", str(tmp_path / name / "views/2026-03-02.csv"))]
    settings = make_settings(tmp_path / name, "views/{ds}.csv")
    assert [r["files"] for r in ready.run(settings, "2026-03-02") if r["log"] == "impressions"] == [1]
    assert [r["files"] for r in ready.run(settings, "2026-03-01") if r["log"] == "impressions"] == [0]


@pytest.mark.parametrize(
    ("path", "file", "other"),
    [
        ("views/{ds}.csv", "views/2026-03-02.csv", "views/2026-03-02.csv.bak"),
        ("views/{ds}.csv", "views/2026-03-02.csv", "views/backup.csv"),
        ("{yyyymmdd}/part-?.csv", "20260302/part-1.csv", "20260302/part-10.csv"),
        ("{yyyymmdd}/part-[0-9].csv", "20260302/part-1.csv", "20260302/part-x.csv"),
        ("{yyyymmdd}/part-[!0-9].csv", "20260302/part-x.csv", "20260302/part-1.csv"),
        ("dt={yyyymmdd}/hour={hh}/*.csv", "dt=20260302/hour=07/a.csv", "dt=20260302/hour=x/a.csv"),
        ("{yyyy}/{mm}/{dd}/*.csv", "2026/03/02/a.csv", "2026/3/2/a.csv"),
        ("{web,app}/{ds}.csv", "app/2026-03-02.csv", "mail/2026-03-02.csv"),
        ("{ds}/**/*.csv", "2026-03-02/a/b/c.csv", "2026-03-02/a/b/c.txt"),
        ("{ds}/{ds}.csv", "2026-03-02/2026-03-02.csv", "2026-03-02/2026-03-03.csv"),
        ("views (new) {ds} *.csv", "views (new) 2026-03-02 (1)%20#a+ü.csv", "views new 2026-03-02 x.csv"),
    ],
)
def test_wildcards_and_placeholders(tmp_path: Path, path: str, file: str, other: str) -> None:
    """A file that only matches if a placeholder is read as `*` does not belong to the log."""
    assert [(f.day, f.path) for f in list_log(tmp_path, path, file, other)] == [("2026-03-02", str(tmp_path / file))]


def test_markers_are_not_read(tmp_path: Path) -> None:
    files = (
        "2026-03-02.d/part-0.csv",
        "2026-03-02.d/_SUCCESS",
        "2026-03-02.d/.part-0.csv.crc",
        "2026-03-02.d/_tmp/x.csv",
    )
    assert [f.path for f in list_log(tmp_path, "{ds}.d/*", *files)] == [str(tmp_path / files[0])]
    assert [f.path for f in list_log(tmp_path, "{ds}.d")] == [str(tmp_path / files[0])]


def test_partition_folders_may_begin_with_an_underscore(tmp_path: Path) -> None:
    """Spark reads `_hour=13`, but not `_tmp` and `.hour=13`."""
    found = list_log(tmp_path, "{ds}", *(f"2026-03-02/{folder}/a.csv" for folder in ("_hour=13", "_tmp", ".hour=13")))
    assert [f.path for f in found] == [str(tmp_path / "2026-03-02/_hour=13/a.csv")]


def test_wildcards_do_not_match_hidden_folders(tmp_path: Path) -> None:
    """A job that is writing keeps its files in `_temporary`. Folders that the path names are read."""
    files = ("_in/2026-03-02/a.csv", "_in/2026-03-02/_temporary/0/b.csv", "_in/2026-03-02/.spark/c.csv")
    assert [f.path for f in list_log(tmp_path / ".hidden", "_in/{ds}/**/*.csv", *files)] == [
        str(tmp_path / ".hidden" / files[0])
    ]


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("{yyyy}{mm}{dd}.csv", "20260302.csv"),
        ("{yyyymmdd}{hh}/*.csv", "2026030207/a.csv"),
        ("dt={yyyymmdd}{hh}.csv", "dt=2026030207.csv"),
        ("{ds}*.csv", "2026-03-02-part.csv"),
        ("{ds}/**/*.csv", "2026-03-02/a/b.csv"),
    ],
)
def test_placeholders_may_be_side_by_side(tmp_path: Path, path: str, file: str) -> None:
    assert [f.day for f in list_log(tmp_path, path, file)] == ["2026-03-02"]


def test_listings_of_a_bucket_are_current(bucket: str) -> None:
    """A notebook lists the same log again and again; consoles mark folders with empty objects."""
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    conf = load("demo", [f"paths.logs={bucket}/logs", "logs.impressions.path='{ds}'"])
    fs.pipe_file(f"{bucket}/logs/2026-03-01/a.csv", b"1")
    boto3.client("s3", region_name="us-east-1").put_object(Bucket="warehouse", Key="logs/2026-03-01/", Body=b"")
    [first] = list_files(conf, "impressions")
    assert (first.day, first.path) == ("2026-03-01", "warehouse/logs/2026-03-01/a.csv")
    fs.pipe_file(f"{bucket}/logs/2026-03-01/a.csv", b"2")
    fs.pipe_file(f"{bucket}/logs/2026-03-02/b.csv", b"3")
    again = list_files(conf, "impressions")
    assert [f.day for f in again] == ["2026-03-01", "2026-03-02"]
    assert again[0].stamp != first.stamp


def test_a_file_system_without_known_times_has_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = LocalFileSystem.info

    def describe(self: LocalFileSystem, path: str, **more: object) -> dict[str, object]:
        found = info(self, path, **more)
        return {("custom" if k in ("mtime", "created") else k): v for k, v in found.items()}

    monkeypatch.setattr(LocalFileSystem, "info", describe)
    [before] = list_log(tmp_path, "{ds}.csv", "2026-03-02.csv")
    os.utime(tmp_path / "2026-03-02.csv", (1, 1))
    [after] = list_files(make_settings(tmp_path, "{ds}.csv"), "impressions")
    assert before.stamp not in ("", "None", after.stamp)


def test_each_commit_of_a_delta_table_changes_its_listing(tmp_path: Path) -> None:
    """The files of deleted rows remain in the folder."""
    conf = make_settings(tmp_path, "views", "logs.impressions.format=delta")
    (tmp_path / "views").mkdir()
    with pytest.raises(DataError, match="views: not a Delta table"):
        list_files(conf, "impressions")
    write_deltalake(str(tmp_path / "views"), pd.DataFrame({"x": [1, 2], "part": [0, 1]}), partition_by=["part"])
    before = hash_files(list_files(conf, "impressions"), None, "2026-03-02")
    assert hash_files(list_files(conf, "impressions"), None, "2026-03-02") == before
    DeltaTable(str(tmp_path / "views")).delete("part = 0")
    assert len([*tmp_path.rglob("*.parquet")]) == 2
    assert hash_files(list_files(conf, "impressions"), None, "2026-03-02") != before


@pytest.mark.parametrize("path", ["v/ds={ds}/hour=*/*.csv", "v/ds={ds}", "v"])
def test_base_of_partition_folders(tmp_path: Path, path: str) -> None:
    """The folder above the first `name=value` folder of the log is the base of partition columns."""
    [file] = list_log(tmp_path / "env=prod", path, "v/ds=2026-03-02/hour=13/part-0.csv")
    assert file.base == str(tmp_path / "env=prod" / "v")
    [plain] = list_log(tmp_path / "env=prod", "w/*/*.csv", "w/2026/a.csv")
    assert plain.base is None


def test_digits_that_are_not_a_date_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"20261302.csv: `20261302` is not a date"):
        list_log(tmp_path, "{yyyymmdd}.csv", "20261302.csv")


def test_days_of_a_log(tmp_path: Path) -> None:
    list_log(tmp_path, "{ds}.csv", "2026-03-02.csv", "2026-03-01.csv")
    assert list_log_days(make_settings(tmp_path, "{ds}.csv"), "impressions") == ["2026-03-01", "2026-03-02"]
    assert parse_path("/x/{ds}.csv", "/x/latest.csv") is None
    assert parse_path("/x/{ds}/{hh}.csv", "/x/2026-03-01/07.csv") == ("2026-03-01", "07")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("views/{date}.csv", "unknown placeholder `{date}`"),
        ("views/{yyyymmd}.csv", "unknown placeholder `{yyyymmd}`; did you mean `{yyyymmdd}`"),
        ("views/{yyyy}/{mm}.csv", "the day in the path is incomplete"),
    ],
)
def test_wrong_placeholders_are_errors(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_settings(tmp_path, path)
    assert f"logs.impressions.path: {message}" in str(caught.value)
