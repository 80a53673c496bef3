"""Data grows without the code noticing: all steps over millions of rows with a small driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable

from tests.conftest import KUAIRAND, kuairand

SMALL_DRIVER = [
    "--set", "spark.master=local[2]", "--set", "spark.driver_memory=1g", "--set", "spark.shuffle_partitions=32",
    "--set", "spark.conf={spark.driver.maxResultSize: 16m}",
]  # fmt: skip
ROWS = int(os.environ.get("STAR_CTR_TEST_ROWS", "5000000"))


def star_ctr(*arguments: str, cwd: Path) -> None:
    command = [str(Path(sys.executable).parent / "star-ctr"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert run.returncode == 0, run.stderr[-3000:]


# Not part of `make test-slow`: STAR_CTR_LONG=1 asks for them.
long = pytest.mark.skipif(
    "STAR_CTR_LONG" not in os.environ, reason="takes the better part of an hour: set STAR_CTR_LONG=1"
)


@long
@pytest.mark.slow
def test_all_steps_over_five_million_rows_with_a_driver_of_one_gibibyte(tmp_path: Path) -> None:
    size = f"simulate={{impressions: {ROWS}, days: 2, users: {ROWS // 40}, items: 20000, seed: 5}}"
    common = [
        "--conf",
        "demo",
        "--set",
        f"paths.logs={tmp_path}/logs",
        "--set",
        f"paths.warehouse={tmp_path}/warehouse",
    ]
    # the features of the demo, with a shorter sequence: the test is of memory, and has an hour to share
    common += ["--set", size, "--set", "features.clicked.length=5", "--set", "model.layers=[32,16]", *SMALL_DRIVER]
    star_ctr("simulate", *common, cwd=tmp_path)
    star_ctr("nightly", *common, "--ds", "2026-01-06", cwd=tmp_path)
    ledger = DeltaTable(f"{tmp_path}/warehouse/ledger").to_pandas()
    steps = ledger.groupby("step")[["rows_in", "rows_out"]].sum()
    assert steps.loc["ingest", "rows_out"] == ROWS == steps.loc["features", "rows_out"]
    assert steps.loc["split.train", "rows_out"] == steps.loc["train", "rows_out"]
    assert steps.loc["split.test", "rows_out"] == steps.loc["score", "rows_out"] == steps.loc["evaluate", "rows_out"]
    assert steps.loc[["split.train", "split.test"], "rows_in"].sum() == ROWS


@long
@pytest.mark.slow
@kuairand
def test_a_night_of_the_real_logs_twice_gives_the_same_metrics_and_a_balanced_ledger(tmp_path: Path) -> None:
    common = ["--conf", "kuairand", "--ds", "2022-05-05", "--set", f"paths.warehouse={tmp_path}/warehouse"]
    common += ["--set", f"paths.logs={KUAIRAND.absolute()}"]
    star_ctr("nightly", *common, "--json", "one.json", cwd=tmp_path)
    star_ctr("nightly", *common, "--json", "two.json", cwd=tmp_path)
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()
    for table in ("impressions", "features", "split", "scores"):
        ids: pd.Series = (
            DeltaTable(f"{tmp_path}/warehouse/{table}")
            .to_pyarrow_table(columns=["impression_id"])
            .to_pandas()["impression_id"]
        )
        assert ids.is_unique, table
    ledger = DeltaTable(f"{tmp_path}/warehouse/ledger").to_pandas()
    steps = ledger.groupby("step")[["rows_in", "rows_out"]].sum()
    assert tuple(steps.loc["ingest"]) == (185_061, 180_384)
    assert ledger[(ledger["step"] == "ingest") & (ledger["reason"] == "duplicate")]["rows_in"].sum() == 4_677
    assert tuple(steps.loc["ingest.behaviours"]) == (1_230_650, 1_230_650)
    assert tuple(steps.loc["features"]) == (180_384, 180_384)
    assert tuple(steps.loc["train"]) == tuple(steps.loc["split.train"]) == (167_281, 167_281)
    assert (
        tuple(steps.loc["score"]) == tuple(steps.loc["evaluate"]) == tuple(steps.loc["split.test"]) == (13_103, 13_103)
    )
