"""Domains that are not in the settings or in the training days: dropped or mapped to `other`, and counted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.domains import OTHER_DOMAIN
from star_ctr.conf.load import load
from star_ctr.jobs import features, ingest, split
from star_ctr.jobs.io.warehouse import WarehouseTables
from tests import small_logs

pytestmark = pytest.mark.spark
DS = small_logs.DAYS[-1]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write logs with a fourth surface, `watch`, that occurs only on the last day."""
    logs = small_logs.frames(rows_a_day=60)
    last = logs["views"]["day"] == DS
    logs["views"].loc[logs["views"][last].index[:9], "surface"] = "watch"
    return small_logs.write(tmp_path_factory.mktemp("domains"), logs)


def table(conf: Path, spark: SparkSession, overrides: list[str], name: str) -> pd.DataFrame:
    return WarehouseTables(load(conf, overrides), spark).read(name).toPandas()


def test_an_undeclared_domain_is_quarantined_or_other(conf: Path, spark: SparkSession) -> None:
    for unknown in ("drop", "bucket"):
        overrides = ["domains.known=[home, search]", f"domains.unknown={unknown}"]
        overrides += [f"paths.warehouse={conf.parent}/known-{unknown}"]
        ingest.run(load(conf, overrides), spark, DS)
        rows = table(conf, spark, overrides, "impressions")
        read = len(small_logs.frames(rows_a_day=60)["views"])
        undeclared = read - int(rows["domain"].isin(["home", "search"]).sum())
        assert undeclared > 9
        if unknown == "bucket":
            assert (rows["domain"] == "other").sum() == undeclared
            continue
        assert len(rows) == read - undeclared
        kept = table(conf, spark, overrides, "quarantine")
        assert kept["reason"].value_counts()["domain: unknown domain watch"] == 9
        assert kept["reason"].str.startswith("domain: unknown domain").sum() == undeclared


@pytest.mark.slow
def test_a_domain_without_training_rows_is_left_out_of_the_split_or_other(conf: Path, spark: SparkSession) -> None:
    ingest.run(load(conf), spark, DS)
    for unknown in ("drop", "bucket"):
        overrides = [f"domains.unknown={unknown}"]
        features.run(load(conf, overrides), spark, DS)
        totals = split.run(load(conf, overrides), spark, DS)
        test = table(conf, spark, overrides, "split").query("part == 'test'")
        ledger = table(conf, spark, overrides, "ledger").query("step == 'split.test'")
        assert ledger["rows_in"].sum() == 60
        assert ledger["rows_out"].sum() == len(test) == totals["test"] == (51 if unknown == "drop" else 60)
        if unknown == "drop":
            left_out = ledger[ledger["reason"] == "domain unknown in training"]
            assert list(zip(left_out["domain"], left_out["rows_in"], left_out["rows_out"], strict=True)) == [
                ("watch", 9, 0)
            ]
        else:
            assert (test["domain_id"] == OTHER_DOMAIN).sum() == (test["domain"] == "other").sum() == 9
