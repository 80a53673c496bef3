"""Reading real-world log files: encodings, headers, types and corrupt lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import clean_log
from star_ctr.jobs.io import log_reader
from tests.jobs.messy_logs import DAYS, settings, views, write_days

pytestmark = pytest.mark.spark


def read_and_clean(conf: Settings, spark: SparkSession) -> DataFrame:
    raw = log_reader.read(conf, spark, "impressions", None)
    assert raw is not None
    return clean_log(conf, "impressions", raw)


def test_undecodable_text_is_quarantined(tmp_path: Path, spark: SparkSession) -> None:
    """Otherwise, different texts in GBK would become equal replacement characters."""
    cities = ["北京", "上海", "广州", "深圳", "天津", "重庆", "成都", "武汉", "西安", "南京", "杭州", "苏州"]
    rows = views()
    rows["city"] = [cities[k % 12] for k in range(len(rows))]
    write_days(tmp_path, rows, lambda f, p: f.to_csv(p, index=False, encoding="gbk"))
    found = read_and_clean(settings(tmp_path, {"encoding": "GBK"}), spark)
    assert {r.city for r in found.where("reason IS NULL").select("city").distinct().collect()} == set(cities)
    rejected = read_and_clean(settings(tmp_path), spark).select("reason").distinct().collect()
    assert [r.reason for r in rejected] == ["text that is not UTF-8: set logs.impressions.encoding"]
    write_days(tmp_path / "json", rows, lambda f, p: p.write_bytes(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in f.to_dict("records")).encode("gbk")
    ), "jsonl")  # fmt: skip
    conf = settings(tmp_path / "json", {"path": "views/{ds}.jsonl", "format": "json", "encoding": "GBK"})
    assert {
        r.city for r in read_and_clean(conf, spark).where("reason IS NULL").select("city").distinct().collect()
    } == set(cities)


def test_each_file_is_read_with_its_own_header(tmp_path: Path, spark: SparkSession) -> None:
    """The files have a different column order, a new column, a byte order mark, or no content."""
    rows = views()
    folder = tmp_path / "logs" / "views"
    folder.mkdir(parents=True)
    plain = rows.drop(columns="day")
    plain[:50].to_csv(folder / "a.csv", index=False, encoding="utf-8-sig")
    plain[50:100][["clk", "slot", "at", "surface", "sku", "visitor", "view"]].to_csv(
        folder / "b (1) [x].csv", index=False
    )
    plain[100:].assign(campaign="new").to_csv(folder / "c.csv.gz", index=False)
    (folder / "d.csv").write_bytes(b"")
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / ".a.csv.crc").write_bytes(b"crc")
    found = read_and_clean(settings(tmp_path, {"path": "views/*"}), spark)
    assert found.where("reason IS NOT NULL").count() == 0
    got = found.select("impression_id", "user_id", "item_id", "label", "slot", "campaign").toPandas()
    got = got.set_index("impression_id").sort_index()
    want = rows.set_index("view")
    assert list(got.index) == list(want.index)
    assert (got["user_id"] == want["visitor"]).all()
    assert (got["label"] == want["clk"]).all()
    assert (got["slot"] == want["slot"].astype(str)).all()
    assert got["campaign"].notna().sum() == len(rows) - 100


def test_the_error_for_a_missing_column_names_the_file(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows[rows["day"] < DAYS[2]])
    write_days(tmp_path, rows[rows["day"] == DAYS[2]].rename(columns={"sku": "product"}))
    with pytest.raises(DataError, match=r"2026-03-03\.csv: logs\.impressions\.item: no column `sku`"):
        read_and_clean(settings(tmp_path), spark)


def test_a_missing_value_does_not_change_ids_in_json_and_csv(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    rows["visitor"] = [10_000_000 + k % 12 for k in range(len(rows))]
    incomplete = rows.copy()
    incomplete.loc[incomplete.index[-3:], "visitor"] = pd.NA  # only on the last day, whose numbers become floats
    for form, write in {
        "csv": lambda f, p: f.to_csv(p, index=False),
        "json": lambda f, p: f.to_json(p, orient="records", lines=True),
    }.items():
        folder = tmp_path / form
        write_days(folder, incomplete.astype({"visitor": "float64"})[incomplete["day"] == DAYS[2]], write, form)
        write_days(folder, rows[rows["day"] < DAYS[2]], write, form)
        found = read_and_clean(settings(folder, {"path": f"views/{{ds}}.{form}", "format": form}), spark)
        good = {r.user_id for r in found.where("reason IS NULL").select("user_id").distinct().collect()}
        assert good == {str(10_000_000 + k) for k in range(12)}, form
        assert [r.reason for r in found.where("reason IS NOT NULL").collect()] == ["visitor: missing"] * 3


def test_a_corrupt_line_is_quarantined_unchanged(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows)
    folder = tmp_path / "logs" / "views"
    line = "v9,p1,s1,home,2026-03-03T10:00:00Z,3,1,surplus,more"
    with (folder / f"{DAYS[2]}.csv").open("a") as file:
        file.write(line + "\n")
    found = read_and_clean(settings(tmp_path), spark).where("reason IS NOT NULL").collect()
    assert [(r.reason, r.raw) for r in found] == [("unreadable row", line)]

    write_days(tmp_path / "json", rows, lambda f, p: f.to_json(p, orient="records", lines=True), "json")
    cut = '{"view":"v9","visitor":"p1","sku":"s1","note":"a long'
    with gzip.open(tmp_path / "json/logs/views" / f"{DAYS[2]}.json.gz", "wt") as compressed:
        compressed.write(cut)
    conf = settings(tmp_path / "json", {"path": "views/{ds}.json*", "format": "json"})
    found = read_and_clean(conf, spark).where("reason IS NOT NULL").collect()
    assert [(r.reason, r.raw, r.ds) for r in found] == [("unreadable row", cut, DAYS[2])]


def test_structs_and_text_in_the_same_column(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()

    def write(frame: pd.DataFrame, path: Path) -> None:
        late = path.stem == DAYS[2]
        lines = [{**r, "price": 10.5 if late else 10, "extra": "text" if late else {"a": 1}, "note": 7 if late else None}
                 for r in frame.to_dict("records")]  # fmt: skip
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write_days(tmp_path, rows, write, "json")
    found = read_and_clean(settings(tmp_path, {"path": "views/{ds}.json", "format": "json"}), spark).where(
        "reason IS NULL"
    )
    kinds = {
        (r.ds, r.price, r.extra, r.note) for r in found.select("ds", "price", "extra", "note").distinct().collect()
    }
    assert kinds == {
        (DAYS[0], "10", '{"a":"1"}', None),
        (DAYS[1], "10", '{"a":"1"}', None),
        (DAYS[2], "10.5", "text", "7"),
    }


def test_parquet_nanosecond_times_keep_their_zone(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    times = pd.to_datetime(rows["at"]).astype("datetime64[ns, UTC]")

    def make_writer(zone: str | None):  # type: ignore[no-untyped-def]
        def write_file(frame: pd.DataFrame, path: Path) -> None:
            local = times[frame.index].dt.tz_convert("Europe/Berlin")
            frame = frame.assign(at=local if zone else local.dt.tz_localize(None))
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, version="2.6")

        return write_file

    for zone in (None, "Europe/Berlin"):
        folder = tmp_path / str(zone)
        write_days(folder, rows, make_writer(zone), "parquet")
        log = {"path": "views/{ds}.parquet", "format": "parquet"}
        log |= {"time": {"column": "at", "unit": "timestamp", "zone": "Europe/Berlin"}}
        found = (
            read_and_clean(settings(folder, log), spark)
            .select("impression_id", F.unix_seconds("ts").alias("t"))
            .collect()
        )
        want = dict(zip(rows["view"], times.astype("int64") // 10**9, strict=True))
        assert {r.impression_id: r.t for r in found} == want, zone
