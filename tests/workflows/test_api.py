"""The Python API on a small night, and the page that describes it."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable
from pyspark.sql import Row
from sklearn.metrics import roc_auc_score

import star_ctr
from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import ConfigError, DataError
from star_ctr.conf.load import load
from star_ctr.jobs.registry.decisions import Decisions
from star_ctr.workflows import nightly
from star_ctr.workflows.journal import Journal
from star_ctr.workflows.lease import is_held
from tests.conftest import ROOT
from tests.workflows.small_night import DS, Night
from tests.workflows.synthetic_nights import NIGHTS, SyntheticNights

PAGE = ROOT / "docs/python.md"


@pytest.fixture(scope="module")
def folder(night: Night, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the logs and the warehouse of a small night into a folder with the file `mine.yaml`; serve the model."""
    copy = tmp_path_factory.mktemp("python")
    for name in ("logs", "warehouse"):
        shutil.copytree(night.copy / name, copy / name)
    # The night read the original logs, whose times another test changes.
    shutil.copytree(night.copy / "logs", night.settings.paths.logs, dirs_exist_ok=True)
    conf = yaml.safe_load(night.conf.read_text())
    # Not relative paths, because Spark may have been started in another folder. The steps depend on the original logs.
    conf["paths"]["warehouse"] = str(copy / "warehouse")
    (copy / "mine.yaml").write_text(yaml.safe_dump(conf, sort_keys=False))
    settings = load(copy / "mine.yaml")
    Decisions(settings).promote(make_run_id(settings, DS), "the night has few rows, but the model is fine", by="ann")
    return copy


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[star_ctr.Project]:
    monkeypatch.chdir(folder)
    return star_ctr.open("mine.yaml")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> SyntheticNights:
    nights = SyntheticNights(tmp_path_factory.mktemp("warehouse"))
    nights.nights()
    return nights


def run_block(code: str, names: dict[str, Any]) -> str:
    """Run code as a notebook does, and return what it prints, with the value of a last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "page", "exec"), names)
        if (
            isinstance(last, ast.Expr)
            and (value := eval(compile(ast.Expression(last.value), "page", "eval"), names)) is not None
        ):
            print(value if not isinstance(value, str) else repr(value))
    return printed.getvalue()


def split_numbers(text: str) -> tuple[list[str], list[float]]:
    """Split text into words and numbers with a decimal point; the hash of a run id counts as one fixed word."""
    words = re.sub(r"-[0-9a-f]{8}\b", "-HASH", text).split()
    is_number = [re.fullmatch(r"-?\d+\.\d+", word) is not None for word in words]
    return (
        ["0.0" if number else word for word, number in zip(words, is_number, strict=True)],
        [float(word) for word, number in zip(words, is_number, strict=True) if number],
    )


@pytest.mark.spark
def test_the_page_prints_what_it_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2)
    assert len(blocks) > 20
    names: dict[str, Any] = {}
    for (_, code), (_, expected) in zip(blocks[::2], blocks[1::2], strict=True):
        words, numbers = split_numbers(run_block(code, names).replace(f"{folder}/", ""))
        expected_words, expected_numbers = split_numbers(expected)
        assert words == expected_words, code
        # The weights of a model may differ between processors.
        np.testing.assert_allclose(numbers, expected_numbers, atol=0.05, err_msg=code)
    assert "<html" in (folder / "report.html").read_text()


def test_importing_the_package_is_fast() -> None:
    code = "import star_ctr, sys; print(sorted({'pyspark', 'torch', 'pandas', 'pydantic', 'deltalake'} & set(sys.modules)))"
    code += "; star_ctr.open('demo'); print(sorted({'pyspark', 'torch', 'petastorm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_reading_starts_no_spark(synthetic: SyntheticNights) -> None:
    code = f"""
import sys, star_ctr
project = star_ctr.open("demo", {{"paths.warehouse": {str(synthetic.folder)!r}}})
for value in (project, project.tables, project.runs, project.serving, project.decisions, project.nights):
    repr(value)
