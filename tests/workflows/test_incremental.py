"""Incremental nights (§4.4): vocabularies grow, and each training run starts from the previous night."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import log_loss, roc_auc_score

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.run_id import is_reference, make_reference_run_id, make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.poisson_bootstrap import draw_weights
from star_ctr.jobs import evaluate, features, gate, ingest, reference, score, split, train
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import get_attempt_folder, get_published_attempt, list_attempts, read_job
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome
from star_ctr.jobs.registry.job_definition import define_job, find_warm_start
from star_ctr.jobs.registry.reference_gaps import NOT_COMPARABLE
from star_ctr.jobs.registry.warm_starts import find_start
from star_ctr.jobs.tools import batch_score, replay
from tests import small_logs
from tests.conftest import on_request
from tests.published import newest_folder

pytestmark = [pytest.mark.spark, pytest.mark.slow]
NIGHTS = small_logs.DAYS[1:]
FEATURES = (*small_logs.FEW_FEATURES, "price")


class Nights:
    """Three nights on logs in which a domain appears and another one disappears. The second one has a reference."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        logs = small_logs.frames()
        views = logs["views"]
        early = views["day"] < NIGHTS[1]
        logs["views"] = views[~(early & (views["surface"] == "mail")) & ~(~early & (views["surface"] == "search"))]
        self.conf, self.spark = small_logs.write(folder, logs, FEATURES), spark
        self.settings = self.load("trainer.warm_start=previous")
        self.with_reference = self.load("trainer.warm_start=previous", "reference={every_nights: 2, window_days: 7}")
        self.references: list[dict[str, Any]] = []
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
            self.references.append(reference.run(self.with_reference, spark, ds))
            self.records.append(get_published_attempt(store.warehouse, identity).record())
            _, metadata = read_split_commit(store.warehouse.table("split"), ds)
            self.layouts.append(Layout.model_validate(metadata["layout"]))
            rows = store.read("vocabularies", metadata["vocabularies"]).where(f"ds = '{ds}'").toPandas()
            self.vocabularies.append(rows.set_index(["embedding", "value"]).sort_index())

    def count_final(self, ds: str) -> int:
        labels = WarehouseTables(self.settings, self.spark).read("labels")
        return labels.where((F.col("ds") == ds) & F.col("is_final")).count()

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


def _list_reference_runs(nights: Nights) -> list[str]:
    tables = WarehouseTables(nights.settings, nights.spark)
    return sorted(run for run in tables.warehouse.list_finished_runs() if is_reference(run))


def _compute_gauc(rows: pd.DataFrame) -> float:
    users = [u for _, u in rows.groupby("user_id") if 0 < u["label"].mean() < 1]
    return sum(len(u) * roc_auc_score(u["label"], u["score"]) for u in users) / sum(map(len, users))


def test_a_night_that_is_due_is_compared_with_a_model_trained_from_scratch(nights: Nights) -> None:
    assert [found["outcome"] for found in nights.references] == ["nothing to compare", "compared", "nothing to compare"]
    run = nights.records[1]["run_id"]
    assert _list_reference_runs(nights) == [make_reference_run_id(run)]
    store = WarehouseTables(nights.settings, nights.spark)
    attempt = get_published_attempt(store.warehouse, make_reference_run_id(run))
    job, record, night = read_job(attempt), attempt.record(), read_job(get_published_attempt(store.warehouse, run))
    # On the first day of the log, statistics are constant, so its rows have another encoding of numbers.
    assert (job.start, job.days, night.days) == (None, [small_logs.DAYS[1]], [small_logs.DAYS[1]])
    assert (job.versions, job.layout) == (night.versions, night.layout)
    assert night.calibration_maps is not None
    assert job.calibration_maps is None, "there is no earlier reference"
    views = store.read("features").where(F.col("ds") == small_logs.DAYS[1]).count()
    assert sum(record["rows"].values()) == views, "all rows of the day"
    assert sum(nights.records[1]["rows"].values()) == views, "the night has the same day"


