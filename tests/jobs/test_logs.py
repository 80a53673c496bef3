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


def cleaned(conf: Settings, spark: SparkSession) -> DataFrame:
    raw = log_reader.read(conf, spark, "impressions", None)
    assert raw is not None
    return clean_log(conf, "impressions", raw)


def test_undecodable_text_is_quarantined(tmp_path: Path, spark: SparkSession) -> None:
    """Twelve cities in GBK became six, all replacement characters."""
    cities = ["北京", "上海", "广州", "深圳", "天津", "重庆", "成都", "武汉", "西安", "南京", "杭州", "苏州"]
    rows = views()
    rows["city"] = [cities[k % 12] for k in range(len(rows))]
    write_days(tmp_path, rows, lambda f, p: f.to_csv(p, index=False, encoding="gbk"))
    found = cleaned(settings(tmp_path, {"encoding": "GBK"}), spark)
    assert {r.city for r in found.where("reason IS NULL").select("city").distinct().collect()} == set(cities)
    refused = cleaned(settings(tmp_path), spark).select("reason").distinct().collect()
    assert [r.reason for r in refused] == ["text that is not UTF-8: set logs.impressions.encoding"]
    write_days(tmp_path / "json", rows, lambda f, p: p.write_bytes(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in f.to_dict("records")).encode("gbk")
    ), "jsonl")  # fmt: skip
    conf = settings(tmp_path / "json", {"path": "views/{ds}.jsonl", "format": "json", "encoding": "GBK"})
    assert {r.city for r in cleaned(conf, spark).where("reason IS NULL").select("city").distinct().collect()} == set(
        cities
    )


def test_each_file_is_read_with_its_own_header(tmp_path: Path, spark: SparkSession) -> None:
    """Files with a different column order, a new column, a byte order mark, or no content."""
    rows = views()
    place = tmp_path / "logs" / "views"
    place.mkdir(parents=True)
    plain = rows.drop(columns="day")
    plain[:50].to_csv(place / "a.csv", index=False, encoding="utf-8-sig")
    plain[50:100][["clk", "slot", "at", "surface", "sku", "visitor", "view"]].to_csv(
        place / "b (1) [x].csv", index=False
    )
    plain[100:].assign(campaign="new").to_csv(place / "c.csv.gz", index=False)
    (place / "d.csv").write_bytes(b"")
    (place / "_SUCCESS").write_bytes(b"")
    (place / ".a.csv.crc").write_bytes(b"crc")
    found = cleaned(settings(tmp_path, {"path": "views/*"}), spark)
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
        cleaned(settings(tmp_path), spark)


def test_a_missing_value_does_not_change_ids_in_json_and_csv(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    rows["visitor"] = [10_000_000 + k % 12 for k in range(len(rows))]
    holed = rows.copy()
    holed.loc[holed.index[-3:], "visitor"] = pd.NA  # only on the last day, whose numbers become floats
    for form, write in {
        "csv": lambda f, p: f.to_csv(p, index=False),
        "json": lambda f, p: f.to_json(p, orient="records", lines=True),
    }.items():
        folder = tmp_path / form
        write_days(folder, holed.astype({"visitor": "float64"})[holed["day"] == DAYS[2]], write, form)
        write_days(folder, rows[rows["day"] < DAYS[2]], write, form)
        found = cleaned(settings(folder, {"path": f"views/{{ds}}.{form}", "format": form}), spark)
        good = {r.user_id for r in found.where("reason IS NULL").select("user_id").distinct().collect()}
        assert good == {str(10_000_000 + k) for k in range(12)}, form
        assert [r.reason for r in found.where("reason IS NOT NULL").collect()] == ["visitor: missing"] * 3


def test_a_corrupt_line_is_quarantined_unchanged(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows)
    place = tmp_path / "logs" / "views"
    line = "v9,p1,s1,home,2026-03-03T10:00:00Z,3,1,surplus,more"
    with (place / f"{DAYS[2]}.csv").open("a") as file:
        file.write(line + "\n")
    found = cleaned(settings(tmp_path), spark).where("reason IS NOT NULL").collect()
    assert [(r.reason, r.raw) for r in found] == [("unreadable row", line)]

    write_days(tmp_path / "json", rows, lambda f, p: f.to_json(p, orient="records", lines=True), "json")
    cut = '{"view":"v9","visitor":"p1","sku":"s1","note":"a long'
    with gzip.open(tmp_path / "json/logs/views" / f"{DAYS[2]}.json.gz", "wt") as packed:
        packed.write(cut)
    conf = settings(tmp_path / "json", {"path": "views/{ds}.json*", "format": "json"})
    found = cleaned(conf, spark).where("reason IS NOT NULL").collect()
    assert [(r.reason, r.raw, r.ds) for r in found] == [("unreadable row", cut, DAYS[2])]


def test_structs_and_text_in_the_same_column(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()

    def write(frame: pd.DataFrame, path: Path) -> None:
        late = path.stem == DAYS[2]
        lines = [{**r, "price": 10.5 if late else 10, "extra": "text" if late else {"a": 1}, "note": 7 if late else None}
                 for r in frame.to_dict("records")]  # fmt: skip
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write_days(tmp_path, rows, write, "json")
    found = cleaned(settings(tmp_path, {"path": "views/{ds}.json", "format": "json"}), spark).where("reason IS NULL")
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

    def write(zone: str | None):  # type: ignore[no-untyped-def]
        def to(frame: pd.DataFrame, path: Path) -> None:
            own = times[frame.index].dt.tz_convert("Europe/Berlin")
            frame = frame.assign(at=own if zone else own.dt.tz_localize(None))
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, version="2.6")

        return to

    for zone in (None, "Europe/Berlin"):
        folder = tmp_path / str(zone)
        write_days(folder, rows, write(zone), "parquet")
        log = {"path": "views/{ds}.parquet", "format": "parquet"}
        log |= {"time": {"column": "at", "unit": "timestamp", "zone": "Europe/Berlin"}}
        found = cleaned(settings(folder, log), spark).select("impression_id", F.unix_seconds("ts").alias("t")).collect()
        want = dict(zip(rows["view"], times.astype("int64") // 10**9, strict=True))
        assert {r.impression_id: r.t for r in found} == want, zone
