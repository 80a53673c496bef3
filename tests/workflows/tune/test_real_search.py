"""A search on small logs: real splits, real training runs in processes, and files that other commands can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.load import load
from star_ctr.features.evaluation.metrics import compute_metrics
from star_ctr.jobs.registry.job_definition import define_job
from star_ctr.model import offline
from star_ctr.workflows.tune import report, variants
from star_ctr.workflows.tune.nights import Nights, prepare
from star_ctr.workflows.tune.run import Options, run
from star_ctr.workflows.tune.runs import Pair, Run, RunStore
from star_ctr.workflows.tune.space import change_settings
from tests import small_logs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DAYS = list_days("2026-03-01", "2026-03-05")
SPACE = {"trainer.optimizer.lr": {"values": [0.003, 0.01]}, "trainer.epochs": {"values": [1, 3]}}


def test_a_search_on_small_logs(tmp_path: Path, spark: SparkSession) -> None:
    conf = small_logs.write(tmp_path, small_logs.frames(rows_a_day=150, days=DAYS), small_logs.FEW_FEATURES)
    small = ["trainer.calibration.norm_statistics_rows=0", "model.layers=[8,4]", "trainer.data.window_rows=500"]
    overrides = [*small, f"tune={json.dumps({'space': SPACE, 'only': True, 'candidates': 1})}"]
    settings = load(conf, overrides)
    prepared = prepare(settings, spark)
    assert prepared.nights == Nights(DAYS[4], DAYS[1:3], DAYS[3])

    result = run(prepared, Options(trials=3, jobs=2, seeds=2))
    experiment = result.experiment
    assert list((experiment.store.folder.parent / "unfinished").iterdir()) == []
    runs = [json.loads(file.read_text()) for file in experiment.store.folder.glob("*.json")]
    assert {r["night"] for r in runs if r["seed"] < 1000} == set(DAYS[1:3])
    assert not [r for r in runs if r["night"] == DAYS[4]]

    # A run is the same training run that `star-ctr train` would do, and has the metrics that Spark computes.
    pair, values = Pair(DAYS[2], 0), {"trainer.epochs": 3}
    stored = RunStore(tmp_path / "again").train(Run(values, pair), experiment.runner)
    assert stored is not None
    changed = change_settings(settings, {**values, "trainer.threads": 1, "trainer.seed": 0})
    job = define_job(changed, pair.night, prepared.pins[pair.night]).for_attempt(1, tmp_path / "job")
    offline.train_and_score(job)
    scores = spark.read.parquet(str(job.path / offline.SCORES))
    overall = compute_metrics(scores, settings.evaluate).where("domain = 'overall'").first()
    assert overall is not None
    assert stored.auc == pytest.approx(overall["auc"], abs=1e-12)
    assert stored.gauc == pytest.approx(overall["gauc"], abs=1e-9)
    assert stored.log_loss == pytest.approx(overall["log_loss"], abs=1e-12)
    assert stored.predicted / stored.clicks == pytest.approx(overall["pcoc"], abs=1e-12)
    assert {name: n for name, (n, _, _) in stored.domains.items()} == {
        r.domain: r["count"] for r in scores.groupBy("domain").count().collect()
    }

    found = report.write(result, str(conf), overrides, "star-ctr tune", tmp_path / "out")
    assert found["trials"]["failed"] == 0
    assert (tmp_path / "out/report.md").exists()
    if found["proposed"]:
        assert load(tmp_path / "out/shop-tuned.yaml").trainer.epochs in (1, 3)

    rows = variants.compare(prepared, str(conf), overrides, ["trainer.epochs=3"], 2, 2)
    assert [row["runs"] for row in rows] == [4, 4]
    assert rows[1]["values"] == values
    gains = [rows[1]["gauc"] - rows[0]["gauc"], rows[1]["gain"]]
    assert gains[0] == pytest.approx(gains[1])
