"""Labels by day: they are open until the attribution window has closed, and metrics are provisional until then."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest, split
from star_ctr.jobs.evaluate import NO_INTERVALS, ScoredRun, evaluate_runs
from star_ctr.jobs.history.final_metrics import write_final_metrics
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.label_records import find_labels_of_other_nights
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.score import SCORE_COLUMNS
from tests.conftest import on_request
from tests.jobs.history.random_logs import ZONE, RandomLogs

pytestmark = pytest.mark.spark
DAYS = list_days("2026-03-01", "2026-03-05")
WINDOW = pd.Timedelta(hours=30)
FEATURES = [
    {"name": "sku", "kind": "categorical", "column": "item_id"},
    {"name": "by_sku", "kind": "statistic", "by": ["item_id"], "counts": ["click"]},
]
"""Few features, because these tests are about labels."""


@pytest.fixture
def logs(tmp_path: Path) -> RandomLogs:
    """Logs of five days, and settings with a window that is longer than a day."""
    logs = RandomLogs(tmp_path / "logs", 7, DAYS, rows=60)
    for day in DAYS:
        logs.write(day)
    return logs


def configure(logs: RandomLogs, warehouse: Path, **label: object) -> Settings:
    return logs.configure(
        warehouse,
        label={"window_hours": WINDOW / pd.Timedelta(hours=1), **label},
        history={"click": {"outcome": "label"}},
        features=FEATURES,
    )


def run_night(conf: Settings, spark: SparkSession, ds: str) -> None:
    ingest.run(conf, spark, ds)
    features.run(conf, spark, ds)


def read(conf: Settings, table: str) -> pd.DataFrame:
    return pd.DataFrame(read_rows(f"{conf.paths.warehouse}/{table}"))


def compute_labels(conf: Settings, ds: str, days: list[str]) -> pd.DataFrame:
    """Compute the labels of days from the ingested impressions and clicks up to day `ds`, with pandas."""
    shown, clicks = read(conf, "impressions"), read(conf, "clicks")
    clicks = clicks[clicks["ds"] <= ds]
    end = pd.Timestamp(ds, tz=ZONE) + pd.Timedelta(days=1)
    rows = []
    for row in shown[shown["ds"].isin(days)].itertuples():
        if row.impression_id.startswith("again"):
            continue  # ids that are used every day are tested with the attribution
        delay = clicks.loc[clicks["impression_id"] == row.impression_id, "ts"] - row.ts
        is_clicked = delay.between(pd.Timedelta(0), WINDOW).any()
        rows.append((row.ds, row.impression_id, float(is_clicked), row.ts + WINDOW <= end))
    return pd.DataFrame(rows, columns=["ds", "impression_id", "label", "is_final"]).sort_values(
        ["ds", "impression_id"], ignore_index=True
    )


def read_labels(conf: Settings, days: list[str]) -> pd.DataFrame:
    rows = read(conf, "labels").query("ds in @days and not impression_id.str.startswith('again')")
    return rows.sort_values(["ds", "impression_id"], ignore_index=True)


def test_labels_are_final_when_their_window_has_closed(logs: RandomLogs, tmp_path: Path, spark: SparkSession) -> None:
    """Each night recomputes the labels that were open, even before its window, and leaves the others as they are."""
    conf = configure(logs, tmp_path / "w")
    conf = conf.model_validate(conf.model_dump(mode="json") | {"window": {"days": 1}})
    columns = ["ds", "impression_id", "label", "is_final"]
    opened = {}
    for k, ds in enumerate(DAYS[1:4], start=1):
        run_night(conf, spark, ds)
        days = DAYS[max(0, k - 2) : k + 1]
        found = read_labels(conf, days)
        pd.testing.assert_frame_equal(found[columns], compute_labels(conf, ds, days), obj=ds)
        opened[ds] = found.groupby("ds")["is_final"].mean().to_dict()
        assert set(found["as_of"][~found["is_final"]]) == {ds}
    assert opened[DAYS[1]][DAYS[1]] < 0.2  # some times are of the day before
    assert 0 < opened[DAYS[1]][DAYS[0]] < 1
    assert opened[DAYS[2]][DAYS[0]] == 1
    files = {uri for uri in DeltaTable(f"{conf.paths.warehouse}/labels").file_uris() if f"ds={DAYS[1]}" in uri}
    features.run(conf, spark, DAYS[3])
    assert files == {uri for uri in DeltaTable(f"{conf.paths.warehouse}/labels").file_uris() if f"ds={DAYS[1]}" in uri}
    # An older night that runs again has the labels of its own time.
    features.run(conf, spark, DAYS[1])
    pd.testing.assert_frame_equal(read_labels(conf, DAYS[:2])[columns], compute_labels(conf, DAYS[1], DAYS[:2]))


@pytest.mark.slow
@on_request
def test_labels_after_an_outage_and_after_a_kill(
    logs: RandomLogs, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night that follows a gap reads the clicks of the gap, and renews labels whose record a kill has removed."""
    columns = ["ds", "impression_id", "label", "is_final"]
    conf = configure(logs, tmp_path / "gap")
    conf = conf.model_validate(conf.model_dump(mode="json") | {"window": {"days": 1}})
    for ds in (DAYS[1], DAYS[4]):
        run_night(conf, spark, ds)
    days = [DAYS[0], DAYS[1], DAYS[4]]
    labels = compute_labels(conf, DAYS[4], days)
    pd.testing.assert_frame_equal(read_labels(conf, days)[columns], labels)
    assert set(read(conf, "clicks")["ds"]) == set(DAYS)
    killed = conf.model_copy(update={"paths": conf.paths.model_copy(update={"warehouse": str(tmp_path / "killed")})})
    run_night(killed, spark, DAYS[1])
    write = DayRecords.write

    def fail(records: DayRecords, part: str, found: dict) -> None:
        if part == "labels":
            raise OSError("killed")
        write(records, part, found)

    ingest.run(killed, spark, DAYS[2])
    with monkeypatch.context() as patch:
        patch.setattr(DayRecords, "write", fail)
        with pytest.raises(OSError, match="killed"):
            features.run(killed, spark, DAYS[2])
    assert "" in find_labels_of_other_nights(killed, DAYS[2], DAYS[1:3]).values(), "a split would accept these labels"
    for ds in DAYS[3:]:
        run_night(killed, spark, ds)
    labels = compute_labels(killed, DAYS[4], DAYS[:4])
    pd.testing.assert_frame_equal(read_labels(killed, DAYS[:4])[columns], labels)


