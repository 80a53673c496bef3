"""`star-ctr domains` on simulated logs finds a planted harmful domain and a planted helpful one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.load import load
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.train_ledger import EXCLUDED_DOMAIN
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.tools import simulate
from star_ctr.workflows import trials
from star_ctr.workflows.domains import report, run
from tests.conftest import on_request

pytestmark = [pytest.mark.spark, pytest.mark.slow]
FEATURES = ("user", "item", "category", "age", "gender", "city", "level", "price")
BASE = ["model.name=base", "model.norm=bn", "trainer.data.batches=mixed"]


def write_configuration(folder: Path) -> Path:
    """Write the configuration of small logs in which d14 is harmful, and d08 clicks as d09 does."""
    conf = yaml.safe_load((Path(__file__).parents[3] / "conf" / "demo.yaml").read_text())
    conf |= {
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / "warehouse")},
        "domains": {"known": ["d08", "d09", "d14"], "unknown": "drop"},
        "features": [f for f in conf["features"] if f["name"] in FEATURES],
        "window": {"days": 1},
        "spark": {"shuffle_partitions": 2},
    }
    conf["simulate"] |= {
        "impressions": 100_000, "days": 2, "users": 500, "items": 250, "seed": 1,
        "same_clicks": {"d08": "d09"}, "opposite_clicks": ["d14"],
    }  # fmt: skip
    conf["trainer"] |= {"device": "cpu", "runtime": {"tensorboard": False}}
    for section in (conf["logs"], conf):
        section.pop("behaviours", None)
        section.pop("history", None)
        section.pop("compare", None)
    file = folder / "planted.yaml"
    file.write_text(yaml.safe_dump(conf))
    return file


@on_request
def test_planted_domains_are_found(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = write_configuration(tmp_path)
    settings = load(conf, BASE)
    simulate.run(settings, spark)
    results = run.run(str(conf), BASE, spark)
    night = results.nights[0]
    verdicts = {(e.metric, e.family, e.domain, e.on): e.verdict for e in results.effects}
    assert verdicts["gauc", "others", "d14", None] == verdicts["auc", "others", "d14", None] == "harms"
    assert verdicts["gauc", "pair", "d08", "d09"] == verdicts["auc", "pair", "d08", "d09"] == "helps"
    assert "d14 harms the other domains" in " ".join(
        json.loads((report.write(results, "star-ctr domains", tmp_path).parent / "results.json").read_text())[
            "findings"
        ]
    )

    # The gain of d09 in AUC, from the scores of its models.
    store = WarehouseTables(settings, spark)
    scores = store.read("scores").where("domain = 'd09'").toPandas()
    ids: dict[str, list[str]] = {"joint": [], "alone": []}
    for seed in range(3):
        for name, model in (("joint", "joint"), ("alone", "d09 alone")):
            ids[name].append(make_run_id(load(conf, [*BASE, *results.models[model], f"trainer.seed={seed}"]), night))
    auc = {
        name: sum(roc_auc_score(*scores.loc[scores["run_id"] == i, ["label", "score"]].to_numpy().T) for i in runs) / 3
        for name, runs in ids.items()
    }
    gain = next(e for e in results.effects if (e.family, e.metric, e.domain) == ("gain", "auc", "d09"))
    assert gain.value == pytest.approx(auc["joint"] - auc["alone"], abs=1e-6)

    ledger = [r for r in read_rows(store.warehouse.table("ledger")) if r["run_id"] == ids["alone"][0]]
    left_out = {r["domain"]: r["rows_in"] for r in ledger if r["reason"] == EXCLUDED_DOMAIN}
    assert set(left_out) == {"d08", "d14"}
    trained = {r["domain"]: r["rows_out"] for r in ledger if r["step"] == "train" and r["rows_out"]}
    assert set(trained) == {"d09"}

    monkeypatch.setattr(trials, "open_pool", lambda *_, **__: pytest.fail("all runs are finished"))
    assert run.run(str(conf), BASE, spark) == results
