"""What a search writes: proposed settings that extend the current ones, report, plots and trials."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from star_ctr.conf.contracts.run_id import hash_config
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.recipe import Recipe, TrainingSize, write_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.model.recipe_rule import choose_settings
from star_ctr.workflows.tune import report
from star_ctr.workflows.tune.overlay import write_overlay
from star_ctr.workflows.tune.space import change_settings, make_space
from star_ctr.workflows.tune.variants import parse_variant
from tests.conftest import ROOT
from tests.workflows.tune.fake_runs import DROPOUT, EPOCHS, NIGHTS, FakeRunner, name, search

GAINS = {name(DROPOUT, 0.2): 0.01, name(EPOCHS, 3): -0.02}


@pytest.fixture
def with_recipe(tmp_path: Path) -> Path:
    """Write a YAML file without `model` and `trainer`, and a recipe for it."""
    demo = yaml.safe_load((ROOT / "conf/demo.yaml").read_text())
    conf = {k: v for k, v in demo.items() if k not in ("model", "trainer", "preset", "compare")}
    conf["paths"]["warehouse"] = str(tmp_path / "warehouse")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(conf))
    settings = load(tmp_path / "mine.yaml")
    size = TrainingSize(rows=75_000, clicks=3_000, domains=19, used_rows=75_000)
    write_recipe(settings.paths, Recipe(rule_version=1, ds="2026-03-04", size=size, settings=choose_settings(size)))
    return tmp_path / "mine.yaml"


def assert_same_models(first: Settings, second: Settings) -> None:
    assert hash_config(first) == hash_config(second)


def test_proposed_settings_are_loaded_as_they_were_measured(with_recipe: Path) -> None:
    """A learning rate in the file turns off all rates of the recipe, so the file must contain the others, too."""
    current = load(with_recipe)
    assert current.trainer.optimizer.domain_lr == 0.019
    values = {"trainer.optimizer.lr": 0.004, "model.layers": [64, 32]}
    file = with_recipe.parent / "out" / "demo-tuned.yaml"
    write_overlay(file, str(with_recipe), [], current, values, ["It gained."])
    assert_same_models(load(file), change_settings(current, values))
    written = yaml.safe_load(file.read_text())
    assert written == {
        "extends": "../mine.yaml",
        "model": {"layers": [64, 32]},
        "trainer": {"optimizer": {"domain_lr": 0.019, "lr": 0.004}},
    }
    text = file.read_text()
    assert text.startswith("# It gained.\n")
    assert "lr: 0.004  # was 0.002" in text
    assert "domain_lr: 0.019  # unchanged" in text


def test_overrides_of_the_search_become_part_of_the_proposed_settings(with_recipe: Path) -> None:
    overrides = ["trainer.batch_size=64", "preset=paper", "trainer.seed=5", "window.days=2", "trainer.threads=1"]
    current = load(with_recipe, overrides)
    file = with_recipe.parent / "demo-tuned.yaml"
    write_overlay(file, str(with_recipe), overrides, current, {"model.dropout": 0.1}, [])
    assert_same_models(load(file, ["window.days=2"]), change_settings(current, {"model.dropout": 0.1}))
    assert "# Measured with --set window.days=2, which this file does not contain." in file.read_text()
    assert "seed" not in yaml.safe_load(file.read_text())["trainer"]


def test_a_shipped_configuration_is_extended_by_name(tmp_path: Path) -> None:
    current = load("demo")
    write_overlay(tmp_path / "demo-tuned.yaml", "demo", [], current, {"model.dim": 16}, [])
    assert yaml.safe_load((tmp_path / "demo-tuned.yaml").read_text()) == {"extends": "demo", "model": {"dim": 16}}


def test_a_proposed_mapping_cannot_drop_keys_of_the_extended_file(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text('extends: demo\ntrainer: {negatives: {"1": 0.1, "2": 0.2}}\n')
    current = load(base)
    with pytest.raises(UserError, match="lacks 2, which a file that extends"):
        write_overlay(tmp_path / "tuned.yaml", str(base), [], current, {"trainer.negatives": {"1": 0.3}}, [])
    assert not (tmp_path / "tuned.yaml").exists()


@pytest.mark.usefixtures("_one_code")
def test_a_report_with_a_proposal(tmp_path: Path) -> None:
    result = search(tmp_path, FakeRunner(tmp_path / "calls", GAINS, noise=0.001, failing=(name(EPOCHS, 2),)), 16)
    overrides = [f"paths.warehouse={tmp_path / 'warehouse'}"]
    found = report.write(result, "demo", overrides, "star-ctr tune --conf demo", tmp_path / "out")
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {
        "demo-tuned.yaml", "report.md", "trials.csv", "trials.png", "settings.png", "survival.png"
    }  # fmt: skip
    assert found["proposed"][DROPOUT] == 0.2
    assert found["unseen_night"] == NIGHTS.unseen
    assert json.loads(json.dumps(found)) == found
    text = (tmp_path / "out/report.md").read_text()
    assert "Proposed settings ([demo-tuned.yaml](demo-tuned.yaml))" in text
    assert "the loss is not finite" in text
    assert "![Gain by setting](settings.png)" in text
    trials = pd.read_csv(tmp_path / "out/trials.csv")
    assert len(trials) == 16
    assert trials.loc[0, "gain"] == 0
    assert set(trials["state"]) == {"complete", "stopped early", "failed"}
    comments = (tmp_path / "out/demo-tuned.yaml").read_text()
    assert f"# Gain on the unseen night {NIGHTS.unseen}: +0.0" in comments
    assert load(tmp_path / "out/demo-tuned.yaml").model.dropout == 0.2


@pytest.mark.usefixtures("_one_code")
def test_a_report_without_a_proposal_removes_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/demo-tuned.yaml").write_text("extends: demo\n")
    result = search(tmp_path, FakeRunner(tmp_path / "calls"), 4)
    found = report.write(result, "demo", [], "star-ctr tune --conf demo", tmp_path / "out")
    assert not (tmp_path / "out/demo-tuned.yaml").exists()
    assert found["proposed"] is None
    assert report.describe(found) == ["No settings found that beat the current ones."]
    assert "No settings found that beat the current ones. Keep them." in (tmp_path / "out/report.md").read_text()


def test_the_default_space_starts_from_the_present_settings(with_recipe: Path) -> None:
    space = {d.key: d for d in make_space(load(with_recipe))}
    lr = space["trainer.optimizer.lr"]
    assert (lr.low, lr.current, lr.high, lr.log) == (pytest.approx(0.002 / 3), 0.002, pytest.approx(0.006), True)
    assert space["trainer.batch_size"].choices == ("128", "64", "256")
    assert space["model.layers"].choices == ("[128, 64]", "[64, 32]", "[256, 128, 64]")
    assert space["trainer.epochs"].choices == ("1", "2")
    assert space["trainer.optimizer.embedding_lr"].current == 0.002, "its default is `lr`"
    overrides = ['tune.space={"model.dim": null, "trainer.negatives": {"low": 0.1, "high": 1.0}}']
    changed = {d.key for d in make_space(load(with_recipe, overrides))}
    assert changed == {*space, "trainer.negatives"} - {"model.dim"}
    only = make_space(load(with_recipe, [*overrides, "tune.only=true"]))
    assert [d.key for d in only] == ["trainer.negatives"]


def test_values_that_do_not_fit_together_are_an_error() -> None:
    settings = load("demo")
    with pytest.raises(UserError, match="partitioned normalization needs batches of one domain"):
        change_settings(settings, {"trainer.data.batches": "mixed"})
    mixed = {"trainer.data.batches": "mixed", "model.norm": "bn", "model.layers": [4]}
    assert_same_models(
        change_settings(settings, mixed), load("demo", [f"{k}={json.dumps(v)}" for k, v in mixed.items()])
    )
    assert settings == load("demo"), "the current settings are unchanged"


def test_a_variant_is_the_difference_from_the_present_settings(with_recipe: Path) -> None:
    current = load(with_recipe)
    found = parse_variant(str(with_recipe), [], 'trainer.epochs=2 model.layers="[8, 4]"', current)
    assert found == {"trainer.epochs": 2, "model.layers": [8, 4]}
    paper = parse_variant(str(with_recipe), [], "preset=paper", current)
    assert_same_models(change_settings(current, paper), load(with_recipe, ["preset=paper"]))
    with pytest.raises(UserError, match="need another split"):
        parse_variant(str(with_recipe), [], "window.days=1", current)