@pytest.mark.slow
def test_training_rows_with_open_labels_are_left_out_or_counted(
    logs: RandomLogs, tmp_path: Path, spark: SparkSession
) -> None:
    conf = configure(logs, tmp_path / "w")
    run_night(conf, spark, DAYS[3])
    final = read(conf, "labels").query("ds < @DAYS[3]")["is_final"]
    is_open = int((~final).sum())
    assert 0 < is_open < len(final)
    for choice, left_out in (("drop", is_open), ("keep", 0)):
        chosen = configure(logs, tmp_path / "w", open=choice)
        assert split.run(chosen, spark, DAYS[3])["train"] == len(final) - left_out
        rows = read(conf, "split").query("part == 'train'")
        assert (~rows["label_final"]).sum() == is_open - left_out
        ledger = read(conf, "ledger").query("step == 'split.train' and reason == 'label still open'")
        assert (ledger["rows_in"].sum(), ledger["rows_out"].sum()) == (is_open, is_open - left_out)
    # A later night knows more clicks.
    run_night(conf, spark, DAYS[4])
    with pytest.raises(DataError, match=r"the labels of 2026-03-0\d are those of night 2026-03-05"):
        split.run(conf, spark, DAYS[3])
    short = chosen.model_validate(configure(logs, tmp_path / "w").model_dump(mode="json") | {"window": {"days": 1}})
    late = short.model_validate(short.model_dump(mode="json") | {"label": {"window_hours": 72}})
    features.run(late, spark, DAYS[3])
    with pytest.raises(
        DataError, match=r"of all \d+ training rows of night 2026-03-04 are still open; set a window\.days"
    ):
        split.run(late, spark, DAYS[3])


