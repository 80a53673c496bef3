"""Further outcomes from the logs to their metrics: a column with missing values, and events with a window of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import evaluate, features, gate, ingest, score, split, train
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.tools import batch_score, metrics_by_day
from star_ctr.workflows.report.data import collect
from star_ctr.workflows.report.page import render
from tests import small_logs

pytestmark = pytest.mark.spark
DAYS = ("2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05")
NIGHTS = DAYS[2:]
ORDER_WINDOW = pd.Timedelta(hours=40)
ALSO = {
    "saved": {"column": "is_saved", "weight": 0.3},
    "order": {"window_hours": ORDER_WINDOW / pd.Timedelta(hours=1), "weight": 0.5},
}
EVENTS = {
    "path": "orders/{ds}.jsonl",
    "format": "json",
    "impression": "view",
    "event": "what",
    "time": {"column": "at", "unit": "timestamp"},
}


def make_logs() -> dict[str, pd.DataFrame]:
    """Make impressions with a column that is missing in a third of the rows, and orders up to 60 hours later."""
    logs, rng = small_logs.frames(days=DAYS, rows_a_day=400), np.random.default_rng(9)
    views = logs["views"]
    views["is_saved"] = rng.choice(["1", "0", ""], len(views), p=[0.3, 0.4, 0.3])
    views.loc[[5, 405, 1205], "is_saved"] = "maybe"
    seen = views["seen"].dt.tz_localize(small_logs.ZONE)
    bought = rng.random(len(views)) < np.where(views["sku"].isin(["s0", "s1"]), 0.5, 0.1)
    events = pd.DataFrame({"view": views["view"], "seen": seen, "what": np.where(bought, "order", "return")})
    events["at"] = events["seen"] + pd.to_timedelta(rng.uniform(0, 60, len(events)), "h")
    events = events[bought | (rng.random(len(views)) < 0.1)]
    # An order before its impression, one without an impression, and a second one.
    early = events.head(1).assign(at=events["seen"].head(1) - pd.Timedelta(hours=1), what="order")
    logs["orders"] = pd.concat([events, early, early.assign(view="unseen"), events.iloc[2:3]], ignore_index=True)
    return logs


def write(folder: Path, also: dict[str, object] = ALSO, logs: dict[str, pd.DataFrame] | None = None) -> Settings:
    """Write the logs, if they are given, and settings with outcomes; `folder` also contains the warehouse."""
    source = folder / "logs" if logs is not None else folder.parent / "one" / "logs"
    if logs is not None:
        small_logs.write(folder, {name: logs[name] for name in ("views", "clicks")})
        (source / "orders").mkdir(exist_ok=True)
        orders = logs["orders"]
        day = orders["at"].dt.tz_convert(small_logs.ZONE).dt.strftime("%Y-%m-%d")
        for name in {*DAYS, *day}:
            rows = orders[day == name].assign(at=lambda f: f["at"].dt.tz_convert("UTC").map(pd.Timestamp.isoformat))
            rows[["view", "what", "at"]].to_json(source / "orders" / f"{name}.jsonl", orient="records", lines=True)
    conf = {**small_logs.CONF, "paths": {"logs": str(source), "warehouse": str(folder / "warehouse")}}
    conf["logs"] = {**small_logs.CONF["logs"], "events": EVENTS}
    conf["label"] = {"window_hours": 24, "also": also}
    conf["features"] = [f for f in small_logs.CONF["features"] if f["kind"] in ("categorical", "numeric")]
    conf["checks"] = {"max_quarantined": 0.1}
    conf["gate"] = {"min_rows": 0, "min_clicks": 0, "pcoc": [0.01, 100.0], "gauc_margin": 1.0, "drop_margin": 1.0}
    folder.mkdir(exist_ok=True)
    (folder / "shop.yaml").write_text(yaml.safe_dump(conf, sort_keys=False))
    return load(folder / "shop.yaml")


def read(conf: Settings, table: str) -> pd.DataFrame:
    return pd.DataFrame(read_rows(f"{conf.paths.warehouse}/{table}"))


def compute_outcomes(logs: dict[str, pd.DataFrame], ds: str) -> pd.DataFrame:
    """Compute the outcomes that are known at the end of day `ds` with a loop over the rows of the logs."""
    end = pd.Timestamp(ds, tz=small_logs.ZONE) + pd.Timedelta(days=1)
    orders = logs["orders"][(logs["orders"]["what"] == "order") & (logs["orders"]["at"] < end)]
    rows = []
    for view in logs["views"].itertuples():
        if view.is_saved == "maybe" or view.day > ds:
            continue
        seen = view.seen.tz_localize(small_logs.ZONE)
        delay = orders.loc[orders["view"] == view.view, "at"] - seen
        ordered = float(delay.between(pd.Timedelta(0), ORDER_WINDOW).any())
        saved = {"1": 1.0, "0": 0.0}.get(view.is_saved, np.nan)
        rows.append((view.day, view.view, saved, ordered if seen + ORDER_WINDOW <= end else np.nan))
    columns = ["ds", "impression_id", "outcome_saved", "outcome_order"]
    return pd.DataFrame(rows, columns=columns).sort_values(["ds", "impression_id"], ignore_index=True)


def read_outcomes(conf: Settings, until: str) -> pd.DataFrame:
    rows = read(conf, "labels")[["ds", "impression_id", "outcome_saved", "outcome_order"]]
    return rows[rows["ds"] <= until].sort_values(["ds", "impression_id"], ignore_index=True)


@pytest.fixture(scope="module")
def logs() -> dict[str, pd.DataFrame]:
    return make_logs()


@pytest.fixture(scope="module")
def nights(
    logs: dict[str, pd.DataFrame], spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, dict[str, dict[str, pd.DataFrame]]]:
    """Run three nights. Returns the settings, and the labels, metrics and outcome metrics after each night."""
    conf = write(tmp_path_factory.mktemp("nights") / "one", logs=logs)
    found = {}
    for ds in NIGHTS:
        for step in (ingest, features, split, train, score, evaluate, gate):
            step.run(conf, spark, ds)
        tables = {name: read(conf, name) for name in ("outcome_metrics", "final_metrics", "metrics")}
        found[ds] = {**tables, "outcomes": read_outcomes(conf, ds), "split": read(conf, "split")}
    return conf, found


Nights = tuple[Settings, dict[str, dict[str, pd.DataFrame]]]


@pytest.mark.slow
def test_outcomes_are_null_until_they_are_known(nights: Nights, logs: dict[str, pd.DataFrame]) -> None:
    conf, found = nights
    for ds in NIGHTS:
        pd.testing.assert_frame_equal(found[ds]["outcomes"], compute_outcomes(logs, ds))
    assert found[NIGHTS[0]]["outcomes"]["outcome_order"].isna().sum() > 400
    reasons = read(conf, "quarantine").groupby("reason").size().to_dict()
    assert reasons == {"is_saved: outcome is neither `positive` nor `negative`": 3}


@pytest.mark.slow
def test_nights_one_by_one_equal_a_single_night(nights: Nights, spark: SparkSession) -> None:
    conf, _ = nights
    whole = write(Path(conf.paths.warehouse).parents[1] / "whole")
    for step in (ingest, features):
        step.run(whole, spark, DAYS[-1])
    labels = read(whole, "labels")
    days = sorted(labels["ds"].unique())
    assert len(days) == 4
    one = read(conf, "labels")
    columns = ["ds", "impression_id", "label", "is_final", "outcome_saved", "outcome_order"]
    rows = [
        frame[frame["ds"].isin(days)][columns].sort_values(["ds", "impression_id"], ignore_index=True)
        for frame in (one, labels)
    ]
    pd.testing.assert_frame_equal(*rows)


@pytest.mark.slow
def test_the_split_has_the_outcomes_and_the_ledger_counts_those_not_known(nights: Nights) -> None:
    conf, found = nights
    for ds in NIGHTS:
        rows = found[ds]["split"]
        rows = rows[(rows["ds"] == ds) & (rows["part"] == "train")]
        stored = np.array([np.frombuffer(packed, np.float32) for packed in rows["outcomes"]])
        expected = found[ds]["outcomes"].set_index("impression_id").loc[rows["impression_id"]]
        np.testing.assert_array_equal(stored, expected[["outcome_order", "outcome_saved"]].to_numpy(np.float32))
    ledger = read(conf, "ledger")
    for name, column in (("order", 0), ("saved", 1)):
        entries = ledger[(ledger["step"] == f"split.train.{name}") & (ledger["ds"] == NIGHTS[-1])]
        assert entries["rows_in"].sum() == len(rows)
        assert entries["rows_out"].sum() == (~np.isnan(stored[:, column])).sum() > 0
        assert set(entries["reason"]) == {"", "outcome not known yet"}
    orders = ledger[ledger["step"] == "attribute.order"]
    assert {"event before its impression", "event without impression", ""} <= set(orders["reason"])


@pytest.mark.slow
def test_metrics_of_an_outcome_are_written_once_its_windows_have_closed(nights: Nights) -> None:
    conf, found = nights
    written = {
        ds: set(zip(rows["ds"], rows["outcome"], strict=True))
        for ds, rows in ((ds, found[ds]["outcome_metrics"]) for ds in NIGHTS)
    }
    first, second, third = NIGHTS
    assert written[first] == {(first, "saved")}
    assert written[second] == {(first, "saved"), (second, "saved")}
    assert written[third] == {*((ds, "saved") for ds in NIGHTS), (first, "order")}
    # The label has a shorter window. Its final metrics do not wait for the orders.
    assert set(found[second]["final_metrics"]["ds"]) == {first}
    assert set(found[third]["final_metrics"]["as_of"]) == {second, third}
    scores, metrics = read(conf, "scores"), found[third]["outcome_metrics"]
    for ds, outcome in ((first, "order"), (second, "saved")):
        rows = scores[scores["run_id"] == make_run_id(conf, ds)].merge(
            compute_outcomes(make_logs(), third), on=["ds", "impression_id"]
        )
        rows = rows[rows[f"outcome_{outcome}"].notna()]
        predicted = rows["outcome_scores"].map(lambda pairs, name=outcome: dict(pairs)[name])
        mine = metrics[(metrics["ds"] == ds) & (metrics["outcome"] == outcome)].set_index("domain")
        overall = mine.loc["overall"]
        assert overall["rows"] == len(rows)
        assert overall["clicks"] == rows[f"outcome_{outcome}"].sum()
        assert overall["auc"] == pytest.approx(roc_auc_score(rows[f"outcome_{outcome}"], predicted), abs=1e-12)
        assert overall["pcoc"] == pytest.approx(predicted.sum() / overall["clicks"], rel=1e-6)
        assert mine.drop("overall")["rows"].sum() == len(rows)
    assert (metrics["outcome"] == "saved").sum() == 3 * len(mine)


@pytest.mark.slow
def test_the_serving_model_is_scored_on_the_next_night(nights: Nights) -> None:
    conf, _ = nights
    scores, first = read(conf, "scores"), make_run_id(conf, NIGHTS[0])
    mine = scores[scores["run_id"] == f"{first}@{NIGHTS[1]}"]
    assert len(mine) == (scores["run_id"] == make_run_id(conf, NIGHTS[1])).sum() > 0
    assert mine["outcome_scores"].isna().all()


@pytest.mark.slow
def test_batch_scores_equal_those_of_the_night(nights: Nights, spark: SparkSession, tmp_path: Path) -> None:
    conf, _ = nights
    run_id, target = make_run_id(conf, NIGHTS[-1]), str(tmp_path / "scored")
    where = f"ds = '{NIGHTS[-1]}' AND part = 'test'"
    source = f"{conf.paths.warehouse}/split"
    batch_score.run(conf, spark, run_id=run_id, source=source, target=target, where=where, encoded=True)
    scores = read(conf, "scores").query("run_id == @run_id")
    both = pd.DataFrame(read_rows(target)).merge(scores, on="impression_id", suffixes=("", "_night"))
    assert len(both) == len(scores)
    np.testing.assert_allclose(both["score"], both["score_night"], atol=1e-6)
    for name in ALSO:
        values = [
            both[c].map(lambda pairs, name=name: dict(pairs)[name]) for c in ("outcome_scores", "outcome_scores_night")
        ]
        np.testing.assert_allclose(*values, atol=1e-6)


@pytest.mark.slow
def test_metrics_and_report_show_the_outcomes(nights: Nights) -> None:
    conf, found = nights
    rows = metrics_by_day.run(conf, "auc", outcome="order")
    stored = found[NIGHTS[-1]]["outcome_metrics"].query("outcome == 'order'").set_index("domain")["auc"]
    assert {row["domain"]: row["value"] for row in rows} == pytest.approx(stored.to_dict(), nan_ok=True)
    assert {row["ds"] for row in rows} == {NIGHTS[0]}
    with pytest.raises(UserError, match=r"--outcome ordr: .*did you mean `order`"):
        metrics_by_day.run(conf, "auc", outcome="ordr")
    page = render(collect(conf, NIGHTS[-1]), "test")
    assert "Further outcomes" in page
    assert f"{stored['overall']:.4f}" in page


@pytest.mark.slow
def test_another_weight_needs_no_new_split_but_another_window_does(nights: Nights, spark: SparkSession) -> None:
    conf, _ = nights
    folder = Path(conf.paths.warehouse).parent
    heavier = write(folder, {**ALSO, "saved": {"column": "is_saved", "weight": 1.0}})
    before = len(read(conf, "runs"))
    train.run(heavier, spark, NIGHTS[-1])
    assert make_run_id(heavier, NIGHTS[-1]) != make_run_id(conf, NIGHTS[-1])
    assert len(read(conf, "runs")) == before + 1
    longer = write(folder, {**ALSO, "order": {"window_hours": 60}})
    with pytest.raises(DataError, match="label.also; run `star-ctr features"):
        split.run(longer, spark, NIGHTS[-1])


@pytest.mark.slow
def test_one_night_has_the_outcomes_that_are_known(
    logs: dict[str, pd.DataFrame], spark: SparkSession, tmp_path: Path
) -> None:
    conf, ds = write(tmp_path / "one", logs=logs), NIGHTS[1]
    for step in (ingest, features, split):
        step.run(conf, spark, ds)
    expected = compute_outcomes(logs, ds)
    pd.testing.assert_frame_equal(read_outcomes(conf, ds), expected)
    rows = read(conf, "split").query("part == 'train'")
    stored = np.array([np.frombuffer(packed, np.float32) for packed in rows["outcomes"]])
    known = expected.set_index("impression_id").loc[rows["impression_id"], ["outcome_order", "outcome_saved"]]
    np.testing.assert_array_equal(stored, known.to_numpy(np.float32))
    assert np.isnan(stored).any(axis=0).all()
    unknown = write(tmp_path / "one", {"order": {"event": "Order", "window_hours": 40}}, logs=logs)
    with pytest.raises(DataError, match=r"no event `Order` up to 2026-03-04 \(found: order, return\)"):
        features.run(unknown, spark, ds)


def test_a_missing_column_is_one_clear_error(
    logs: dict[str, pd.DataFrame], spark: SparkSession, tmp_path: Path
) -> None:
    conf = write(tmp_path / "one", {"kept": 0.3}, logs=logs)
    with pytest.raises(DataError, match="no column `kept`"):
        ingest.run(conf, spark, NIGHTS[0])
