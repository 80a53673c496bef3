"""The recipe fills in settings that the YAML file does not contain."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError
from star_ctr.conf.load import load
from star_ctr.conf.recipe import Recipe, TrainingSize, list_overridden_keys, read_recipe, write_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.recipes import describe_size_change
from tests import small_logs

VALUES = {"model.layers": [32], "model.dropout": 0.1, "trainer.batch_size": 99, "trainer.optimizer.lr": 0.5}
RECIPE = Recipe(rule_version=1, ds="2026-03-04", size=TrainingSize(rows=10, clicks=2, domains=3), settings=VALUES)


@pytest.fixture
def conf(tmp_path: Path) -> str:
    given = {k: v for k, v in small_logs.CONF.items() if k not in ("model", "trainer", "preset")}
    given["paths"] = {"logs": str(tmp_path), "warehouse": str(tmp_path / "w")}
    given["trainer"] = {"epochs": 3, "optimizer": {"lr": 0.25}}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(given))
    return str(tmp_path / "shop.yaml")


def get_values(settings: Settings) -> list[object]:
    t = settings.trainer
    return [settings.model.layers, settings.model.dropout, t.batch_size, t.optimizer.lr, t.epochs]


def test_the_file_and_overrides_take_precedence(conf: str) -> None:
    before = load(conf)
    assert get_values(before) == [[512, 256, 128, 64, 32, 16], 0.0, 2000, 0.25, 3]
    write_recipe(before.paths, RECIPE)
    assert get_values(load(conf)) == [[32], 0.1, 99, 0.25, 3]
    assert get_values(load(conf, ["model.layers=[7]", "trainer.batch_size=2000"])) == [[7], 0.1, 2000, 0.25, 3]
    assert get_values(load(conf, ["preset=paper"])) == get_values(before)
    assert get_values(load(conf, with_recipe=False)) == get_values(before)
    assert list_overridden_keys(load(conf, with_recipe=False), VALUES) == ["trainer.optimizer.lr"]


def test_the_run_id_covers_the_settings_of_the_recipe(conf: str) -> None:
    write_recipe(load(conf).paths, RECIPE)
    used = load(conf)
    stored = Settings.model_validate(used.model_dump(mode="json"))
    assert make_run_id(stored, "2026-03-04") == make_run_id(used, "2026-03-04")
    assert make_run_id(load(conf, ["preset=paper"]), "2026-03-04") != make_run_id(used, "2026-03-04")
    explicit = [f"{k}={v}" for k, v in VALUES.items() if k != "trainer.optimizer.lr"]
    assert make_run_id(load(conf, ["preset=paper", *explicit]), "2026-03-04") == make_run_id(used, "2026-03-04")


def test_a_damaged_recipe_is_one_clear_error(conf: str) -> None:
    paths = load(conf).paths
    write_recipe(paths, RECIPE)
    assert read_recipe(paths) == RECIPE
    file = Path(paths.warehouse) / "recipe.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(DataError, match=r"recipe\.json: damaged, .*; delete it"):
        load(conf)
    assert load(conf, ["preset=paper"]).trainer.batch_size == 2000


@pytest.mark.parametrize(("rows", "warns"), [(2, True), (3, False), (39, False), (40, True)])
def test_a_change_of_the_size_is_reported(conf: str, rows: int, warns: bool) -> None:
    write_recipe(load(conf).paths, RECIPE)  # for 10 rows
    assert bool(describe_size_change(load(conf), rows)) == warns
    assert describe_size_change(load(conf, ["preset=paper"]), rows) == []
