"""The profile of a day: measures compared with pandas, and nights that write the same days again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.features.cleaning.clean_log import clean_log
from star_ctr.jobs import features, ingest
from star_ctr.jobs.quality.log_profile import profile_log
from star_ctr.jobs.quality.measures import Measure, read_measures, write_measures
from star_ctr.jobs.tools.tables import read_table_rows
from tests.jobs.messy_logs import DAYS, DS, settings, views, write_days

FEATURES = [
    {"name": "sku", "kind": "categorical", "column": "item_id"},
    {"name": "slot", "kind": "numeric", "column": "impressions.slot"},
    {"name": "tags", "kind": "categorical", "column": "impressions.tags", "separator": "|"},
    {"name": "category", "kind": "categorical", "column": "items.category"},
]


def index(measures: list[Measure], ds: str) -> dict[tuple[str, str, str], Measure]:
    return {(m.log, m.name, m.measure): m for m in measures if m.ds == ds}


@pytest.mark.spark
def test_a_log_is_profiled_like_in_pandas(tmp_path: Path, spark: SparkSession) -> None:
    rows = views(200, seed=3)
    rows["slot"] = np.exp(np.linspace(-3, 9, len(rows))).round(4).astype(str)
    rows.loc[rows.index[::7], "slot"] = None
    rows.loc[rows.index[::11], "slot"] = "n/a"
    rows.loc[rows.index[::50], "visitor"] = None
    rows = pd.concat([rows, rows[rows["visitor"].notna()].head(9)], ignore_index=True)
    conf = settings(tmp_path)
    raw = spark.createDataFrame(rows.drop(columns="day").astype(object).where(rows.drop(columns="day").notna(), None))
    cleaned = clean_log(conf, "impressions", raw.withColumn("clk", F.col("clk").cast("string")))
    found = profile_log(conf, "impressions", cleaned)
    for ds in DAYS:
        of_day = rows[rows["day"] == ds]
        good = of_day[of_day["visitor"].notna()].drop_duplicates()
        measures = index(found, ds)
        assert measures["impressions", "", "rows"][4:6] == (len(of_day), len(good))
        assert measures["impressions", "", "duplicate"].hits == of_day.duplicated().sum()
        assert measures["impressions", "visitor: missing", "quarantined"][4:6] == (
            len(of_day),
            of_day["visitor"].isna().sum(),
        )
        hours = pd.to_datetime(good["at"]).dt.hour.value_counts()
        assert {h: measures["impressions", f"{h:02d}", "hour"].hits for h in range(24)} == {
            h: hours.get(h, 0) for h in range(24)
        }
        assert measures["impressions", "impressions.slot", "null"][4:6] == (len(good), good["slot"].isna().sum())
        assert measures["impressions", "impressions.slot", "null"].example == good["slot"].dropna().min()
        for column in ("visitor", "sku", "surface", "slot"):
            distinct = measures["impressions", f"impressions.{column}", "distinct"].hits
            assert distinct == pytest.approx(good[column].nunique(), rel=0.15)
        numbers = pd.to_numeric(good["slot"], errors="coerce").dropna()
        low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf")
        median, spread = (measures["impressions", "impressions.slot", m] for m in ("median", "interquartile range"))
        assert (median.rows, median.value) == (len(numbers), pytest.approx(middle, rel=0.05))
        assert spread.value == pytest.approx(high - low, rel=0.05)
        top = good["visitor"].value_counts()
        heaviest = measures["impressions", "impressions.visitor", "heaviest user"]
        assert heaviest[4:6] == (len(good), top.max())
        assert top[heaviest.example] == top.max()
    assert not [m for m in found if m.name in ("impressions.clk", "impressions.at")]


@pytest.mark.spark
def test_numbers_of_any_size_have_a_median(tmp_path: Path, spark: SparkSession) -> None:
    days = {
        "2026-03-01": ["0", "0", "-0.0"], "2026-03-02": ["-5", "-5", "1e308"], "2026-03-03": ["1e-320", "nan", "0"],
        "2026-03-04": ["Infinity", "99.6", "1e-12"], "2026-03-05": ["-1e300", "-1e300", "2"],
    }  # fmt: skip
    rows = pd.DataFrame({"slot": [n for numbers in days.values() for n in numbers]})
    rows = rows.assign(view=[f"v{k}" for k in rows.index], visitor="p", sku="s", surface="home", clk="0")
    rows["at"] = [f"{day}T10:00:00Z" for day in days for _ in range(3)]
    cleaned = clean_log(settings(tmp_path), "impressions", spark.createDataFrame(rows))
    found = {m.ds: m.value for m in profile_log(settings(tmp_path), "impressions", cleaned) if m.measure == "median"}
    assert found == {
        "2026-03-01": 0.0, "2026-03-02": -5.0, "2026-03-03": 0.0, "2026-03-04": 1e-12, "2026-03-05": -1e300,
    }  # fmt: skip


def write_logs(folder: Path) -> pd.DataFrame:
    rows = views()
    rows["tags"] = [f"a{k % 3}|b" for k in range(len(rows))]
    rows.loc[(rows["day"] == DS) & (rows.index % 2 == 0), "tags"] = "new|b"
    write_days(folder, rows)
    items = pd.DataFrame({"sku": [f"s{k}" for k in range(9)], "category": [f"c{k % 2}" for k in range(9)]})
    items.to_csv(folder / "logs" / "items.csv", index=False)
    return rows


@pytest.mark.spark
def test_joins_and_features_are_profiled_like_in_pandas(tmp_path: Path, spark: SparkSession) -> None:
    rows = write_logs(tmp_path)
    conf = settings(tmp_path, logs={"items": {"path": "items.csv", "key": "sku"}}, features=FEATURES, history={})
    ingest.run(conf, spark, DS)
    features.run(conf, spark, DS)
    measures = read_measures(conf, DS)
    for ds in DAYS:
        of_day, found = rows[rows["day"] == ds], index(measures, ds)
        assert found["impressions", "", "clicked"][4:6] == (len(of_day), of_day["clk"].sum())
        for domain, part in of_day.groupby("surface"):
            assert found["impressions", str(domain), "domain"][4:6] == (len(of_day), len(part))
            assert found["impressions", str(domain), "clicked"][4:6] == (len(part), part["clk"].sum())
        has_item = of_day["sku"].isin([f"s{k}" for k in range(9)])
        assert found["items", "items", "matched"][4:6] == (len(of_day), has_item.sum())
        assert found["impressions", "impressions.slot", "unparsable"][4:6] == (len(of_day), 0)
    today, before = rows[rows["day"] == DS], rows[rows["day"] < DS]
    unseen = {m.name: (m.rows, m.hits) for m in measures if m.measure == "unseen"}
    tags = today["tags"].str.split("|", regex=False).explode()
    categories = today["sku"].isin([f"s{k}" for k in range(9)]).sum()
    assert unseen == {
        "impressions.sku": (len(today), (~today["sku"].isin(before["sku"])).sum()),
        "impressions.tags": (len(tags), (tags == "new").sum()),
        "items.category": (categories, 0),
    }
    assert {m.ds for m in measures if m.measure == "unseen"} == {DS}
    # A table without days is profiled as of the night.
    assert {m.ds for m in measures if m.log == "items" and m.measure == "null"} == {DS}
    (row,) = read_table_rows(conf, "profile", f"ds = '{DS}' AND measure = 'rows' AND log = 'items'", 5).rows
    assert row == {
        "ds": DS, "step": "ingest", "log": "items", "name": "", "measure": "rows", "rows": 9, "hits": 9, "value": None, "example": "",
    }  # fmt: skip


@pytest.mark.spark
def test_nights_that_run_again_keep_the_profile_of_the_other_step_and_of_other_nights(
    tmp_path: Path, spark: SparkSession
) -> None:
    write_logs(tmp_path)
    conf = settings(
        tmp_path, logs={"items": {"path": "items.csv", "key": "sku"}}, features=FEATURES, history={}, window={"days": 1}
    )
    for ds in DAYS[1:]:
        ingest.run(conf, spark, ds)
        features.run(conf, spark, ds)
    first = sorted(read_measures(conf, DS), key=str)
    assert len(first) == len({m[:4] for m in first}), "one row per day, log, name and measure"
    # Each night has its own snapshot of items, and its own unseen values.
    assert {m.ds for m in first if m.log == "items" and m.measure == "rows"} == set(DAYS[1:])
    assert {m.ds for m in first if m.measure == "unseen"} == set(DAYS[1:])
    for run, ds in ((ingest.run, DS), (features.run, DAYS[1])):
        run(conf, spark, ds)
        again = sorted(read_measures(conf, DS), key=str)
        assert again == first, f"{run.__module__} of {ds}"


def test_a_profile_of_an_earlier_version_gets_the_new_columns(tmp_path: Path) -> None:
    conf = settings(tmp_path)
    old = pa.table({"ds": [DS], "name": ["clicks"], "measure": ["matched"], "rows": [3], "hits": [2], "example": [""]})
    table = str(tmp_path / "warehouse" / "profile")
    write_deltalake(table, old, partition_by=["ds"])
    assert read_measures(conf, DS) == []
    new = Measure(DS, "impressions", "", "rows", 5, 4)
    for _ in range(2):
        write_measures(conf, "ingest", [new], f"ds = '{DS}'")
    assert read_measures(conf, DS) == [new]
    assert len(DeltaTable(table).schema().fields) == 9
