"""Log files as they come: names, folders, parts, headers and nested columns. All of them give the same rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.orc as orc
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import CUT, clean_log
from star_ctr.jobs.io import log_reader
from tests.jobs.messy_logs import settings, views, write_days

pytestmark = pytest.mark.spark
COLUMNS = ["view", "visitor", "sku", "surface", "slot", "clk"]
Writer = Callable[[pd.DataFrame, Path], Any]


def read(conf: Settings, spark: SparkSession) -> pd.DataFrame:
    raw = log_reader.read(conf, spark, "impressions", None)
    assert raw is not None
    return clean_log(conf, "impressions", raw).toPandas()


def check_rows(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert not found["reason"].any()
    renamed = found.rename(
        columns={"impression_id": "view", "user_id": "visitor", "item_id": "sku", "domain": "surface", "label": "clk"}
    )[[*COLUMNS, "ds"]]
    wanted = expected.rename(columns={"day": "ds"})[[*COLUMNS, "ds"]].astype({"slot": str, "clk": float})
    pd.testing.assert_frame_equal(
        renamed.sort_values("view", ignore_index=True), wanted.sort_values("view", ignore_index=True), check_dtype=False
    )


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


def write_json(frame: pd.DataFrame, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))


def write_parts(frame: pd.DataFrame, path: Path) -> None:
    """Write a day as a Spark job leaves it: markers, an empty part, and parts with different columns."""
    path.mkdir()
    (path / "_SUCCESS").write_bytes(b"")
    (path / ".part-00000.csv.crc").write_bytes(b"crc\0\0")
    (path / "part-00000.csv").write_bytes(b"")
    (path / "part-00001.csv.gz").write_bytes(gzip.compress(b""))
    frame.iloc[:30].to_csv(path / "part-00002.csv", index=False)
    frame.iloc[30:, ::-1].assign(campaign="c1").to_csv(path / "part-00003.csv", index=False)


def write_partitions(frame: pd.DataFrame, path: Path) -> None:
    """Write Hive-style folders: `ds=2026-03-01/hour=13/part-0.csv`."""
    day = path.name.partition(".")[0]
    folder = path.parent / f"ds={day}" / "hour=13"
    folder.mkdir(parents=True)
    frame.to_csv(folder / "part-0.csv", index=False)


def write_orc(frame: pd.DataFrame, path: Path) -> None:
    orc.write_table(pa.Table.from_pandas(frame, preserve_index=False), str(path))


def write_text_with_breaks(frame: pd.DataFrame, path: Path) -> None:
    texts = ['two\nlines, "quoted"' if k % 10 == 0 else "plain" for k in range(len(frame))]
    frame.assign(text=texts)[["view", "text", *frame.columns[1:]]].to_csv(path, index=False)


CASES: dict[str, tuple[Writer, str, dict[str, Any]]] = {
    "odd names": (
        lambda f, p: f.to_csv(p.parent / f"views {p.name[:10]} (1)%20#a+ü'{{x}}[0]?.csv", index=False),
        "csv",
        {"path": "views/views {ds} *.csv"},
    ),
    "parts": (write_parts, "d", {"path": "views/{ds}.d/*"}),
    "folders": (write_parts, "d", {"path": "views/{ds}.d"}),
    "partition folders": (write_partitions, "csv", {"path": "views/ds={ds}/hour=*/*.csv"}),
    "root of partition folders": (write_partitions, "csv", {"path": "views", "day": {"column": "ds"}}),
    "pandas index": (lambda f, p: f.to_csv(p), "csv", {}),
    "spaces in names": (lambda f, p: f.assign(**{"Daily Time (s)": 3.5, "a=b;c,{d}": 1}).to_csv(p, index=False), "csv", {}),
    "a column twice": (
        lambda f, p: p.write_text(f.assign(note="a", note2="b").to_csv(index=False).replace("note2", "note", 1)), "csv", {},
    ),
    "names that differ in case": (lambda f, p: f.assign(Domain="x", TS=1, Label="y", User_ID="u", DS="d").to_csv(p, index=False), "csv", {}),
    "own names": (lambda f, p: f.assign(t=1, order=2, _row=3, reason="r", raw="s", domain="x").to_csv(p, index=False), "csv", {}),
    "line breaks": (write_text_with_breaks, "csv", {}),
    "nested": (
        lambda f, p: write_json(f.assign(device=[{"id": v, "os": {"name": "x"}} for v in f.pop("visitor")]), p),
        "jsonl",
        {"path": "views/{ds}.jsonl", "format": "json", "user": "device.id"},
    ),
    "nested parquet": (
        lambda f, p: f.assign(device=[{"id": v} for v in f.pop("visitor")]).to_parquet(p, index=False),
        "parquet",
        {"path": "views/{ds}.parquet", "format": "parquet", "user": "device.id"},
    ),
    "orc": (write_orc, "orc", {"path": "views/{ds}.orc", "format": "orc"}),
    "map": (
        lambda f, p: pa.parquet.write_table(
            pa.Table.from_pandas(f, preserve_index=False).append_column(
                "params", pa.array([[("a", "1")]] * len(f), pa.map_(pa.string(), pa.string()))
            ), p,
        ),
        "parquet",
        {"path": "views/{ds}.parquet", "format": "parquet"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_files_are_read(tmp_path: Path, spark: SparkSession, name: str) -> None:
    writer, suffix, log = CASES[name]
    rows = views()
    write_days(tmp_path, rows, writer, suffix)
    check_rows(read(settings(tmp_path, log), spark), rows)


@pytest.mark.parametrize("folder", ["My Ads (2026)", "a%b #1", "it's+ü=", "a:b"])
def test_logs_may_be_in_folders_with_any_name(tmp_path: Path, spark: SparkSession, folder: str) -> None:
    rows = views(20)
    for suffix, form, writer in (("csv", "csv", write_csv), ("jsonl", "json", write_json)):
        write_days(tmp_path / folder, rows, writer, suffix)
        conf = settings(tmp_path / folder, {"path": f"views/{{ds}}.{suffix}", "format": form})
        check_rows(read(conf, spark), rows)


def test_sources_with_different_formats(tmp_path: Path, spark: SparkSession) -> None:
    """The sources of a log have formats and columns of their own, and are read as one log."""
    rows = views()
    web, app = rows[rows["surface"] == "home"], rows[rows["surface"] == "search"]
    write_days(
        tmp_path / "web", web.rename(columns={"visitor": "cookie"}), lambda f, p: f.to_csv(p, index=False, sep=";")
    )
    write_days(tmp_path / "app", app, lambda f, p: f.to_parquet(p, index=False), "parquet")
    conf = settings(
        tmp_path,
        {
            "path": None,
            "sources": {
                "web": {"path": f"{tmp_path}/web/logs/views/{{ds}}.csv", "separator": ";", "columns": {"visitor": "cookie"}},
                "app": {"path": f"{tmp_path}/app/logs/views/{{ds}}.parquet", "format": "parquet"},
            },
        },
    )  # fmt: skip
    found = read(conf, spark)
    check_rows(found, rows)
    assert dict(zip(found["domain"], found["source"], strict=True)) == {"home": "web", "search": "app"}


def test_two_sources_may_read_the_same_files(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows)
    sources = {
        name: {"path": "views/{ds}.csv", "where": f"surface = '{name}'", "columns": {"shown": f"'{name}'"}}
        for name in ("home", "search")
    }
    found = read(settings(tmp_path, {"path": None, "sources": sources}), spark)
    left_out = found["reason"].notna()
    assert left_out.sum() == len(rows)
    kept = found[~left_out]
    check_rows(kept, rows)
    assert (kept["shown"] == kept["domain"]).all()


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("row_id", ["view", None])
def test_a_row_that_is_delivered_again_in_another_folder(
    tmp_path: Path, spark: SparkSession, form: str, row_id: str | None
) -> None:
    """The hour of its folder is no part of the row, unless the settings use the hour."""

    def write(frame: pd.DataFrame, path: Path) -> None:
        for hour, part in ((13, frame), (14, frame.iloc[:7])):
            folder = path.parent / f"ds={path.stem}" / f"hour={hour}"
            folder.mkdir(parents=True)
            getattr(part, f"to_{form}")(folder / f"part.{form}", index=False)

    rows = views(20)
    write_days(tmp_path, rows, write)
    log = {"path": "views/ds={ds}/hour=*/*", "format": form, "id": row_id}
    found = read(settings(tmp_path, log), spark)
    assert found["reason"].value_counts().to_dict() == {"duplicate": 7 * 3}
    kept = found[found["reason"].isna()]
    assert len(kept) == kept["impression_id"].nunique() == len(rows)
    used = [{"name": "hour", "kind": "categorical", "column": "impressions.hour"}]
    reasons = read(settings(tmp_path, log, features=used), spark)["reason"].dropna()
    assert set(reasons) == ({"impression_id: used by two different rows"} if row_id else set())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_of_files_and_folders_is_an_error(tmp_path: Path, spark: SparkSession, form: str) -> None:
    folder = tmp_path / "logs/views/2026-03-01/Slot=13"
    folder.mkdir(parents=True)
    getattr(views(5), f"to_{form}")(folder / f"part.{form}", index=False)
    with pytest.raises(DataError, match="part.*: `Slot` is a column of the file and part of the name of its folder"):
        read(settings(tmp_path, {"path": "views/{ds}/Slot=*/*", "format": form}), spark)


def test_a_value_that_is_cut_at_a_line_break_is_reported(tmp_path: Path, spark: SparkSession) -> None:
    """Without `multiline`, the second half of the row is quarantined. Values that contain quotes are kept."""

    def write(frame: pd.DataFrame, path: Path) -> None:
        texts = ['"so" it "said"', "two\nlines", 'a "quoted" word', "plain", ""]
        frame.assign(text=[texts[k % 5] for k in range(len(frame))]).to_csv(path, index=False)

    rows = views(50)
    write_days(tmp_path, rows, write)
    found = read(settings(tmp_path, {"multiline": False}), spark)
    assert found["reason"].value_counts().to_dict() == {CUT: len(rows) / 5}
    kept = found[found["reason"].isna()]
    check_rows(kept, rows)
    assert set(kept["text"].dropna()) == {'"so" it "said"', 'a "quoted" word', "plain", "two"}
    assert kept["text"].isna().sum() == len(rows) / 5
    assert not read(settings(tmp_path), spark)["reason"].any()


def test_lists_of_nested_items(tmp_path: Path, spark: SparkSession) -> None:
    """The id and the lists of a row may be fields of structs, which `explode` reads before the log's columns."""

    def write(frame: pd.DataFrame, path: Path) -> None:
        frame = frame.assign(request=[{"id": v} for v in frame.pop("view")])
        frame["page"] = [{"shown": ["s1", "s2", s], "clicked": [s, "NULL"]} for s in frame.pop("sku")]
        write_json(frame.drop(columns="clk"), path)

    write_days(tmp_path, views(20), write, "jsonl")
    explode = {"items": "page.shown", "clicked": "page.clicked"}
    log = {"path": "views/{ds}.jsonl", "format": "json", "id": "request.id", "item": "page.shown", "explode": explode}
    found = read(settings(tmp_path, log, label={"column": "page.clicked"}), spark)
    assert not found["reason"].any()
    assert sorted(found["impression_id"]) == sorted(f"{v}#{k}" for v in views(20)["view"] for k in (1, 2, 3))
    # An item that is displayed twice counts as clicked at its first position.
    assert found["label"].sum() == 60