project.table("metrics").filter("gauc > 0").to_pandas(), project.sql("SELECT count(*) FROM ledger")
project.metrics(), project.metrics_by_day(), project.report(), project.serving.metrics
from pyspark import SparkContext
print(SparkContext._active_spark_context, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.splitlines() == ["None False"], done.stderr


def test_overrides_are_a_mapping_or_texts(synthetic: SyntheticNights) -> None:
    path = f"paths.warehouse={synthetic.folder}"
    for overrides in ([path, "trainer.seed=7"], {"paths.warehouse": str(synthetic.folder), "trainer.seed": 7}):
        opened = star_ctr.open("demo", overrides)
        assert (opened.warehouse, opened.settings.trainer.seed) == (str(synthetic.folder), 7)
    with pytest.raises(ConfigError, match="trainer.sed: unknown key; did you mean `seed`"):
        star_ctr.open("demo", {"trainer.sed": 7})


@pytest.fixture
def demo_project(synthetic: SyntheticNights) -> star_ctr.Project:
    return star_ctr.open("demo", [f"paths.warehouse={synthetic.folder}"])


def test_tables_list_what_has_been_written(demo_project: star_ctr.Project) -> None:
    names = ["metrics", "differences", "runs", "steps", "decisions", "ledger"]
    assert sorted(t.name for t in demo_project.tables) == sorted(names)
    assert "ledger" in demo_project.tables
    assert "features" not in demo_project.tables
    shown = repr(demo_project.tables)
    assert all(TABLES[name].about in shown for name in names)
    assert "<table" in demo_project.tables._repr_html_()
    assert "no tables yet" in repr(star_ctr.open("demo", ["paths.warehouse=/nowhere"]).tables)


def test_rows_are_filtered_by_day_run_and_condition(demo_project: star_ctr.Project, synthetic: SyntheticNights) -> None:
    rows = pd.concat([pd.read_parquet(uri) for uri in DeltaTable(str(synthetic.folder / "ledger")).file_uris()])
    table = demo_project.table("ledger")
    assert len(table) == table.count() == len(table.to_pandas()) == len(rows)
    day = table.filter(ds=NIGHTS[1])
    assert day.count() == (rows["ds"] == NIGHTS[1]).sum() > 0
    late = day.filter("step = 'attribute'").filter("rows_out < rows_in OR rows_in > 100").select("domain", "rows_in")
    expected = rows[(rows["ds"] == NIGHTS[1]) & (rows["step"] == "attribute")]
    expected = expected[(expected["rows_out"] < expected["rows_in"]) | (expected["rows_in"] > 100)]
    assert sorted(map(tuple, late.to_pandas().itertuples(index=False))) == sorted(
        map(tuple, expected[["domain", "rows_in"]].itertuples(index=False))
    )
    run_id = synthetic.run(NIGHTS[2])
    assert set(demo_project.table("metrics").filter(run_id=run_id).to_pandas()["run_id"]) == {run_id}
    assert demo_project.table("metrics").filter(run_id="it's \\ none").count() == 0
    assert len(table.head(3)) == 3
    sequence = demo_project.table("steps").to_pandas()["sequence"]
    assert list(sequence) == list(range(len(sequence)))


def test_a_version_of_a_table_stays_readable(tmp_path: Path) -> None:
    nights = SyntheticNights(tmp_path)
    nights.ledger(NIGHTS[0])
    project = star_ctr.open("demo", [f"paths.warehouse={tmp_path}"])
    before = project.table("ledger")
    n = before.count()
    nights.ledger(NIGHTS[1])
    assert before.count() == project.table("ledger", version=0).count() == n < project.table("ledger").count()
    with pytest.raises(DataError, match="ledger: no version 7; the newest is 1"):
        project.table("ledger", version=7)


def test_sql_joins_tables(demo_project: star_ctr.Project) -> None:
    query = (
        "SELECT d.ds, m.gauc FROM decisions d JOIN metrics m USING (run_id) WHERE m.domain = 'overall' ORDER BY d.ds"
    )
    found = demo_project.sql(query)
    expected = [demo_project.metrics(ds).set_index("domain")["gauc"]["overall"] for ds in found["ds"]]
    assert list(found["ds"]) == list(NIGHTS)
    assert list(found["gauc"]) == expected


def test_errors_are_sentences_with_a_remedy(demo_project: star_ctr.Project, tmp_path: Path) -> None:
    for action, message in {
        lambda: demo_project.table("metric"): r"metric: no such table; did you mean `metrics`\?",
        lambda: demo_project.table("features"): "features: no such table yet; run `star-ctr features` first",
        lambda: demo_project.table("steps").filter(ds="yesterday"): "yesterday: not a date",
        lambda: demo_project.table("lease"): "no such table yet",
        lambda: demo_project.table("metrics").select("gacu"): r"metrics: no column `gacu`; did you mean `gauc`\?",
        lambda: demo_project.table("metrics").filter("gacu > 1").to_pandas(): "WHERE .gacu > 1.: Schema error: No field named gacu",
        lambda: demo_project.sql("SELEC 1"): "SELEC 1: ",
        lambda: demo_project.metrics("2025-01-01"): "no metrics of a run with these settings for 2025-01-01",
        lambda: demo_project.metrics_by_day("gacu"): "gacu: no such metric; use one of gauc",
        lambda: demo_project.runs["none"]: "none: no such run",
        lambda: demo_project.model("2026-01-01-none"): "no finished run",
        lambda: demo_project.report("2025-01-01"): "no metrics of the night 2025-01-01",
        lambda: demo_project.run("evalute"): r"evalute: no such step; did you mean `evaluate`\?",
        lambda: star_ctr.open("demo", [f"paths.warehouse={tmp_path}"]).model(): "no model is served yet; run `star-ctr nightly`",
    }.items():  # fmt: skip
        with pytest.raises(star_ctr.UserError, match=message):
            action()


def test_runs_have_records_decisions_and_the_serving_model(
    demo_project: star_ctr.Project, synthetic: SyntheticNights
) -> None:
    runs = demo_project.runs
    assert [run.run_id for run in runs] == [synthetic.run(ds) for ds in NIGHTS]
    assert demo_project.serving is not None
    assert demo_project.serving.run_id == runs.newest.run_id == synthetic.run(NIGHTS[-1])
    assert [run.is_serving for run in runs] == [False] * (len(NIGHTS) - 1) + [True]
    run = runs[synthetic.run(NIGHTS[1])]
    assert run.settings == synthetic.settings
    assert run.record["torch"] == "2.12.1"
    assert list(run.loss_curve.columns) == ["step", "loss"]
    assert len(run.loss_curve) == 100
    assert list(run.decisions["outcome"]) == ["held"]
    assert list(demo_project.decisions["ds"]) == list(NIGHTS)
    assert list(run.metrics["domain"])[-1] == "overall"
    assert run.run_id in repr(run)
    assert len(runs.to_pandas()) == len(NIGHTS)
    assert "<table" in runs._repr_html_()


def test_states_and_metrics_are_tables_by_night(demo_project: star_ctr.Project, synthetic: SyntheticNights) -> None:
    states = demo_project.nights
    assert list(states.index)[: len(NIGHTS)] == list(NIGHTS)
    assert list(states.columns) == ["ingest", "features", "split", "train", "score", "evaluate", "gate"]
    assert set(demo_project.status(first=NIGHTS[0], last=NIGHTS[1])["ds"]) == set(NIGHTS[:2])
    by_day = demo_project.metrics_by_day("auc", NIGHTS[1], NIGHTS[3])
    assert list(by_day.columns) == list(NIGHTS[1:4])
    assert list(by_day.index)[-1] == "overall"
    metrics = demo_project.metrics(NIGHTS[2])
    assert set(metrics["run_id"]) == {make_run_id(synthetic.settings, NIGHTS[2])}
    assert by_day[NIGHTS[2]].to_dict() == metrics.set_index("domain")["auc"].to_dict()


def test_a_report_is_shown_in_a_frame(demo_project: star_ctr.Project, tmp_path: Path) -> None:
    report = demo_project.report(NIGHTS[1])
    assert report.ds == NIGHTS[1]
    assert report.save(tmp_path / "night.html").read_text() == report.html
    shown = report._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!')
    assert "<script" not in shown


@pytest.mark.spark
def to_plain(value: Any) -> Any:
    """Return arrays and bytes as lists, and rows as dictionaries."""
    if isinstance(value, Row):
        value = value.asDict()
    if isinstance(value, dict):
        return {key: to_plain(part) for key, part in value.items()}
    is_list = isinstance(value, np.ndarray | bytes | bytearray | list)
    return [to_plain(part) for part in value] if is_list else value


def test_every_table_is_the_same_in_pandas_and_in_spark(project: star_ctr.Project) -> None:
    for table in project.tables:
        ours, spark = table.to_pandas(), table.to_spark().toPandas()
        assert set(ours.columns) == set(spark.columns), table.name
        for frame in (ours, spark):
            for column in frame.columns:
                if isinstance(frame[column].dtype, pd.DatetimeTZDtype):
                    frame[column] = frame[column].dt.tz_localize(None)
                frame[column] = frame[column].map(to_plain)
        text = [frame[sorted(frame.columns)].astype(str) for frame in (ours, spark)]
        text = [frame.sort_values(list(frame.columns), ignore_index=True) for frame in text]
        pd.testing.assert_frame_equal(*text, obj=table.name)
        assert table.columns == dict.fromkeys(table.columns, "") or all(table.columns.values()), table.name
        assert table.name in repr(table)
        assert "<table" in table._repr_html_()
    some = project.table("scores").filter("score > 0.2", ds=DS).select("user_id", "score")
    assert some.to_spark().columns == ["user_id", "score"]
    assert some.to_spark().count() == some.count() > 0
    assert project.table("scores").filter(run_id="it's \\ none").to_spark().count() == 0


@pytest.mark.spark
def test_the_model_predicts_the_scores_of_the_night(project: star_ctr.Project) -> None:
    model, scores = project.model(), project.table("scores").to_pandas().set_index("impression_id")
    assert (model.run_id, model.attempt) == (project.serving.run_id, project.serving.attempt)  # type: ignore[union-attr]
    rows = model.load_test_rows().set_index("impression_id")
    predicted = model.predict(rows)
    np.testing.assert_allclose(predicted, scores["score"].reindex(rows.index), rtol=0, atol=1e-6)
    auc = roc_auc_score(rows["label"], predicted)
    assert auc == pytest.approx(project.metrics().set_index("domain")["auc"]["overall"], abs=1e-9)
    assert len(model.predict(rows.head(0))) == 0
    with pytest.raises(star_ctr.UserError, match="no column ints, floats: .* use `score_impressions`"):
        model.predict(rows[["domain_id"]])
    with pytest.raises(star_ctr.UserError, match="domain_id: the model requires values from 0 to 3"):
        model.predict(rows.assign(domain_id=4))
    assert project.runs.newest.load_model().run_id == model.run_id


@pytest.mark.spark
def test_raw_impressions_have_the_scores_of_the_night(project: star_ctr.Project) -> None:
    scores = project.table("scores").to_pandas().set_index("impression_id")["score"]
    rows = pd.read_parquet(f"logs/views/{DS.replace('-', '')}.parquet")
    rows = rows[rows["view"].isin(scores.index)].drop_duplicates("view").sample(50, random_state=0)
    rows.loc[rows.index[[3, 10]], "visitor"] = None
    found = project.model().score_impressions(rows)
    assert list(found.index) == list(rows.index)
    rejected = found["reason"].notna()
    assert list(np.flatnonzero(rejected)) == [3, 10]
    assert set(found["reason"][rejected]) == {"visitor: missing"}
    assert found["score"][rejected].isna().all()
    expected = scores.reindex(rows["view"][~rejected])
    np.testing.assert_allclose(found["score"][~rejected], expected, rtol=0, atol=1e-5)


@pytest.mark.spark
def test_a_step_runs_with_the_lease_and_the_journal(project: star_ctr.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    before = len(Journal(project.settings).read_entries())

    def run(*_: Any) -> list[dict[str, Any]]:
        held.append(is_held(project.settings))
        return [{"domain": "home", "rows": 3}]

    for name in nightly.ACTIONS:
        monkeypatch.setitem(nightly.ACTIONS, name, run)
    found = project.run("evaluate", DS)
    assert found.to_dict("records") == [{"domain": "home", "rows": 3}]
    night = project.nightly(DS)
    assert isinstance(night["metrics"], pd.DataFrame)
    assert held == [True] * 8
    assert not is_held(project.settings)
    entries = Journal(project.settings).read_entries()[before:]
    assert [e.state for e in entries] == ["running", "done"] * 8
    assert [e.step for e in entries[2::2]] == ["ingest", "features", "split", "train", "score", "evaluate", "gate"]
    assert project.backfill(DS, DS)["step"].tolist() == [
        "ingest",
        "features",
        "split",
        "train",
        "score",
        "evaluate",
        "gate",
    ]
