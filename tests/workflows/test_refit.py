"""A refit: the promoted model is retrained with the day of its evaluation included, and served instead."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import REFIT_TABLES, WEIGHTS_FILE
from star_ctr.conf.contracts.run_id import make_refit_run_id, make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.jobs import features, gate, refit, split
from star_ctr.jobs.history import labels
from star_ctr.jobs.io.day_records import forget_days
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import get_published_attempt
from star_ctr.jobs.registry.decisions import Decisions, Outcome, find_serving
from star_ctr.jobs.tools import replay, vacuum
from star_ctr.workflows import backfill
from tests import small_logs
from tests.published import newest_folder
from tests.workflows.small_night import DS, Night

pytestmark = pytest.mark.spark

BEFORE = small_logs.DAYS[-2]


def read_encoded(store: WarehouseTables, table: str, ds: str) -> pd.DataFrame:
    rows = store.read(table).where(f"ds = '{ds}' AND part = 'train'").drop("ds").toPandas()
    return rows.sort_values("impression_id", ignore_index=True)


def test_a_refit_has_the_training_rows_of_the_next_night(
    night: Night, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Use the features and labels that the next night wrote, which include all later clicks.
    monkeypatch.setattr(labels, "find_labels_of_other_nights", lambda *_: {})
    totals = split.write_split(night.settings, spark, BEFORE, REFIT_TABLES)
    store = WarehouseTables(night.settings, spark)
    refit_rows, night_rows = read_encoded(store, REFIT_TABLES.split, BEFORE), read_encoded(store, "split", DS)
    assert BEFORE in set(refit_rows["day"])
    pd.testing.assert_frame_equal(refit_rows[night_rows.columns], night_rows)
    assert totals == {"train": len(night_rows), "test": 0}
    ids = ("refit_vocabularies", BEFORE), ("vocabularies", DS)
    refit_rows, night_rows = (
        store.read(table)
        .where(f"ds = '{ds}'")
        .drop("ds")
        .toPandas()
        .sort_values(["embedding", "id"], ignore_index=True)
        for table, ds in ids
    )
    pd.testing.assert_frame_equal(refit_rows, night_rows)
    ledger = night.table("ledger")
    refit_entries = ledger[ledger["step"] == "refit_split.train"]
    assert refit_entries["rows_out"].sum() == totals["train"]


def test_no_refit_runs_unless_it_is_configured(night: Night, spark: SparkSession) -> None:
    result = refit.run(night.settings, spark, DS)
    assert (result["outcome"], result["reason"]) == ("nothing to refit", "gate.publish is evaluated")
    with pytest.raises(UserError, match=r"gate\.publish: a refit is trained from scratch"):
        load(night.conf, ["gate.publish=refit", "label.open=keep", "trainer.warm_start=accepted"])


@pytest.mark.slow
def test_nights_that_serve_refits(tmp_path: Path, spark: SparkSession) -> None:
    conf = small_logs.write(tmp_path, small_logs.frames(), small_logs.FEW_FEATURES)
    # Models of these logs differ by chance, so promote all of them.
    gate_settings = ["gate.publish=refit", "gate.min_rows=0", "gate.min_clicks=0", "gate.domain_rows=1000000"]
    gate_settings += ["gate.gauc_margin=1", "gate.drop_margin=1", "gate.pcoc=[0.01,100]"]
    settings = load(conf, ["window.days=2", "label.open=keep", *gate_settings])
    report = backfill.run(settings, spark, BEFORE, DS)
    assert [r["step"] for r in report if r["ds"] == DS][-1] == "refit"
    names = {ds: make_run_id(settings, ds) for ds in (BEFORE, DS)}
    decided = Decisions(settings).read_all()
    first, refitted, second = decided[:3]
    assert (first.run_id, first.outcome, first.reference_run_id) == (names[BEFORE], Outcome.PROMOTED, "")
    assert (refitted.run_id, refitted.outcome, refitted.reference_run_id) == (
        make_refit_run_id(names[BEFORE]),
        Outcome.REFIT,
        names[BEFORE],
    )
    assert (second.run_id, second.reference_run_id) == (names[DS], make_refit_run_id(names[BEFORE])), (
        "compared with the serving refit"
    )
    assert second.outcome is Outcome.PROMOTED, second.reason
    assert {r["domain"] for r in second.evidence["differences"]} > {"overall"}

    # The serving model was trained on the day, according to the pointer, the record and its training rows.
    now = find_serving(decided)
    assert now is not None
    pointer = json.loads((Path(settings.paths.warehouse) / "serving.json").read_text())
    assert pointer["run_id"] == now.run_id
    store = WarehouseTables(settings, spark)
    record = get_published_attempt(store.warehouse, make_refit_run_id(names[BEFORE])).record()
    seen = store.read("refit_split", record["versions"]["split"]).where(f"ds = '{BEFORE}'").toPandas()
    assert set(seen["day"]) == {small_logs.DAYS[1], BEFORE}
    assert sum(record["rows"].values()) == len(seen) * settings.trainer.epochs

    # A repeated refit changes nothing: same rows, same bits, no new decision. After new features, the rows are written again.
    version, weights = store.get_version("refit_split"), newest_folder(settings, now.run_id) / WEIGHTS_FILE
    bits = weights.read_bytes()
    assert refit.run(settings, spark, DS)["serving"] == now.run_id
    assert (store.get_version("refit_split"), weights.read_bytes()) == (version, bits)
    assert len(Decisions(settings).read_all()) == len(decided)
    assert {r["action"] for r in backfill.run(settings, spark, BEFORE, DS)} == {"kept"}
    forget_days(settings, "features")  # write the same features again
    features.run(settings, spark, DS)
    refit.run(settings, spark, DS)
    assert store.get_version("refit_split") > version
    assert weights.read_bytes() == bits, "the features have not changed"
    assert len(Decisions(settings).read_all()) == len(decided)

    # The refit does not run again, and a replay after cleaning trains the same bits.
    assert {r["action"] for r in backfill.run(settings, spark, BEFORE, DS)} == {"kept"}
    assert gate.run(settings, spark, BEFORE)["outcome"] == "nothing to decide"
    assert len(Decisions(settings).read_all()) == len(decided)
    features.run(settings, spark, BEFORE)  # the labels of this night
    split.write_split(settings, spark, BEFORE, REFIT_TABLES)
    vacuum.vacuum_files(settings, vacuum.plan_removals(settings).kept, 0)
    again = replay.run(settings, spark, make_refit_run_id(names[BEFORE]))
    assert again["weights"] == "the same bits"
    assert again["metrics"].startswith("none")
