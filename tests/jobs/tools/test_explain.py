"""Permutation importance: equal to scikit-learn's metrics of the permuted scores, and near 0 for noise."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import log_loss, roc_auc_score

from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.models import find_scoring_model
from star_ctr.jobs.tools import explain
from star_ctr.jobs.tools.encoded_features import list_parts
from star_ctr.workflows import nightly
from star_ctr.workflows.importance_figure import draw_importance
from star_ctr.workflows.report.data import collect
from star_ctr.workflows.report.quality import render_importance
from tests import small_logs

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def test_importance_of_used_features_and_of_noise(tmp_path: Path, spark: SparkSession) -> None:
    conf = small_logs.write(tmp_path, small_logs.frames(rows_a_day=3_000))
    settings = load(conf, ["trainer.epochs=2", "evaluate.bootstrap_samples=100"])
    ds = small_logs.DAYS[-1]
    nightly.run(settings, spark, ds)
    found = explain.run(settings, spark, ds)
    by_name = {(r["kind"], r["name"]): r for r in found if r["domain"] == "overall"}

    # The click rate depends on the item only; `slot` and `visitor` are noise.
    assert by_name["group", "items"]["auc_low"] > 0.02
    assert by_name["feature", "sku"]["log_loss_low"] > 0
    for noise in ("slot", "visitor"):
        row = by_name["feature", noise]
        assert abs(row["auc"]) < 0.01
        assert row["auc_low"] < 0.005
    names = [r["name"] for r in found if r["domain"] == "overall" and r["kind"] == "feature"]
    assert names == sorted(names, key=lambda n: -by_name["feature", n]["gauc"])

    store = WarehouseTables(settings, spark)
    model = find_scoring_model(settings, found[0]["run_id"])
    record = model.attempt.record()
    test = store.read("split", record["versions"]["split"]).where((F.col("ds") == ds) & (F.col("part") == "test"))
    parts = list_parts(record["settings"]["features"], model.layout)
    scores = explain.score_permuted_rows(test, model.attempt, parts).toPandas()
    original = scores[scores["run_id"] == "original"]
    published = {m["domain"]: m for m in read_rows(f"{settings.paths.warehouse}/metrics")}
    assert roc_auc_score(original["label"], original["score"]) == pytest.approx(published["overall"]["auc"], abs=1e-6)
    for k, part in enumerate(parts):
        for domain in ("overall", "home", "mail"):
            own = scores[scores["run_id"] == str(k)]
            rows, before = (f if domain == "overall" else f[f["domain"] == domain] for f in (own, original))
            row = next(r for r in found if (r["kind"], r["name"], r["domain"]) == (part.kind, part.name, domain))
            lost = roc_auc_score(before["label"], before["score"]) - roc_auc_score(rows["label"], rows["score"])
            gained = log_loss(rows["label"], rows["score"]) - log_loss(before["label"], before["score"])
            assert row["rows"] == len(rows)
            assert row["auc"] == pytest.approx(lost, abs=1e-9)
            assert row["log_loss"] == pytest.approx(gained, abs=1e-9)
            assert row["log_loss_low"] <= row["log_loss"] <= row["log_loss_high"]

    table = read_rows(f"{settings.paths.warehouse}/importance")
    assert len(table) == len(found)
    page = render_importance(collect(settings, ds))
    assert "What the model uses" in page
    assert "sku" in page
    file = tmp_path / "picture.png"
    draw_importance([r for r in found if r["domain"] == "overall"], file)
    assert file.read_bytes().startswith(b"\x89PNG")

    fewer = explain.run(settings, spark, ds, rows=1_000)
    assert 500 < next(r["rows"] for r in fewer if r["domain"] == "overall") < 1_500
    assert len(read_rows(f"{settings.paths.warehouse}/importance")) == len(fewer)
    with pytest.raises(UserError, match="no-such-run"):
        explain.run(settings, spark, run_id="no-such-run")
