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

VALUES = {
    "model.layers": [32], "model.norm_eps": 0.1, "trainer.batch_size": 99, "trainer.optimizer.lr": 0.5,
    "trainer.optimizer.domain_lr": 0.7, "model.dropout": 0.2,
}  # fmt: skip
WITH_RATES = ["trainer.optimizer.lr", "trainer.optimizer.domain_lr", "model.dropout"]
RECIPE = Recipe(
    rule_version=1, ds="2026-03-04", size=TrainingSize(rows=20, clicks=2, domains=3, used_rows=10), settings=VALUES
)


@pytest.fixture
def conf(tmp_path: Path) -> str:
    given = {k: v for k, v in small_logs.CONF.items() if k not in ("model", "trainer", "preset")}
    given["paths"] = {"logs": str(tmp_path), "warehouse": str(tmp_path / "w")}
    given["trainer"] = {"epochs": 3, "optimizer": {"lr": 0.25}}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(given))
    return str(tmp_path / "shop.yaml")


def get_values(settings: Settings) -> list[object]:
    t = settings.trainer
    return [settings.model.layers, settings.model.norm_eps, t.batch_size, t.optimizer.lr, t.epochs]


def test_the_file_and_overrides_take_precedence(conf: str) -> None:
    before = load(conf)
    assert get_values(before) == [[512, 256, 128, 64, 32, 16], 1e-5, 2000, 0.25, 3]
    write_recipe(before.paths, RECIPE)
    assert get_values(load(conf)) == [[32], 0.1, 99, 0.25, 3]
    assert get_values(load(conf, ["model.layers=[7]", "trainer.batch_size=2000"])) == [[7], 0.1, 2000, 0.25, 3]
    assert get_values(load(conf, ["preset=paper"])) == get_values(before)
    assert get_values(load(conf, with_recipe=False)) == get_values(before)


def test_a_learning_rate_of_the_file_replaces_all_that_was_chosen_with_the_rates(conf: str) -> None:
    """A rate of the recipe fits the other rates, the epochs and the dropout of the recipe."""
    write_recipe(load(conf).paths, RECIPE)
    assert list_overridden_keys(load(conf, with_recipe=False), VALUES) == WITH_RATES
    assert (load(conf).trainer.optimizer.domain_lr, load(conf).model.dropout) == (None, 0.0)
    free = ["trainer={epochs: 3}"]
    assert list_overridden_keys(load(conf, free, with_recipe=False), VALUES) == []
    assert load(conf, free).trainer.optimizer.domain_lr == 0.7
    mixed = [*free, "trainer.data.batches=mixed", "model.norm=bn"]
    assert list_overridden_keys(load(conf, mixed, with_recipe=False), VALUES) == ["trainer.optimizer.domain_lr"]


def test_the_run_id_covers_the_settings_of_the_recipe(conf: str) -> None:
    write_recipe(load(conf).paths, RECIPE)
    used = load(conf)
    stored = Settings.model_validate(used.model_dump(mode="json"))
    assert make_run_id(stored, "2026-03-04") == make_run_id(used, "2026-03-04")
    assert make_run_id(load(conf, ["preset=paper"]), "2026-03-04") != make_run_id(used, "2026-03-04")
    explicit = [f"{k}={v}" for k, v in VALUES.items() if k not in WITH_RATES]
    assert make_run_id(load(conf, ["preset=paper", *explicit]), "2026-03-04") == make_run_id(used, "2026-03-04")


def test_a_damaged_recipe_is_one_clear_error(conf: str) -> None:
    paths = load(conf).paths
    write_recipe(paths, RECIPE)
    assert read_recipe(paths) == RECIPE
    file = Path(paths.warehouse) / "recipe.json"
    whole = file.read_text()
    for damaged in (
        whole[:50].encode(),
        b"\xff" + whole.encode(),
        whole.replace("trainer.batch_size", "trainer.batch").encode(),
        whole.replace("trainer.batch_size", "trainer.seed.batch").encode(),
        whole.replace("trainer.batch_size", "gate.min_rows").encode(),
        whole.replace("99", '"many"').encode(),
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"recipe\.json: damaged, .*; delete it"):
            load(conf)
    assert load(conf, ["preset=paper"]).trainer.batch_size == 2000


@pytest.mark.parametrize(("rows", "warns"), [(2, True), (3, False), (39, False), (40, True)])
def test_a_change_of_the_size_is_reported(conf: str, rows: int, warns: bool) -> None:
    write_recipe(load(conf).paths, RECIPE)  # for 10 rows after downsampling
    assert bool(describe_size_change(load(conf), rows)) == warns
    assert describe_size_change(load(conf, ["preset=paper"]), rows) == []
