"""Weights from the log to the trained model: bad weights, rows of weight 0, the ledger, and changes of the setting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest, split, train
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.recipes import measure_training_size
from star_ctr.jobs.tools import check
from tests.conftest import on_request
from tests.jobs.messy_logs import DS, settings, views, write_days

pytestmark = pytest.mark.spark


@pytest.fixture
def shown(tmp_path: Path) -> pd.DataFrame:
    """Impressions with weights, of which one in five is 0, and seven cannot be used."""
    rows = views()
    rng = np.random.default_rng(5)
    rows["w"] = [f"{w:.6f}" for w in rng.gamma(1, size=len(rows))]
    rows.loc[rows.index % 5 == 0, "w"] = "0"
    bad = {3: "", 63: "-1", 66: "1e400", 67: "high", 68: "NaN", 123: "-Infinity", 124: "1e13"}
    for k, text in bad.items():
        rows.loc[k, "w"] = text
    write_days(tmp_path, rows)
    return rows


def configure(folder: Path, **log: object) -> Settings:
    return settings(folder, {"weight": "w", **log}, checks={"max_quarantined": 0.2}, trainer={"batch_size": 16})


def read(conf: Settings, table: str) -> pd.DataFrame:
    return pd.DataFrame(read_rows(f"{conf.paths.warehouse}/{table}"))


def run_steps(conf: Settings, spark: SparkSession, *steps: str) -> None:
    for name, run in (("ingest", ingest.run), ("features", features.run), ("split", split.run)):
        if name in steps:
            run(conf, spark, DS)


def test_weights_reach_the_training_rows(shown: pd.DataFrame, tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(tmp_path)
    run_steps(conf, spark, "ingest", "features", "split")
    reasons = read(conf, "quarantine").groupby("reason").size().to_dict()
    assert reasons == {"w: missing weight": 2, "w: the weight is not a number from 0 to 1e12": 5}
    number = pd.to_numeric(shown["w"], errors="coerce")
    shown = shown.assign(w=number)[number.between(0, 1e12)]
    rows = read(conf, "split")
    train_rows = rows[rows["part"] == "train"].set_index("impression_id")["weight"]
    expected = shown[(shown["day"] < DS) & (shown["w"] > 0)].set_index("view")["w"]
    pd.testing.assert_series_equal(train_rows.sort_index(), expected.sort_index(), check_names=False)
    assert sorted(rows.loc[rows["part"] == "test", "impression_id"]) == sorted(shown.loc[shown["day"] == DS, "view"])
    zeros = shown[(shown["day"] < DS) & (shown["w"] == 0)].groupby("surface").size().to_dict()
    ledger = read(conf, "ledger")
    of_split = ledger[ledger["step"] == "split.train"].set_index("reason")
    assert of_split.loc["weight 0"].set_index("domain")["rows_in"].to_dict() == zeros
    assert set(of_split.loc["weight 0", "rows_out"]) == {0}
    assert of_split.loc["", "rows_out"].sum() == len(expected)
    assert "weight 0" not in set(ledger[ledger["step"] == "split.test"]["reason"])
    assert measure_training_size(WarehouseTables(conf, spark), DS).rows == len(expected)


@pytest.mark.slow
@on_request
def test_another_weight_changes_labels_and_split(shown: pd.DataFrame, tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(tmp_path)
    run_steps(conf, spark, "ingest", "features", "split")
    expected = read(conf, "split").query("part == 'train'")["weight"]
    assert len(expected) > 80
    train.run(conf, spark, DS)
    of_train = read(conf, "ledger").query("step == 'train'")
    assert of_train["rows_out"].sum() == of_train["rows_in"].sum() == len(expected)
    [record] = read(conf, "runs")["record"]
    assert json.loads(record)["mean_weight"] == pytest.approx(expected.mean(), rel=1e-12)
    other = configure(tmp_path, columns={"w2": "2 * cast(clk as double)"}, weight="w2")
    plain = settings(tmp_path, checks={"max_quarantined": 0.2})
    with pytest.raises(DataError, match="2026-03-01, 2026-03-02, 2026-03-03 were computed with another logs.impres"):
        split.run(plain, spark, DS)
    run_steps(other, spark, "ingest", "features", "split")
    found = read(conf, "split").query("part == 'train'")
    assert set(found["weight"]) == {2.0}
    assert found["label"].all()
    zero = configure(tmp_path, columns={"none": "0"}, weight="none")
    run_steps(zero, spark, "ingest", "features")
    with pytest.raises(DataError, match="all 120 training rows of night 2026-03-03 have weight 0; check the column"):
        split.run(zero, spark, DS)
    run_steps(plain, spark, "ingest", "features", "split")
    found = read(conf, "split").query("part == 'train'")
    assert found["weight"].isna().all()
    assert len(found) == (shown["day"] < DS).sum()


def test_check_describes_weights_and_columns_that_cannot_be_weights(
    shown: pd.DataFrame, tmp_path: Path, spark: SparkSession
) -> None:
    [report] = check.run(configure(tmp_path), spark)
    assert report["problems"] == []
    assert report["notes"][0].startswith("weight (`w`): mean 0.")
    assert report["training_share"] == pytest.approx(0.8, abs=0.01)
    assert next(c for c in report["columns"] if c["column"] == "w")["use"] == "weight"
    nested = configure(tmp_path, columns={"list": "array(1.0, 2.0)"}, weight="list")
    with pytest.raises(DataError, match="logs.impressions.weight: `list` is a array<.*>; choose a column of scalar"):
        ingest.run(nested, spark, DS)
    absent = configure(tmp_path, weight="ww")
    with pytest.raises(DataError, match="logs.impressions.weight: no column `ww`; did you mean `w`"):
        ingest.run(absent, spark, DS)
