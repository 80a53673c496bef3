"""Nights without the sections `model` and `trainer` choose a recipe once and keep it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession
from typer.testing import CliRunner

import star_ctr
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.load import load
from star_ctr.conf.recipe import TrainingSize, read_recipe, write_recipe
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.registry.recipes import choose_recipe
from star_ctr.model.recipe_rule import choose_settings
from star_ctr.workflows import backfill, nightly, status
from star_ctr.workflows.cli import app
from tests import small_logs
from tests.conftest import INTERPRETED, on_request

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DAYS = small_logs.DAYS


def read_states(conf: str) -> dict[tuple[str, str], str]:
    return {(row["ds"], row["step"]): row["state"] for row in status.run(load(conf), None, None, 14)}


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Capture log messages even if a command line in this process has turned off their propagation."""
    logger = logging.getLogger("star_ctr")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def configure(folder: Path, **more: Any) -> str:
    """Write small logs and settings without `model`; returns the YAML file."""
    small_logs.write(folder, small_logs.frames(), small_logs.FEW_FEATURES)
    given = yaml.safe_load((folder / "shop.yaml").read_text())
    for key in ("preset", "model", "trainer"):
        given.pop(key)
    given |= {"trainer": {"device": "cpu", "threads": 1}, "window": {"days": 1}, **more}
    (folder / "shop.yaml").write_text(yaml.safe_dump(given))
    return str(folder / "shop.yaml")


def test_the_first_night_chooses_the_recipe_of_all_nights(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str], messages: pytest.LogCaptureFixture
) -> None:
    conf = configure(tmp_path, trainer={"device": "cpu", "threads": 1, "epochs": 4})
    project = star_ctr.open(conf)
    assert CliRunner().invoke(app, ["recipe", "--conf", conf]).exit_code == 1

    backfill.run(load(conf), spark, DAYS[2], DAYS[3])
    labels = {(r["ds"], r["impression_id"]): r["label"] for r in read_rows(f"{project.warehouse}/labels")}
    first = [label for (ds, _), label in labels.items() if ds == DAYS[1]]
    recipe = read_recipe(load(conf).paths)
    assert recipe is not None
    size = TrainingSize(rows=len(first), clicks=int(sum(first)), domains=3, used_rows=len(first))
    assert (recipe.ds, recipe.size) == (DAYS[2], size)
    assert recipe.settings == choose_settings(recipe.size)
    runs = {r["ds"]: json.loads(r["record"]) for r in read_rows(f"{project.warehouse}/runs")}
    assert sorted(runs) == [DAYS[2], DAYS[3]]
    for ds, record in runs.items():
        assert record["run_id"] == make_run_id(load(conf), ds), "a later command does not find the run"
        assert record["settings"]["trainer"]["epochs"] == 4
        assert record["settings"]["model"]["layers"] == recipe.settings["model.layers"]
        assert record["settings"]["trainer"]["optimizer"]["lr"] == recipe.settings["trainer.optimizer.lr"]
    assert project.runs.newest.run_id == runs[DAYS[3]]["run_id"], "an open project uses the recipe that a night stored"
    assert set(read_states(conf).values()) == {"done"}
    assert all(row["action"] == backfill.KEPT for row in backfill.run(load(conf), spark, DAYS[2], DAYS[3]))
    assert " for 300 training rows (" in " ".join(capsys.readouterr().err.split())
    assert re.search(r"only \d+ training steps \(trainer.batch_size=128, trainer.epochs=4\)", messages.text)

    larger = recipe.size.model_copy(update={"used_rows": 1200})
    write_recipe(
        load(conf).paths,
        recipe.model_copy(update={"size": larger, "settings": {**recipe.settings, "model.layers": [5]}}),
    )
    states = read_states(conf)
    assert {states[ds, "split"] for ds in DAYS[2:]} == {"done"}, "the split does not depend on the layers"
    assert {states[ds, "train"] for ds in DAYS[2:]} == {"missing"}
    messages.clear()
    nightly.run_step(load(conf), spark, "train", DAYS[3], "requested")
    assert "this run has 300 training rows, but the recipe was chosen for 1,200" in messages.text
    assert choose_recipe(load(conf), spark, DAYS[2]) == recipe


@on_request
def test_runs_with_the_settings_of_the_paper_do_not_count(tmp_path: Path, spark: SparkSession) -> None:
    """A backfill chooses the recipe before it decides which steps are done."""
    conf = configure(tmp_path)
    nightly.run(load(conf, ["preset=paper"]), spark, DAYS[2])
    report = backfill.run(load(conf), spark, DAYS[2], DAYS[2])
    assert {row["step"]: row["action"] for row in report} == {
        **dict.fromkeys(["ingest", "features", "split"], backfill.KEPT),
        **dict.fromkeys(["train", "score", "evaluate", "gate"], "run"),
    }
    assert {state for (ds, _), state in read_states(conf).items() if ds == DAYS[2]} == {"done"}


def test_rows_that_the_split_leaves_out_are_not_counted(tmp_path: Path, spark: SparkSession) -> None:
    """The labels of the last day are open, with an attribution window of two days."""
    conf = configure(tmp_path, label={"window_hours": 48, "open": "drop"}, window={"days": 3})
    settings = load(conf)
    for step in ("ingest", "features"):
        nightly.run_step(settings, spark, step, DAYS[3], "requested")
    size = choose_recipe(settings, spark, DAYS[3]).size
    final = [r for r in read_rows(f"{settings.paths.warehouse}/labels") if r["is_final"] and r["ds"] < DAYS[3]]
    assert 0 < size.rows == len(final) < 900
    sampled = load(conf, ["trainer.negatives=0.5"])
    clicks = int(sum(r["label"] for r in final))
    assert choose_recipe(sampled, spark, DAYS[3]).size.used_rows == round(clicks + 0.5 * (len(final) - clicks))


def test_the_commands_show_estimate_and_renew_the_recipe(tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(tmp_path, spark={"shuffle_partitions": 2, "conf": yaml.safe_load(INTERPRETED.partition("=")[2])})

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "star_ctr.workflows.cli", *words, "--conf", conf]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    assert "estimated recipe of the first night, for 300 training rows (" in call("check")
    for step in ("ingest", "features"):
        nightly.run_step(load(conf), spark, step, DAYS[3], "requested")
    assert "chosen for 300 training rows" in call("recipe", "--renew")
    recipe = read_recipe(load(conf).paths)
    assert recipe is not None
    write_recipe(load(conf).paths, recipe.model_copy(update={"settings": {"model.layers": [5]}}))
    shown = json.loads(call("recipe", "--set", "model.layers=[6]", "--json", "-"))
    assert (shown["settings"], shown["overridden"]) == ({"model.layers": [5]}, ["model.layers"])
    assert "recipe: chosen for 300 training rows" in call("check")
    (Path(load(conf).paths.warehouse) / "recipe.json").write_text("{")
    call("recipe", "--renew")  # repairs it
    assert read_recipe(load(conf).paths) == recipe