@pytest.mark.slow
def test_final_metrics_are_written_when_labels_are_final(
    logs: RandomLogs, tmp_path: Path, spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    for day in DAYS:  # without times of other days, all windows of a day have closed two days later
        file = logs.folder / "views" / day / "part.csv"
        views = pd.read_csv(file, dtype=str, keep_default_na=False)
        views.assign(at=day + views["at"].str[10:]).to_csv(file, index=False)
    conf = configure(logs, tmp_path / "w")
    store = WarehouseTables(conf, spark)
    run_night(conf, spark, DAYS[2])
    rng = np.random.default_rng(0)

    def score(run_id: str, ds: str) -> pd.DataFrame:
        """Write scores of a day, and their metrics."""
        shown = read(conf, "features").query("ds == @ds")[["impression_id", "user_id", "domain", "ds"]]
        rows = shown.merge(read(conf, "labels").query("ds == @ds")[["impression_id", "label", "is_final"]])
        rows = rows.rename(columns={"is_final": "label_final"}).assign(run_id=run_id, score=rng.random(len(rows)))
        frame = spark.createDataFrame(rows.assign(attempt=1)[list(SCORE_COLUMNS)])
        store.replace("scores", frame, make_in_condition("run_id", [run_id]))
        evaluate_runs(store, [ScoredRun(run_id, 1, ds, "star", 0)])
        return rows

    rows = score("night", DAYS[2])
    score("other", DAYS[2])
    provisional = read(conf, "metrics").query("run_id == 'night' and domain == 'overall'").iloc[0]
    assert provisional["open_labels"] == (~rows["label_final"]).sum() > len(rows) / 2
    assert write_final_metrics(store, DAYS[2], NO_INTERVALS) == []
    run_night(conf, spark, DAYS[3])
    assert write_final_metrics(store, DAYS[3], NO_INTERVALS) == []  # a window of 30 hours is still open
    run_night(conf, spark, DAYS[4])
    store.replace("scores", store.read("scores").limit(0), make_in_condition("run_id", ["other"]))
    with caplog.at_level(logging.WARNING):
        assert write_final_metrics(store, DAYS[4], NO_INTERVALS) == ["night"]
    assert "no final metrics for other: scores or labels are missing" in caplog.text
    final = read(conf, "final_metrics").query("domain == 'overall'").iloc[0]
    labels = rows[["impression_id", "score"]].merge(read(conf, "labels").query("ds == @DAYS[2]"))
    assert final["clicks"] == labels["label"].sum() > provisional["clicks"]
    assert final["auc"] == pytest.approx(roc_auc_score(labels["label"], labels["score"]), abs=1e-12)
    assert final["pcoc"] == pytest.approx(labels["score"].sum() / labels["label"].sum(), abs=1e-12)
    assert (final["as_of"], final["attempt"]) == (DAYS[4], 1)
    assert write_final_metrics(store, DAYS[4], NO_INTERVALS) == []
    # Labels that have changed since give other final metrics.
    records = DayRecords(conf)
    record = records.read("labels")[DAYS[2]]
    records.write("labels", {DAYS[2]: record._replace(outputs=record.outputs | {"rows": "other"})})
    assert write_final_metrics(store, DAYS[4], NO_INTERVALS) == ["night"]
    other = configure(logs, tmp_path / "w", window_hours=29)
    assert write_final_metrics(WarehouseTables(other, spark), DAYS[4], NO_INTERVALS) == []
    # A run that is evaluated again gets its final metrics again.
    evaluate_runs(store, [ScoredRun("night", 1, DAYS[2], "star", 0)])
    assert read(conf, "final_metrics").empty
    assert write_final_metrics(store, DAYS[4], NO_INTERVALS) == ["night"]
    store.replace("labels", store.read("labels").limit(0), make_in_condition("ds", [DAYS[2]]))
    with pytest.raises(DataError, match="0 labels for the .* rows of 2026-03-03"):
        split.run(conf, spark, DAYS[4])
