"""Incremental nights (§4.4): vocabularies grow, and each training run starts from the previous night."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import evaluate, features, gate, ingest, score, split, train
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import get_attempt_folder, get_published_attempt
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome
from star_ctr.jobs.registry.job_definition import find_warm_start
from star_ctr.jobs.registry.warm_starts import find_start
from star_ctr.jobs.tools import batch_score
from tests import small_logs
from tests.published import newest_folder

pytestmark = [pytest.mark.spark, pytest.mark.slow]
NIGHTS = small_logs.DAYS[1:]


class Nights:
    """Three nights on logs in which a domain appears and another one disappears."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        logs = small_logs.frames()
        views = logs["views"]
        early = views["day"] < NIGHTS[1]
        logs["views"] = views[~(early & (views["surface"] == "mail")) & ~(~early & (views["surface"] == "search"))]
        self.conf, self.spark = small_logs.write(folder, logs), spark
        self.settings = self.load("trainer.warm_start=previous")
        self.records: list[dict[str, Any]] = []
        self.layouts: list[Layout] = []
        self.vocabularies: list[pd.DataFrame] = []
        store = WarehouseTables(self.settings, spark)
        for ds in NIGHTS:
            ingest.run(self.settings, spark, ds)
            features.run(self.settings, spark, ds)
            split.run(self.settings, spark, ds)
            identity = train.run(self.settings, spark, ds)["run_id"]
            score.run(self.settings, spark, ds)
            evaluate.run(self.settings, spark, ds)
            gate.run(self.settings, spark, ds)
            self.records.append(get_published_attempt(store.warehouse, identity).record())
            _, metadata = read_split_commit(store.warehouse.table("split"), ds)
            self.layouts.append(Layout.model_validate(metadata["layout"]))
            rows = store.read("vocabularies", metadata["vocabularies"]).where(f"ds = '{ds}'").toPandas()
            self.vocabularies.append(rows.set_index(["embedding", "value"]).sort_index())

    def load(self, *overrides: str) -> Settings:
        gate = ["gate.min_rows=100", "gate.min_clicks=10", "gate.domain_rows=1000000", "gate.pcoc=[0.01,100]"]
        # Models of these logs differ by chance, so hold only a candidate that is much worse.
        gate += ["gate.gauc_margin=0.3", "gate.drop_margin=1"]
        return load(self.conf, ["window.days=1", "split.vocabulary=grown", *gate, *overrides])


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Nights:
    return Nights(tmp_path_factory.mktemp("nights"), spark)


def test_values_keep_their_ids_and_new_ones_are_appended(nights: Nights) -> None:
    grown = 0
    for before, now in zip(nights.vocabularies, nights.vocabularies[1:], strict=False):
        both = before.join(now, rsuffix="_now", how="outer")
        known = both[both["id"].notna()]
        assert (known["id"] == known["id_now"]).all()
        for embedding, new in now[~now.index.isin(before.index)].groupby("embedding"):
            size = int((before.index.get_level_values("embedding") == embedding).sum())
            assert sorted(new["id"]) == list(range(2 + size, 2 + size + len(new)))
            assert new.sort_values("id")["rows"].is_monotonic_decreasing
            grown += len(new)
    assert grown > 0
    visitors = nights.vocabularies[2].loc["visitor"]
    train_day = nights.spark.read.format("delta").load(
        WarehouseTables(nights.settings, nights.spark).warehouse.table("features")
    )
    counts = train_day.where(f"ds = '{small_logs.DAYS[2]}'").groupBy("user_id").count().toPandas().set_index("user_id")
    assert (visitors["rows"].reindex(counts.index) == counts["count"]).all()


def test_domains_keep_their_numbers_and_numeric_features_their_scales(nights: Nights) -> None:
    first, second, third = nights.layouts
    assert first.domains == second.domains == ["home", "search"]
    assert third.domains == ["home", "search", "mail"]
    varied = 0
    for before, now in ((first, second), (second, third)):
        for a, b in zip(before.numeric, now.numeric, strict=True):
            if a.std > 0:
                assert a == b
                varied += 1
        assert [b.bounds for b in before.buckets] == [b.bounds for b in now.buckets]
    assert varied > 4
    still = {f.name for f in first.numeric if f.std == 0}
    assert "by_sku__shown" in still, "the first day of the log has no history"
    assert all(f.std > 0 for f in second.numeric if f.name in still)


