"""Invalid scores: counted by domain, and never ranked, averaged or compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.conf.load import load
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.metrics import compute_metrics, compute_totals
from star_ctr.jobs.evaluate import ScoredRun, evaluate_runs
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.score import SCORES_SCHEMA, check_parity, compute_largest_difference
from star_ctr.jobs.tools import differences

pytestmark = pytest.mark.spark
NAN, INF = float("nan"), float("inf")
BAD = [NAN, INF, -INF, None, 1.0000001, -1e-9]
DS = "2026-03-04"


def frame(spark: SparkSession, changed: dict[int, Any], run_id: str = "a", column: str = "score") -> DataFrame:
    """Create 40 rows in two domains, some with a changed score or label."""
    rows = []
    for k in range(40):
        row = {"label": float(k % 3 == 0), "score": 0.01 * k}
        row[column] = changed.get(k, row[column])
        domain = "home" if k < 30 else "mail"
        rows.append((run_id, 1, DS, f"i{k}", f"u{k % 7}", domain, row["label"], True, row["score"]))
    return spark.createDataFrame(rows, SCORES_SCHEMA)


@pytest.fixture
def store(tmp_path: Path, spark: SparkSession) -> WarehouseTables:
    return WarehouseTables(load("demo", [f"paths.warehouse={tmp_path}"]), spark)


def test_invalid_rows_are_counted_by_domain(spark: SparkSession) -> None:
    assert check_scores(frame(spark, {0: 0.0, 1: 1.0}), "here") == 40
    bad = frame(spark, dict(zip((1, 2, 3, 31, 32, 33), BAD, strict=True)))
    with pytest.raises(DataError, match=r"here: a: 6 of 40 rows have a score .* \(home: 3, mail: 3\)"):
        check_scores(bad, "here")
    with pytest.raises(DataError, match=r"6 of 40 rows have a score"):
        check_scores(bad.drop("label"), "here")
    labels = frame(spark, {4: NAN, 5: None, 6: 0.5}, column="label")
    with pytest.raises(DataError, match="3 of 40 rows have a label that is not 0 or 1"):
        check_scores(labels, "here")


@pytest.mark.parametrize("value", BAD)
def test_invalid_scores_fail_the_query(spark: SparkSession, value: Any) -> None:
    bad = frame(spark, {35: value})
    for found in (compute_totals(bad), compute_metrics(bad, EvaluateSettings(bootstrap_samples=2))):
        with pytest.raises(PySparkException, match="a row has the invalid score .*; no metrics are computed"):
            found.collect()


def test_invalid_scores_write_no_metrics_or_differences(spark: SparkSession, store: WarehouseTables) -> None:
    store.replace("scores", frame(spark, {}), make_in_condition("run_id", ["a"]))
    store.replace("scores", frame(spark, {35: NAN}, "b"), make_in_condition("run_id", ["b"]))
    with pytest.raises(DataError, match=r"scores: b: 1 of 40 rows have a score .* \(mail: 1\)"):
        evaluate_runs(store, [ScoredRun("b", None, DS, "star", 0)])
    assert not store.exists("metrics")
    with pytest.raises(DataError, match=r"scores: b: 1 of 40 rows"):
        differences.compare_runs(store, load("demo"), "a", "b")
    assert len(evaluate_runs(store, [ScoredRun("a", None, DS, "star", 0)])) == 3


def test_a_nan_fails_the_parity_check(spark: SparkSession) -> None:
    scores = frame(spark, {})
    sample_scores = {"i1": 0.01, "i2": 0.02, "i33": 0.33 + 2e-6}
    assert compute_largest_difference(scores, sample_scores) == pytest.approx(2e-6)
    for bad in (frame(spark, {2: NAN}), frame(spark, {2: None}), frame(spark, {2: INF})):
        with pytest.raises(DataError, match=r"1 of 3 sampled rows have no finite difference .*\(home: 1\)"):
            compute_largest_difference(bad, sample_scores)
    with pytest.raises(DataError, match=r"2 of 3 sampled rows have no finite difference .*\(home: 1, mail: 1\)"):
        compute_largest_difference(scores, {**sample_scores, "i2": NAN, "i33": INF})
    with pytest.raises(DataError, match="1 of 4 sampled rows were not scored"):
        compute_largest_difference(scores, {**sample_scores, "i99": 0.5})


@pytest.mark.parametrize("difference", [2e-5, NAN, INF])
def test_a_large_difference_fails_the_parity_check(difference: float) -> None:
    check_parity("a", 1e-5)
    with pytest.raises(DataError, match="a: the scorer differs"):
        check_parity("a", difference)
    assert not math.isfinite(difference) or difference > 1e-5
