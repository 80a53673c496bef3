"""Nights without the sections `model` and `trainer` choose a recipe once and keep it."""

from __future__ import annotations

import json
from pathlib import Path

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
from star_ctr.workflows import backfill, status
from star_ctr.workflows.cli import app
from tests import small_logs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DAYS = small_logs.DAYS


def read_states(conf: str) -> dict[tuple[str, str], str]:
    return {(row["ds"], row["step"]): row["state"] for row in status.run(load(conf), None, None, 14)}


def test_the_first_night_chooses_the_recipe_of_all_nights(tmp_path: Path, spark: SparkSession) -> None:
    small_logs.write(tmp_path, small_logs.frames())
    given = yaml.safe_load(Path(tmp_path / "shop.yaml").read_text())
    for key in ("preset", "model", "trainer"):
        given.pop(key)
    given |= {"trainer": {"device": "cpu", "threads": 1, "epochs": 4}, "window": {"days": 1}}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(given))
    conf = str(tmp_path / "shop.yaml")
    project = star_ctr.open(conf)
    assert CliRunner().invoke(app, ["recipe", "--conf", conf]).exit_code == 1

    backfill.run(load(conf), spark, DAYS[2], DAYS[3])
    labels = {(r["ds"], r["impression_id"]): r["label"] for r in read_rows(f"{project.warehouse}/labels")}
    first = [label for (ds, _), label in labels.items() if ds == DAYS[1]]
    recipe = read_recipe(load(conf).paths)
    assert recipe is not None
    assert (recipe.ds, recipe.size) == (DAYS[2], TrainingSize(rows=len(first), clicks=int(sum(first)), domains=3))
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

    shown = CliRunner().invoke(app, ["recipe", "--conf", conf])
    assert f"{len(first)} training rows (" in shown.output
    assert "YAML file or --set" in shown.output or "trainer.epochs" not in recipe.settings
    write_recipe(load(conf).paths, recipe.model_copy(update={"settings": {**recipe.settings, "model.layers": [5]}}))
    states = read_states(conf)
    assert {states[ds, "split"] for ds in DAYS[2:]} == {"done"}, "the split does not depend on the layers"
    assert {states[ds, "train"] for ds in DAYS[2:]} == {"missing"}
    assert choose_recipe(load(conf), spark, DAYS[2]) == recipe
