"""A complete night on small logs that are configured with YAML only, from `check` to metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import log_loss, roc_auc_score

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import evaluate, features, ingest, score, split, train
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.jobs.io.train_ledger import NOT_SAMPLED
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.tools import check, tables
from tests import small_logs
from tests.workflows.small_night import DS, Night

pytestmark = pytest.mark.spark


def test_check_reports_only_real_problems(night: Night, spark: SparkSession) -> None:
    found = check.run(night.settings, spark)
    assert [f["log"] for f in found] == ["impressions", "clicks", "users", "items"]
    assert not [p for f in found for p in f["problems"]]
    warnings = [w for f in found for w in f["warnings"]]
    assert any("rows: visitor: missing" in w for w in warnings)
    wrong = load(night.conf, ["logs.impressions.domain=surfce", "features.slot.column=impressions.slt"])
    problems = "\n".join(check.run(wrong, spark)[0]["problems"])
    assert "logs.impressions.domain: no column `surfce`; did you mean `surface`?" in problems


def test_metrics_match_pandas(night: Night) -> None:
    scores = night.table("scores")
    by_domain = {m["domain"]: m for m in night.metrics}
    assert set(by_domain) == {*scores["domain"], "overall"}
    for domain, metrics in by_domain.items():
        rows = scores if domain == "overall" else scores[scores["domain"] == domain]
        users = [
            (len(u), roc_auc_score(u["label"], u["score"]))
            for _, u in rows.groupby("user_id")
            if u["label"].nunique() == 2
        ]
        assert metrics["rows"] == len(rows)
        assert metrics["clicks"] == rows["label"].sum()
        assert metrics["auc"] == pytest.approx(roc_auc_score(rows["label"], rows["score"]), abs=1e-9)
        if users:
            gauc = np.average([a for _, a in users], weights=[n for n, _ in users])
            assert metrics["gauc"] == pytest.approx(gauc, abs=1e-9)
        else:
            assert metrics["gauc"] is None
        assert metrics["pcoc"] == pytest.approx(rows["score"].sum() / rows["label"].sum(), abs=1e-9)
        assert metrics["log_loss"] == pytest.approx(log_loss(rows["label"], rows["score"], labels=[0, 1]), abs=1e-9)


def balance(ledger: pd.DataFrame) -> dict[str, tuple[int, int]]:
    return {str(step): (int(g["rows_in"].sum()), int(g["rows_out"].sum())) for step, g in ledger.groupby("step")}


def test_the_ledger_counts_all_rows(night: Night) -> None:
    steps = balance(night.table("ledger"))
    read = night.good_views + 7 + 5 + 1
    assert steps["ingest"] == (read, night.good_views)
    reasons = night.table("ledger").query("step == 'ingest'").groupby("reason")["rows_in"].sum()
    assert reasons["duplicate"] == 7
    assert reasons["visitor: missing"] == 5
    assert reasons["impression_id: used by two different rows"] == 1
    assert len(night.table("quarantine")) == 6
    assert "bad-" in night.table("quarantine").query("reason == 'visitor: missing'")["row"].iloc[0]
    assert steps["features"] == (night.good_views, night.good_views)
    assert steps["split.train"][0] + steps["split.test"][0] == night.good_views
    assert steps["train"] == (steps["split.train"][1],) * 2
    assert steps["score"] == steps["evaluate"] == (steps["split.test"][1],) * 2
    clicks = night.table("ledger").query("step == 'attribute'").groupby("reason")["rows_in"].sum()
    assert clicks["click without impression"] == 1


def test_a_night_unpersists_its_dataframes(night: Night) -> None:
    assert not night.left_in_memory


def test_impression_ids_are_unique_in_all_tables(night: Night) -> None:
    for name in ("impressions", "features", "labels", "split", "scores"):
        rows = night.table(name)
        assert rows["impression_id"].is_unique, name


def test_encoders_are_fitted_only_on_training_days(night: Night) -> None:
    rows = night.table("features")
    known = set(night.table("vocabularies").query("embedding == 'sku'")["value"])
    trained = rows[rows["ds"] < DS]
    sequences = trained["clicked__item_id"].explode().dropna()
    assert known == set(trained["item_id"]) | set(sequences)
    assert "s-new" in set(rows["item_id"]) - known
    layout = Layout.model_validate(
        read_split_commit(WarehouseTables(night.settings, night.spark).warehouse.table("split"), DS)[1]["layout"]
    )
    fitted = {f.name: f for f in layout.numeric}
    for name, form in (("slot", np.asarray), ("price", np.log1p)):
        values, field = form(trained[fitted[name].source.column].astype(float)), fitted[name]
        assert field.mean == pytest.approx(values.mean(), abs=1e-6)
        assert field.std == pytest.approx(values.std(), rel=1e-3)
    bounds = sorted(set(np.quantile(values, [0.2, 0.4, 0.6, 0.8])))
    assert layout.buckets[0].bounds == pytest.approx(bounds, abs=1e-9)


def test_tables_are_listed_with_version_and_rows(night: Night) -> None:
    listed = {t["table"]: t for t in tables.run(night.settings)}
    assert listed["scores"]["rows"] == len(night.table("scores"))
    assert listed["behaviours"]["version"] is None


def test_rows_of_a_table_are_shown(night: Night) -> None:
    shown = tables.read_table_rows(night.settings, "ledger", "reason != ''", 100)
    assert {r["reason"] for r in shown.rows} == set(night.table("ledger")["reason"]) - {""}
    assert shown.total == len(shown.rows) == (night.table("ledger")["reason"] != "").sum()
    split_rows = tables.read_table_rows(night.settings, "split", None, 1)
    assert split_rows.rows[0]["ints"].endswith("bytes")
    assert (len(split_rows.rows), split_rows.total) == (1, len(night.table("split")))
    with pytest.raises(UserError, match="did you mean `ledger`"):
        tables.read_table_rows(night.settings, "leger", None, 1)
    with pytest.raises(UserError, match="--where nothing = 1"):
        tables.read_table_rows(night.settings, "ledger", "nothing = 1", 1)


def test_features_computed_with_other_settings_are_rejected(night: Night) -> None:
    from star_ctr.conf.errors import DataError

    with pytest.raises(DataError, match="other settings; run `star-ctr features"):
        split.run(load(night.conf, ["features.clicked.length=3"]), night.spark, DS)


# --- no information from the future


def compute_features(settings: Settings, spark: SparkSession) -> pd.DataFrame:
    ingest.run(settings, spark, DS)
    features.run(settings, spark, DS)
    rows = WarehouseTables(settings, spark).read("features").toPandas().set_index("impression_id").sort_index()
    return rows.drop(columns=["settings"]).astype(str)


def test_planted_future_events_change_no_earlier_row(tmp_path: Path, spark: SparkSession) -> None:
    """Add a view with a click, and a late click on an old view. Only later rows may depend on them."""
    plain = small_logs.frames(rows_a_day=60)
    base = compute_features(load(small_logs.write(tmp_path / "base", plain)), spark)
    planted_at = pd.Timestamp("2026-03-03T12:00:00", tz=small_logs.ZONE)
    views, clicks = plain["views"], plain["clicks"]
    seen = pd.to_datetime(views["seen"]).dt.tz_localize(small_logs.ZONE)
    unclicked = views[
        ~views["view"].isin(clicks["view"])
        & (seen > planted_at - pd.Timedelta(hours=20))
        & (seen < planted_at - pd.Timedelta(hours=8))
    ]
    # Choose a visitor who returns before the late click, because such a row would show a click that is used too early.
    again = [
        k for k, row in unclicked.iterrows()
        if ((views["visitor"] == row["visitor"]) & (seen > seen[k]) & (seen < planted_at)).any()
    ]  # fmt: skip
    old = unclicked.loc[again[0]]
    new = {**old.to_dict(), "day": "2026-03-03", "view": "planted", "seen": planted_at.tz_localize(None)}
    planted = {
        "views": pd.concat([views, pd.DataFrame([new])], ignore_index=True),
        "clicks": pd.concat([clicks, pd.DataFrame([(v, planted_at.tz_convert("UTC").isoformat()) for v in ("planted", old["view"])], columns=["view", "at"])]),
    }  # fmt: skip
    changed = compute_features(load(small_logs.write(tmp_path / "planted", planted)), spark).drop("planted")
    before = seen[seen <= planted_at].index
    earlier = views.loc[before, "view"]
    pd.testing.assert_frame_equal(base.loc[earlier], changed.loc[earlier])
    later = base.index.difference(earlier)
    assert (base.loc[later] != changed.loc[later]).any(axis=None), "the planted events should be seen afterwards"
    same_user = views[(views["visitor"] == old["visitor"]) & (seen > planted_at)]["view"]
    assert all(old["sku"] in changed.loc[v, "clicked__item_id"] for v in same_user[:3])


def test_another_seed_is_another_run_next_to_the_first(night: Night) -> None:
    other = load(night.conf, ["trainer.seed=7", "trainer.epochs=2"])  # the ledger counts two epochs once
    for step in (train, score, evaluate):
        step.run(other, night.spark, DS)  # type: ignore[attr-defined]
    metrics = night.table("metrics")
    assert set(metrics["seed"]) == {0, 7}
    trained = night.table("ledger").query("step == 'train'").groupby("run_id")[["rows_in", "rows_out"]].sum()
    assert len(trained) == 2
    assert (trained == int((night.table("split")["part"] == "train").sum())).all(axis=None)
    assert metrics.groupby(["run_id", "domain"]).size().max() == 1
    records: list[dict[str, Any]] = [json.loads(r) for r in night.table("runs")["record"]]
    assert {r["settings"]["trainer"]["seed"] for r in records} == {0, 7}
    assert all(r["versions"]["split"] >= 0 and r["code"] for r in records)


def test_the_ledger_counts_rows_that_were_not_sampled(night: Night) -> None:
    sampled = load(night.conf, ["trainer.negatives={home: 0.2}", "trainer.epochs=2"])
    run_id = train.run(sampled, night.spark, DS)["run_id"]
    ledger = night.table("ledger")
    ledger = ledger[(ledger["step"] == "train") & (ledger["run_id"] == run_id)]
    split_rows = night.table("split").query("part == 'train'")
    home = split_rows[split_rows["domain"] == "home"]
    left_out = ledger[ledger["reason"] == NOT_SAMPLED]
    assert set(left_out["domain"]) == {"home"}
    assert 0.6 * (home["label"] == 0).sum() < left_out["rows_in"].sum() < (home["label"] == 0).sum()
    assert left_out["rows_out"].sum() == 0
    assert ledger["rows_in"].sum() == len(split_rows)
    kept = ledger[ledger["reason"] == ""]
    assert (kept["rows_in"] == kept["rows_out"]).all()