def test_each_night_starts_from_the_previous_one(nights: Nights) -> None:
    first, second, third = nights.records
    assert first["start"] is None
    assert second["start"]["run_id"] == first["run_id"]
    assert third["start"]["run_id"] == second["run_id"]
    assert third["start"]["domains_added"] == ["mail"]
    sizes = nights.vocabularies[1].groupby("embedding").size()
    assert {name: n["kept"] for name, n in third["start"]["values"].items() if name in sizes} == dict(sizes)
    assert all(n["left_out"] == 0 for n in third["start"]["values"].values())
    assert third["rows"].keys() == {"home", "mail"}, "no rows of the domain that disappeared"
    scores = (
        WarehouseTables(nights.settings, nights.spark).read("scores").where(f"run_id = '{third['run_id']}'").toPandas()
    )
    assert set(scores["domain"]) == {"home", "mail"}


def test_a_missing_run_or_one_trained_on_later_days_is_rejected(nights: Nights) -> None:
    with pytest.raises(UserError, match="trainer.warm_start: no-such-run is not a finished run"):
        train.run(nights.load("trainer.warm_start=no-such-run"), nights.spark, NIGHTS[1])
    last = nights.records[2]["run_id"]
    with pytest.raises(
        UserError, match=f"{last} is a run of night {NIGHTS[2]} and was trained on {NIGHTS[1]} or later"
    ):
        train.run(nights.load(f"trainer.warm_start={last}"), nights.spark, NIGHTS[1])


def test_the_gate_evaluates_the_serving_model_on_the_same_rows(nights: Nights, tmp_path: Path) -> None:
    first, second, third = Decisions(nights.settings).read_all()
    runs = [r["run_id"] for r in nights.records]
    assert [d.run_id for d in (first, second, third)] == runs
    assert (first.outcome, first.reference_run_id) == (Outcome.PROMOTED, "")
    assert (second.outcome, second.reference_run_id) == (Outcome.PROMOTED, runs[0])
    assert {r["domain"] for r in second.evidence["differences"]} > {"overall"}
    scores = WarehouseTables(nights.settings, nights.spark).read("scores").toPandas()
    serving_scores = scores[scores["run_id"] == f"{runs[0]}@{NIGHTS[1]}"].set_index("impression_id")
    assert set(serving_scores.index) == set(scores[scores["run_id"] == runs[1]]["impression_id"])
    # Batch scoring of the raw rows of the day gives the same scores.
    source, target = str(tmp_path / "day"), str(tmp_path / "scored")
    views = Path(nights.settings.paths.logs) / "views" / f"{NIGHTS[1].replace('-', '')}.parquet"
    nights.spark.read.parquet(str(views)).write.parquet(source)
    batch_score.run(nights.settings, nights.spark, run_id=runs[0], source=source, target=target)
    other = nights.spark.read.format("delta").load(target).toPandas().set_index("impression_id")
    np.testing.assert_allclose(serving_scores["score"], other.loc[serving_scores.index, "score"], atol=1e-5)
    metrics = {r["domain"]: r for r in second.evidence["metrics"]}
    differences = {r["domain"]: r for r in second.evidence["differences"]}
    serving_metrics = evaluate.read_metrics(WarehouseTables(nights.settings, nights.spark), [f"{runs[0]}@{NIGHTS[1]}"])
    for row in serving_metrics:
        domain = row["domain"]
        if row["gauc"] is not None:
            assert differences[domain]["gauc"] == pytest.approx(metrics[domain]["gauc"] - row["gauc"], abs=1e-9)


def test_a_night_starts_from_the_last_accepted_one(nights: Nights) -> None:
    store, settings = WarehouseTables(nights.settings, nights.spark), nights.load("trainer.warm_start=accepted")
    assert find_start(settings, NIGHTS[2]) is None, "no run of this configuration was accepted"
    decisions = Decisions(settings)
    for ds in NIGHTS[:2]:
        name = make_run_id(settings, ds)
        folder = get_attempt_folder(store.warehouse, name, 1)
        shutil.copytree(newest_folder(settings, make_run_id(nights.settings, ds)), folder)
        outcome = Outcome.PROMOTED if ds == NIGHTS[0] else Outcome.HELD
        decisions.add(Decision(ds, name, 1, "", None, outcome, "made up"), decisions.read_all())
    start = find_warm_start(settings, NIGHTS[2], nights.layouts[2])
    assert start is not None
    assert start.run_id == make_run_id(settings, NIGHTS[0])