def test_the_gap_follows_from_the_scores(nights: Nights) -> None:
    run = nights.records[1]["run_id"]
    store = WarehouseTables(nights.settings, nights.spark)
    rows = store.read("scores").withColumn("key", F.xxhash64("user_id")).toPandas()
    both = [rows[rows["run_id"] == r].sort_values("impression_id") for r in (run, make_reference_run_id(run))]
    assert (both[0]["impression_id"].to_numpy() == both[1]["impression_id"].to_numpy()).all()
    weights = draw_weights(both[0]["key"].to_numpy(), 200, seed=0)

    def compute_by_sample(scored: pd.DataFrame) -> dict[str, list[float]]:
        y, p = scored["label"].to_numpy(), scored["score"].to_numpy()
        return {
            "auc": [roc_auc_score(y, p, sample_weight=w) for w in weights],
            "pcoc": [(w * p).sum() / (w * y).sum() for w in weights],
            "log_loss": [log_loss(y, p, sample_weight=w) for w in weights],
        }

    ours, theirs = map(compute_by_sample, both)
    table = store.read("differences").where(f"reference_run_id = '{make_reference_run_id(run)}'").toPandas()
    assert set(table["domain"]) == {*both[0]["domain"], "overall"}
    overall = table[table["domain"] == "overall"].iloc[0]
    assert (overall["attempt"], overall["reference_attempt"], overall["training_days"]) == (1, 1, 1)
    assert overall["gauc"] == pytest.approx(_compute_gauc(both[0]) - _compute_gauc(both[1]), abs=1e-9)
    for metric in ("auc", "pcoc", "log_loss"):
        differences = np.subtract(ours[metric], theirs[metric])
        assert overall[metric] == pytest.approx(differences[0], abs=1e-8)
        low, high = np.quantile(differences[1:], [0.025, 0.975])
        assert (overall[f"{metric}_low"], overall[f"{metric}_high"]) == pytest.approx((low, high), abs=1e-8)
    reason = nights.references[1]["reason"]
    assert f"compared with a model trained from scratch on 1 day. {NOT_COMPARABLE}" in reason, (
        "it is the first reference"
    )


def test_a_reference_does_not_change_any_night(nights: Nights) -> None:
    store, run = WarehouseTables(nights.settings, nights.spark), nights.records[2]["run_id"]
    assert make_run_id(nights.with_reference, NIGHTS[2]) == run
    assert nights.records[2]["start"]["run_id"] == nights.records[1]["run_id"], "not the reference"
    pinned, maps = (
        train.pin_versions(store, NIGHTS[2]),
        read_job(get_published_attempt(store.warehouse, run)).calibration_maps,
    )
    jobs = [define_job(s, NIGHTS[2], pinned, maps) for s in (nights.settings, nights.with_reference)]
    assert {job.fingerprint() for job in jobs} == {nights.records[2]["fingerprint"]}
    assert replay.run(nights.settings, nights.spark, run)["identical"]
    assert replay.run(nights.settings, nights.spark, make_reference_run_id(nights.records[1]["run_id"]))["identical"]
    decisions = Decisions(nights.settings)
    assert not any(is_reference(d.run_id) or is_reference(d.reference_run_id) for d in decisions.read_all())
    with pytest.raises(UserError, match="a reference is never served"):
        decisions.promote(make_reference_run_id(nights.records[1]["run_id"]), "better", by="ann")


def test_a_finished_reference_is_not_trained_again(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    store, name = WarehouseTables(nights.settings, nights.spark), make_reference_run_id(nights.records[1]["run_id"])
    contents = [store.read(t).where(f"run_id LIKE '{NIGHTS[1]}%'").toPandas() for t in ("differences", "metrics")]
    monkeypatch.setattr(train, "launch", lambda *_: pytest.fail("trained again"))
    assert reference.run(nights.with_reference, nights.spark, NIGHTS[1]) == nights.references[1]
    assert [a.number for a in list_attempts(store.warehouse, name)] == [1]
    for table, before in zip(("differences", "metrics"), contents, strict=True):
        after = store.read(table).where(f"run_id LIKE '{NIGHTS[1]}%'").toPandas()
        keys = ["run_id", "domain", *(["reference_run_id"] if table == "differences" else [])]
        before, after = (
            f.sort_values(keys, ignore_index=True).drop(columns="reliability", errors="ignore") for f in (before, after)
        )
        pd.testing.assert_frame_equal(after, before)


@on_request
def test_a_killed_reference_leaves_no_comparison(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabularies of the third night extend those of both earlier nights, which its own commit does not list."""
    store = WarehouseTables(nights.settings, nights.spark)
    settings = nights.load("trainer.warm_start=previous", "reference={every_nights: 1, window_days: 3}")

    def fail(*_: Any) -> None:
        raise UserError("killed")

    name = make_reference_run_id(nights.records[2]["run_id"])
    is_gap = F.col("reference_run_id") == name
    with monkeypatch.context() as patched:
        patched.setattr(reference, "score_run", fail)
        with pytest.raises(UserError, match="killed"):
            reference.run(settings, nights.spark, NIGHTS[2])
    assert store.read("differences").where(is_gap).count() == 0
    found = reference.run(settings, nights.spark, NIGHTS[2])
    assert found["days"] == list(small_logs.DAYS[1:3])
    assert store.read("differences").where(is_gap).count() == len(found["differences"])
    assert [a.number for a in list_attempts(store.warehouse, name)] == [1], "the trained reference is reused"
    maps = read_job(get_published_attempt(store.warehouse, name)).calibration_maps
    assert maps is not None
    assert (maps.nights, maps.rows) == ([NIGHTS[1]], nights.count_final(NIGHTS[1])), "only of the earlier reference"
    # The first night started from no model, so there is nothing to compare.
    assert "trained from scratch" in reference.run(settings, nights.spark, NIGHTS[0])["reason"]
