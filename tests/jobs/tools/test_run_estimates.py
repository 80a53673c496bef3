"""Metrics of runs on parts of their test rows: compared with scikit-learn, for the data and for bootstrap samples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import log_loss, roc_auc_score

from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.poisson_bootstrap import draw_weights
from star_ctr.jobs.tools import run_estimates
from star_ctr.jobs.tools.run_estimates import RowSubset

pytestmark = pytest.mark.spark
EVALUATE = EvaluateSettings(bootstrap_samples=6, seed=3)


def test_parts_of_runs_match_scikit_learn(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n = 900
    rows = pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 60, n)],
            "domain": rng.choice(["a", "b", "0", "overall cost"], n, p=[0.4, 0.2, 0.2, 0.2]),
            "label": (rng.random(n) < 0.3).astype(float),
        }
    )
    scores = pd.concat([rows.assign(run_id=run, score=np.round(rng.random(n), 2)) for run in ("x", "y", "z")])
    table = spark.createDataFrame(scores).repartition(3)
    store = SimpleNamespace(spark=spark, read=lambda name: {"scores": table}[name])
    keys = spark.createDataFrame(scores[["user_id"]].drop_duplicates()).withColumn("key", F.xxhash64("user_id"))
    key_of = keys.toPandas().set_index("user_id")["key"]
    wanted = [
        ("x", RowSubset("a")), ("x", RowSubset("a", True)), ("y", RowSubset("a", True)), ("y", RowSubset("overall cost")),
        ("z", RowSubset("0")), ("z", RowSubset("b", True)), ("z", RowSubset("not there")), ("z", RowSubset("not there", True)),
    ]  # fmt: skip
    monkeypatch.setattr(run_estimates, "RUNS_PER_QUERY", 2)
    found = run_estimates.run(store, EVALUATE, wanted)  # type: ignore[arg-type]
    assert set(found) == {pair for pair in wanted if pair != ("z", RowSubset("not there"))}
    for (run, part), estimate in found.items():
        own = scores[(scores["run_id"] == run) & ((scores["domain"] == part.domain) != part.is_rest)]
        weights = draw_weights(key_of[own["user_id"]].to_numpy(), 6, 3).astype(float)
        assert estimate.users == own["user_id"].nunique()
        both = own.groupby("user_id").filter(lambda u: u["label"].nunique() == 2)
        sizes = both.groupby("user_id").size()
        assert estimate.gauc_users == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum())
        aucs = both.groupby("user_id")[["label", "score"]].apply(lambda u: roc_auc_score(u["label"], u["score"]))
        for column in range(7):
            weight = weights[column]
            auc = roc_auc_score(own["label"], own["score"], sample_weight=weight)
            loss = log_loss(own["label"], own["score"].clip(1e-15, 1 - 1e-15), sample_weight=weight)
            by_user = draw_weights(key_of[sizes.index].to_numpy(), 6, 3)[column]
            gauc = np.average(aucs, weights=sizes * by_user)
            values = {metric: samples[column] for metric, samples in estimate.samples.items()}
            assert values == pytest.approx({"auc": auc, "log_loss": loss, "gauc": gauc}, abs=1e-8)