def test_a_folder_may_be_a_delta_table(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    table = str(tmp_path / "logs/views")
    write_deltalake(table, pd.concat([rows, rows.assign(view="x" + rows["view"], sku="gone")]), partition_by=["day"])
    DeltaTable(table).delete("sku = 'gone'")
    check_rows(read(settings(tmp_path, {"path": "views", "format": "delta"}), spark), rows)
    for day, part in rows.groupby("day"):
        write_deltalake(str(tmp_path / "logs/by day" / str(day)), part.drop(columns="day"))
    check_rows(read(settings(tmp_path, {"path": "by day/{ds}", "format": "delta"}), spark), rows)


@pytest.mark.parametrize(
    ("name", "writer", "suffix", "log", "message"),
    [
        (
            "keys that differ in case",
            lambda f, p: p.write_text("".join(
                json.dumps({("Slot" if k % 2 and n == "slot" else n): v for n, v in row.items()}) + "\n"
                for k, row in enumerate(f.to_dict("records"))
            )),
            "jsonl",
            {"path": "views/{ds}.jsonl", "format": "json"},
            "several columns are called `slot`",
        ),
        (
            "a declared column twice",
            lambda f, p: p.write_text(f.assign(sku2="b").to_csv(index=False).replace("sku2", "sku", 1)),
            "csv",
            {},
            "logs.impressions.item: the header has `sku` more than once",
        ),
        (
            "the wrong separator",
            lambda f, p: f.to_csv(p, index=False, sep=";"),
            "csv",
            {},
            'set `separator` of the log to ";"',
        ),
    ],
)  # fmt: skip
def test_one_sentence_names_the_problem(
    tmp_path: Path, spark: SparkSession, name: str, writer: Writer, suffix: str, log: dict[str, Any], message: str
) -> None:
    write_days(tmp_path, views(20), writer, suffix)
    with pytest.raises(DataError) as caught:
        read(settings(tmp_path, log), spark)
    assert message in str(caught.value)
