"""The commands `star-ctr metrics` and `star-ctr evaluate`: their output and their error messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.jobs.io import delta_rows
from star_ctr.jobs.tools import metrics_by_day
from star_ctr.workflows.cli import app

DAYS = ("2026-03-01", "2026-03-02", "2026-03-04")
VALUES = {"overall": (0.60, 0.61, 0.58), "10": (0.70, None, 0.71), "2": (0.65, 0.64, 0.64)}


@pytest.fixture
def conf(tmp_path: Path) -> list[str]:
    """Write a warehouse with metrics of three days and two seeds, and return the options that select it."""
    overrides = [f"paths.warehouse={tmp_path}/warehouse"]
    settings, other = load("demo", overrides), load("demo", [*overrides, "trainer.seed=9"])
    rows = [
        {
            "run_id": make_run_id(s, day), "ds": day, "domain": domain, "gauc": value and value + shift, "auc": 0.5,
            "gauc_low": value and value - 0.015, "gauc_high": value and value + 0.015, "auc_low": None, "auc_high": None,
            "pcoc": (1.2, 0.9, 1.05)[k], "log_loss": 0.3 + k / 10,
        }
        for s, shift in ((settings, 0.0), (other, 0.1))
        for domain, values in VALUES.items()
        for k, (day, value) in enumerate(zip(DAYS, values, strict=True))
    ]  # fmt: skip
    schema = pa.schema([(n, pa.string() if n in ("run_id", "ds", "domain") else pa.float64()) for n in rows[0]])
    write_deltalake(f"{tmp_path}/warehouse/metrics", pa.Table.from_pylist(rows, schema), partition_by=["run_id"])
    return ["--conf", "demo", "--set", overrides[0]]


def run_metrics(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["metrics", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def read_rows(*arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["ds"], r["domain"]): r for r in json.loads(run_metrics(*arguments, "--json", "-"))}


def test_each_day_is_compared_with_the_previous_one(conf: list[str]) -> None:
    found = read_rows(*conf)
    assert list(dict.fromkeys(d for _, d in found)) == ["2", "10", "overall"]
    assert len(found) == 9
    first, second, third = (found[day, "overall"] for day in DAYS)
    assert (first["before"], first["change"], first["outside"]) == (None, None, None)
    assert (second["before"], second["outside"]) == (DAYS[0], False)
    assert second["change"] == pytest.approx(0.01)
    assert (third["before"], third["outside"]) == (DAYS[1], True)
    assert found[DAYS[1], "10"]["value"] is None
    assert found[DAYS[2], "10"]["change"] is None, "nothing to compare with"


def test_the_table_shows_the_change(conf: list[str]) -> None:
    lines = {line.split()[0]: line.split()[1:] for line in run_metrics(*conf).splitlines() if line.strip()}
    assert lines["domain"] == ["03-01", "03-02", "03-04"]
    assert lines["2"] == ["0.6500", "0.6400", "▼.0100", "0.6400", "=.0000"]
    assert lines["10"] == ["0.7000", "–", "0.7100"]
    assert lines["overall"] == ["0.6000", "0.6100", "▲.0100", "0.5800", "▼.0300*"]
    assert "* the previous day's value lies outside" in run_metrics(*conf)


def test_days_metric_and_run_can_be_chosen(conf: list[str]) -> None:
    assert {ds for ds, _ in read_rows(*conf, "--from", DAYS[1])} == set(DAYS[1:])
    assert read_rows(*conf, "--from", DAYS[1])[DAYS[1], "2"]["before"] == DAYS[0], (
        "also if the previous day is not shown"
    )
    assert {ds for ds, _ in read_rows(*conf, "--to", DAYS[0])} == {DAYS[0]}
    pcoc = read_rows(*conf, "--metric", "pcoc")[DAYS[2], "2"]
    assert (pcoc["value"], pcoc["low"], pcoc["outside"]) == (1.05, None, None)
    other = make_run_id(load("demo", ["trainer.seed=9"]), DAYS[0])
    assert read_rows(*conf, "--run-id", other)[DAYS[0], "overall"]["value"] == pytest.approx(0.7)


def test_differences_from_references_are_shown(conf: list[str], tmp_path: Path) -> None:
    options = ["window.days=1", "split.vocabulary=grown", "trainer.warm_start=previous", conf[3]]
    with_section = load("demo", [*options, "reference={}"])
    name = make_run_id(with_section, DAYS[1])
    table = f"{tmp_path}/warehouse/metrics"
    row = {"ds": DAYS[1], "gauc": 0.6, "auc": 0.5, "gauc_low": 0.5, "gauc_high": 0.7, "pcoc": 1.0, "log_loss": 0.3}
    rows = [{"run_id": name, "domain": d, "attempt": 2, **row} for d in ("overall", "2")]
    write_deltalake(table, pa.Table.from_pylist(rows), mode="append", schema_mode="merge", partition_by=["run_id"])
    gap = {"run_id": name, "ds": DAYS[1], "domain": "overall", "reference_attempt": 1, "training_days": 7} | {
        f"{metric}{end}": value
        for metric in ("gauc", "auc", "pcoc", "log_loss")
        for end, value in (("", -0.02), ("_low", -0.03), ("_high", -0.01))
    }
    gaps = [
        gap | {"reference_run_id": f"{name}-reference", "attempt": 2},
        gap | {"reference_run_id": f"{name}-reference", "attempt": 1, "domain": "2"},  # of a replaced attempt
        gap | {"reference_run_id": f"another@{DAYS[1]}", "attempt": None, "domain": "2"},
    ]
    write_deltalake(f"{tmp_path}/warehouse/differences", pa.Table.from_pylist(gaps), partition_by=["run_id"])
    arguments = ["--conf", "demo", *(word for option in options for word in ("--set", option))]
    assert "gap" not in read_rows(*arguments)[DAYS[1], "overall"]
    found = read_rows(*arguments, "--set", "reference={}")
    keys = ("gap", "gap_low", "gap_high")
    assert [found[DAYS[1], "overall"][key] for key in keys] == [-0.02, -0.03, -0.01]
    assert [found[DAYS[1], "2"][key] for key in keys] == [None] * 3
    shown = run_metrics(*arguments, "--set", "reference={}")
    assert "gauc minus that of a model trained from scratch" in shown
    assert "03-02" in shown.partition("from scratch")[2]
    assert "-0.0200*" in shown
    assert "from scratch" not in run_metrics(*arguments)
    ece = read_rows(*arguments, "--set", "reference={}", "--metric", "ece")[DAYS[1], "overall"]
    assert ece["gap"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--set", "trainer.seed=5"], "no metrics of DAY-star.*-s5-.*pass one of them as --run-id"),
        (
            ["--from", "2026-04-01"],
            "from 2026-04-01 to the last day; the available days are 2026-03-01, 2026-03-02, 2026-03-04",
        ),
        (["--run-id", "nobody"], "no metrics of nobody"),
        (["--set", "paths.warehouse=nowhere"], "no such table yet"),
    ],
)
def test_missing_runs_days_and_tables_are_named(conf: list[str], change: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run_metrics(*conf, *change)


def test_an_invalid_day_is_rejected(conf: list[str]) -> None:
    result = CliRunner().invoke(app, ["metrics", *conf, "--from", "tomorrow"])
    assert result.exit_code == 2
    assert "does not match the format" in result.output


def test_an_old_table_without_intervals_is_read(tmp_path: Path) -> None:
    settings = load("demo", [f"paths.warehouse={tmp_path}"])
    row = {"run_id": make_run_id(settings, DAYS[0]), "ds": DAYS[0], "domain": "overall"}
    old = pa.Table.from_pylist([{**row, "gauc": 0.6, "auc": 0.6, "pcoc": 1.0, "log_loss": 0.3}])
    write_deltalake(f"{tmp_path}/metrics", old, partition_by=["run_id"])
    assert metrics_by_day.run(settings)[0]["low"] is None


def test_the_command_does_not_import_spark_or_torch(conf: list[str]) -> None:
    code = (
        "import sys; from star_ctr.workflows.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "assert not {'pyspark', 'torch'} & set(sys.modules), 'slow imports'"
    )
    run = subprocess.run([sys.executable, "-c", code, "metrics", *conf], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "0.6100" in run.stdout


@pytest.mark.spark
def test_external_scores_are_evaluated_without_a_configuration(tmp_path: Path, spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"who": rng.integers(0, 50, 500), "y": rng.integers(0, 2, 500), "p": rng.random(500).round(2)})
    rows["where"] = rng.choice(["home", "search"], 500)
    rows.to_csv(tmp_path / "scores.csv", index=False)
    options = ["evaluate", "--input", str(tmp_path / "scores.csv"), "--user-col", "who", "--label-col", "y"]
    options += ["--score-col", "p", "--domain-col", "where", "--set", "evaluate.bootstrap_samples=20"]
    result = CliRunner().invoke(app, [*options, "--json", str(tmp_path / "found.json")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    for name in ("auc", "gauc"):
        half = f"{(found[2][f'{name}_high'] - found[2][f'{name}_low']) / 2:.4f}".removeprefix("0")
        assert f"{found[2][name]:.4f} ±{half}" in result.output
    assert [r["domain"] for r in found] == ["home", "search", "overall"]
    assert found[2]["auc"] == pytest.approx(roc_auc_score(rows["y"], rows["p"]), abs=1e-12)
    assert found[2]["auc_low"] < found[2]["auc"] < found[2]["auc_high"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --conf FILE to evaluate a night"),
        (["--conf", "demo", "--user-col", "u"], "require --input TABLE"),
        (["--input", "x.csv", "--user-col", "u"], "give the names of its columns with --label-col, --score-col"),
        (
            ["--input", "x", "--user-col", "u", "--label-col", "l", "--score-col", "s", "--ds", DAYS[0]],
            "cannot be used with --input; give the column of the day with --ds-col",
        ),
    ],
)
def test_incompatible_options_are_rejected(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False)


@pytest.mark.spark
def test_a_night_is_evaluated_against_another_run(tmp_path: Path, spark: SparkSession) -> None:
    from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition

    options = ["--conf", "demo", "--set", f"paths.warehouse={tmp_path}/wh", "--set", "evaluate.bootstrap_samples=20"]
    settings = load("demo", [options[3], options[5]])
    run_id, store = make_run_id(settings, DAYS[0]), WarehouseTables(settings, spark)
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"impression_id": np.arange(400).astype(str), "user_id": rng.integers(0, 40, 400).astype(str)})
    rows = rows.assign(ds=DAYS[0], domain="1", label=rng.integers(0, 2, 400).astype(float))
    for name in (run_id, "other"):
        scored = rows.assign(run_id=name, score=rng.random(400))
        store.replace("scores", spark.createDataFrame(scored), make_in_condition("run_id", [name]))
    result = CliRunner().invoke(
        app, ["evaluate", *options, "--ds", DAYS[0], "--against", "other", "--json", "-"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [r["domain"] for r in found["metrics"]] == [r["domain"] for r in found["differences"]] == ["1", "overall"]
    plain = CliRunner().invoke(app, ["evaluate", *options, "--ds", DAYS[0], "--json", "-"], catch_exceptions=False)
    assert json.loads(plain.stdout) == found["metrics"]
    overall = found["differences"][1]
    assert overall["run_id"] == run_id
    assert overall["auc_low"] < overall["auc"] < overall["auc_high"]
    assert read_rows(*options[:4])[DAYS[0], "overall"]["low"] == found["metrics"][1]["gauc_low"]


@pytest.mark.parametrize(
    ("metric", "before", "value", "color"),
    [
        ("gauc", 0.6, 0.61, "green"),
        ("gauc", 0.6, 0.59, "red"),
        ("log_loss", 0.3, 0.31, "red"),
        ("pcoc", 1.2, 0.9, "green"),  # closer to 1, on the other side
        ("pcoc", 0.95, 1.1, "red"),
        ("auc", 0.6, 0.6, "dim"),
    ],
)
def test_improvements_are_green(metric: str, before: float, value: float, color: str) -> None:
    from star_ctr.workflows.terminal import _format_change

    row = {"value": value, "change": value - before, "outside": None, "is_final": True}
    assert f"[{color}]" in _format_change(row, metric)


def test_final_values_replace_provisional_ones(conf: list[str], tmp_path: Path) -> None:
    """The labels of the last two days were open; those of the second day are final now."""
    settings = load("demo", [f"paths.warehouse={tmp_path}/warehouse"])
    table = f"{tmp_path}/warehouse/metrics"
    rows = [
        {**row, "open_labels": 0 if row["ds"] == DAYS[0] else 5}
        for row in delta_rows.read_rows(table, f"domain = 'overall' AND run_id LIKE '%{settings.trainer.seed}-%'")
    ]
    write_deltalake(
        table, pa.Table.from_pylist(rows), mode="overwrite", schema_mode="overwrite", partition_by=["run_id"]
    )
    assert run_metrics(*conf).count("~") == 3  # two values and the note
    final = {k: v for k, v in next(r for r in rows if r["ds"] == DAYS[1]).items() if k != "open_labels"}
    final |= {"gauc": 0.62, "gauc_low": 0.6, "gauc_high": 0.64, "as_of": DAYS[2], "auc_low": 0.4, "auc_high": 0.6}
    write_deltalake(f"{tmp_path}/warehouse/final_metrics", pa.Table.from_pylist([final]), partition_by=["run_id"])
    found = read_rows(*conf)
    values = {day: (r["value"], r["provisional"], r["is_final"]) for (day, _), r in found.items()}
    assert values == {DAYS[0]: (0.60, None, True), DAYS[1]: (0.62, 0.61, True), DAYS[2]: (0.58, 0.58, False)}
    assert found[DAYS[2], "overall"]["change"] == pytest.approx(0.58 - 0.61)  # both provisional
    shown = run_metrics(*conf)
    assert "~0.58" in shown
    assert "~0.62" not in shown
