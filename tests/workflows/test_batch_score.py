"""Batch scoring: rows of any table get the same scores as in the night, or as they would have had in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from delta.tables import DeltaTable
from deltalake import DeltaTable as Deltalake
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.jobs import features, ingest, split
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import get_published_attempt
from star_ctr.jobs.registry.predictor_cache import describe_model
from star_ctr.jobs.tools import batch_score
from star_ctr.model.score_checks import TOLERANCE
from star_ctr.workflows import nightly
from tests import small_logs
from tests.conftest import on_request

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DS, LATER = small_logs.DAYS[-2:]


class Nights:
    """A night, and the tables of a later night, which must not affect scores of the run of the first night."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        self.folder, self.spark = folder, spark
        logs = small_logs.frames()
        views = logs["views"]
        test_day = views[views["day"] == DS]
        views.loc[test_day.index[:4], "sku"] = "s-new"  # unknown in the first night, known in the second
        views.loc[test_day.index[4:7], "surface"] = "kiosk"
        self.day = views[views["day"] == DS].drop(columns="day").reset_index(drop=True)
        bad = self.day.sample(5, random_state=2).assign(visitor=None, view=[f"bad-{k}" for k in range(5)], day=DS)
        untimed = self.day.sample(2, random_state=3).assign(seen=pd.NaT, view=["never-0", "never-1"], day=DS)
        homeless = self.day.head(1).assign(surface=None, view="homeless", day=DS)
        twice = self.day.tail(3).assign(day=DS)
        conflict = self.day.head(1).assign(slot=99, day=DS)
        logs["views"] = pd.concat([views, bad, untimed, homeless, twice, conflict], ignore_index=True)
        self.conf = small_logs.write(folder, logs)
        self.settings = load(self.conf, ["trainer.epochs=3"])
        nightly.run(self.settings, spark, DS)
        for step in (ingest, features, split):
            step.run(self.settings, spark, LATER)  # type: ignore[attr-defined]
        self.run_id = make_run_id(self.settings, DS)
        self.input = str(folder / "logs" / "views" / f"{DS.replace('-', '')}.parquet")
        scores = WarehouseTables(self.settings, spark).read("scores").toPandas()
        self.scores = scores[scores["run_id"] == self.run_id].set_index("impression_id").sort_index()

    def score(self, source: str, target: str, **more: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        target = str(self.folder / target)
        report = batch_score.run(self.settings, self.spark, run_id=self.run_id, source=source, target=target, **more)
        return report, read(target)

    def write(self, name: str, rows: pd.DataFrame) -> str:
        rows.to_parquet(self.folder / name, index=False)
        return str(self.folder / name)


def read(table: str) -> pd.DataFrame:
    found = Deltalake(table).to_pyarrow_table().to_pandas()
    return found.set_index("impression_id").sort_index() if "impression_id" in found else found


def assert_same_scores(found: pd.DataFrame, night: pd.DataFrame) -> None:
    assert list(found.index) == list(night.index)
    for column in ("user_id", "domain", "run_id"):
        assert (found[column] == night[column]).all(), column
    np.testing.assert_allclose(found["score"], night["score"], rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Nights:
    return Nights(tmp_path_factory.mktemp("bulk"), spark)


def test_raw_rows_of_the_test_day_have_the_scores_of_the_night(nights: Nights) -> None:
    report, found = nights.score(nights.input, "raw")
    assert nights.scores["score"].std() > 0.01, "the test requires scores that differ"
    assert set(nights.scores["domain"]) == {"home", "search", "mail", "other"}
    assert_same_scores(found, nights.scores)
    assert list(found.reset_index().columns) == ["impression_id", "run_id", "user_id", "domain", "score"]
    assert report["reasons"] == {
        "visitor: missing": 5, "seen: no usable time": 2, "surface: missing": 1, "duplicate": 3,
        "impression_id: used by two different rows": 1,
    }  # fmt: skip
    assert report["rows"] == len(pd.read_parquet(nights.input)) == report["scored"] + report["left_out"]
    assert report["scored"] == len(nights.scores)
    left_out = read(report["rejected"])
    assert len(left_out) == report["left_out"] == 12
    assert set(left_out["run_id"]) == {nights.run_id}
    bad = [json.loads(row) for row in left_out.query("reason == 'visitor: missing'")["row"]]
    assert {row["view"] for row in bad} == {f"bad-{k}" for k in range(5)}
    assert all("slot" in row and "visitor" not in row for row in bad)


def test_rows_that_were_not_shown_are_scored_like_impressions(nights: Nights) -> None:
    """Candidates with new ids in a Delta table, without a label. They are not part of the history of each other."""
    table = str(nights.folder / "candidates")
    rows = nights.day.iloc[1:]  # the log has two rows with the id of the first one
    rows = rows.assign(view="c-" + rows["view"], seen=rows["seen"].dt.tz_localize(small_logs.ZONE))
    for n in (1, len(rows)):
        write_deltalake(table, rows.head(n).reset_index(drop=True), mode="overwrite")
    carried = ["slot", "surface", "seen", "visitor"]
    report, found = nights.score(table, "candidates-scored", where="slot >= 4", columns=carried)
    expected = rows[rows["slot"] >= 4].set_index("view").sort_index()
    assert len(expected) > 50
    assert list(found.reset_index().columns) == ["impression_id", "run_id", "user_id", "domain", "score", *carried]
    for column in carried:
        assert (found[column] == expected[column]).all(), column
    assert report["rows"] == report["scored"] == len(expected)
    metadata = json.loads(Deltalake(report["output"]).history(1)[0]["userMetadata"])
    assert metadata == {
        "run_id": nights.run_id, "attempt": 1, "input": f"file:{table}", "version": 1, "where": "slot >= 4",
        "rejected_version": Deltalake(report["rejected"]).version(),
    }  # fmt: skip
    found.index = found.index.str.removeprefix("c-")
    assert_same_scores(found, nights.scores.loc[found.index])


def test_encoded_rows_are_scored_without_encoding(nights: Nights) -> None:
    split = WarehouseTables(nights.settings, nights.spark).warehouse.table("split")
    report, found = nights.score(split, "encoded", where=f"ds = '{DS}' AND part = 'test'", encoded=True)
    assert_same_scores(found, nights.scores)
    assert report["input_version"] == Deltalake(split).version()
    assert (report["rows"], report["left_out"]) == (len(nights.scores), 0)


def test_invalid_encoded_rows_are_rejected_with_reasons(nights: Nights) -> None:
    split = WarehouseTables(nights.settings, nights.spark).read("split").where(f"ds = '{DS}' AND part = 'test'")
    rows = split.limit(20).toPandas()
    kept = rows.iloc[4:]
    rows["domain_id"] = rows["domain_id"].astype("Int64")
    rows.loc[0, "domain_id"], rows.loc[1, "domain_id"] = None, 2**40
    rows.at[2, "ints"], rows.at[3, "floats"] = rows.at[2, "ints"][4:], None
    report, found = nights.score(nights.write("misfits.parquet", rows), "misfits", encoded=True)
    assert_same_scores(found, nights.scores.loc[sorted(kept["impression_id"])])
    assert sorted(report["reasons"]) == [
        "domain_id: missing",
        "domain_id: not between 0 and 3",
        f"floats: not {len(rows.at[4, 'floats'])} bytes long, as the model's layout requires",
        f"ints: not {len(rows.at[4, 'ints'])} bytes long, as the model's layout requires",
    ]
    ids = nights.write("ids.parquet", rows.assign(ints=[[1, 2]] * len(rows)))
    with pytest.raises(DataError, match="`ints` is array<bigint>, but must be binary"):
        nights.score(ids, "misfits", encoded=True)


def test_unknown_domains_are_other_dropped_or_an_error(nights: Nights) -> None:
    split = WarehouseTables(nights.settings, nights.spark).warehouse.table("split")
    encoded = {"where": f"ds = '{DS}' AND part = 'test'", "encoded": True}
    known = nights.scores[nights.scores["domain"] != "other"]
    assert len(known) == len(nights.scores) - 3
    report, found = nights.score(nights.input, "policy", unknown_domain="drop")
    assert_same_scores(found, known)
    assert report["reasons"]["domain: unknown domain kiosk"] == 3
    assert read(report["rejected"])["row"].str.contains("kiosk").sum() == 3
    report, found = nights.score(split, "policy", unknown_domain="drop", **encoded)
    assert_same_scores(found, known)
    assert report["reasons"] == {"domain: unknown domain": 3}
    with pytest.raises(DataError, match=r"3 rows have domains .*: kiosk \(3\); it knows home, mail, search"):
        nights.score(nights.input, "policy", unknown_domain="fail")
    with pytest.raises(DataError, match=r"3 rows have domains .*: other \(3\)"):
        nights.score(split, "policy", unknown_domain="fail", **encoded)
    assert_same_scores(read(str(nights.folder / "policy")), known)


def test_errors_name_the_problem_and_do_not_change_the_output(nights: Nights, tmp_path: Path) -> None:
    nights.spark.createDataFrame(
        [("",) * 5], "run_id string, impression_id string, user_id string, domain string, score string"
    ).write.format("delta").save(str(nights.folder / "held"))
    version = Deltalake(str(nights.folder / "held")).version()
    with pytest.raises(UserError, match=rf"--run-id 2026-03-03-none: no finished run in .*the newest: {nights.run_id}"):
        batch_score.run(nights.settings, nights.spark, run_id="2026-03-03-none", source=nights.input, target="x")
    with pytest.raises(DataError, match="nowhere: neither a Delta nor a Parquet table"):
        nights.score(str(tmp_path / "nowhere"), "held")
    nights.day.to_csv(tmp_path / "views.csv")
    with pytest.raises(DataError, match="views.csv: neither a Delta nor a Parquet table"):
        nights.score(str(tmp_path / "views.csv"), "held")
    with pytest.raises(DataError, match=r"logs.impressions.user: no column `visitor`; did you mean `visitr`\?"):
        nights.score(nights.write("visitr.parquet", nights.day.rename(columns={"visitor": "visitr"})), "held")
    with pytest.raises(DataError, match=r"features.slot.impressions.slot: no column `slot`"):
        nights.score(nights.write("slotless.parquet", nights.day.drop(columns="slot")), "held")
    with pytest.raises(DataError, match=r"--encoded.ints: no column `ints`"):
        nights.score(nights.input, "held", encoded=True)
    with pytest.raises(UserError, match=r"--columns slott: .*did you mean `slot`"):
        nights.score(nights.input, "held", columns=["slott"])
    with pytest.raises(UserError, match="--columns slot: the output would have two"):
        nights.score(nights.input, "held", columns=["slot", "slot"])
    with pytest.raises(UserError, match="--where nothing = 1"):
        nights.score(nights.input, "held", where="nothing = 1")
    with pytest.raises(DataError, match="no rows match --where slot > 99; nothing was written"):
        nights.score(nights.input, "held", where="slot > 99")
    with pytest.raises(DataError, match=r"none of the 5 rows can be scored: visitor: missing \(5\)"):
        nights.score(nights.input, "held", where="view LIKE 'bad-%'")
    assert Deltalake(str(nights.folder / "held")).version() == version


def test_only_a_table_of_scores_is_overwritten(nights: Nights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    nights.day.to_parquet(tmp_path / "day.parquet")
    for target, problem in (
        (nights.input, "would overwrite the input"),
        (str(Path(nights.input).parent / ".." / "views"), "would overwrite the input"),
        (
            WarehouseTables(nights.settings, nights.spark).warehouse.table("scores"),
            "would overwrite the warehouse's `scores`",
        ),
        ("no-such-scheme://bucket/scored", "Spark does not support the scheme of a path \\(no-such-scheme\\)"),
        (str(tmp_path), "is not a Delta table"),
        (str(tmp_path / "file"), "is not a Delta table"),
        (str(nights.folder / "delta-other"), "has the columns mine"),
    ):
        if target.endswith("delta-other"):
            nights.spark.createDataFrame([(1,)], "mine int").write.format("delta").save(target)
        with pytest.raises(UserError, match=problem):
            batch_score.run(nights.settings, nights.spark, run_id=nights.run_id, source=nights.input, target=target)


def test_a_task_with_several_cores_has_as_many_threads(nights: Nights) -> None:
    attempt = get_published_attempt(WarehouseTables(nights.settings, nights.spark).warehouse, nights.run_id)
    assert describe_model(nights.spark, attempt).threads == 1
    code = "import sys, torch; from star_ctr.jobs.registry.predictor_cache import *; m = ModelFiles(sys.argv[1], (), 2); load_predictor(m)"
    code += "; assert load_predictor(m) is load_predictor(m); print(torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code, str(attempt.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


def test_the_command_rejects_options_of_the_other_mode(nights: Nights) -> None:
    from star_ctr.workflows.cli import app

    for arguments, problem in (
        (["--run-id", "x", "--encoded"], "--run-id, --encoded: only for scoring a table"),
        (["--input", "x", "--run-id", "x"], "scoring a table needs --run-id and --output"),
        (["--input", "x", "--run-id", "x", "--output", "y", "--ds", DS], "takes no --ds"),
    ):
        result = CliRunner().invoke(app, ["score", "--conf", str(nights.conf), *arguments])
        assert isinstance(result.exception, UserError)
        assert problem in str(result.exception)


# --- killed during the write


RUN = """
import sys
from star_ctr.conf.load import load
from star_ctr.jobs.io import session
from star_ctr.jobs.tools import batch_score
settings = load(sys.argv[1], ["spark.master=local[1]", "spark.driver_memory=1g"])
spark = session.start(settings, "to be killed")
print("ready", flush=True)
batch_score.run(settings, spark, run_id=sys.argv[2], source=sys.argv[3], target=sys.argv[4], where=sys.argv[5])
print("done", flush=True)
"""


def kill_during_write(nights: Nights, target: Path, where: str) -> None:
    """Score in a separate process, and kill it as soon as it has written the first file of scores."""
    files = set(target.glob("*.parquet"))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(nights.conf), nights.run_id, nights.input, str(target), where],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    while process.poll() is None and not set(target.glob("*.parquet")) - files:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@on_request
def test_a_killed_job_leaves_the_previous_output_and_can_run_again(nights: Nights) -> None:
    target = nights.folder / "killed"
    kill_during_write(nights, target, "slot >= 4")
    first = not DeltaTable.isDeltaTable(nights.spark, str(target))
    nights.score(nights.input, "killed", where="slot >= 4")
    before, version = read(str(target)), Deltalake(str(target)).version()
    kill_during_write(nights, target, "true")
    second = Deltalake(str(target)).version() == version
    assert first or second, "each kill came after the commit"
    if second:
        pd.testing.assert_frame_equal(read(str(target)), before)
    _, after = nights.score(nights.input, "killed")
    assert_same_scores(after, nights.scores)
