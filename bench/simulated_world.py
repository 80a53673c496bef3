"""Simulated worlds whose nights are prepared with Spark: logs of `star-ctr simulate` with the settings of conf/demo.yaml.

The settings have no `model` and `trainer`, so models start from the defaults or from the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from star_ctr.conf.recipe import TrainingSize
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.job_definition import PinnedVersions

NIGHTS = ("2026-01-07", "2026-01-08")
"""The last two days of the logs; they have two and three training days."""
_POPULATIONS = {20_000: (1_000, 1_000), 100_000: (4_000, 2_000), 600_000: (20_000, 5_000), 3_000_000: (100_000, 25_000)}
"""Users and items by number of impressions."""


class PreparedWorld(NamedTuple):
    """The inputs of all training runs in a world.

    Attributes:
        settings: The settings, without a recipe.
        size: The size of the training data of the newest night, from which a recipe is chosen.
        pins: The pinned inputs of each night.
    """

    settings: Settings
    size: TrainingSize
    pins: Mapping[str, PinnedVersions]


def count_population(impressions: int) -> tuple[int, int]:
    """Return the number of users and of items for a number of impressions."""
    return _POPULATIONS.get(impressions, (max(500, impressions // 30), max(500, impressions // 120)))


def write_world(folder: Path, name: str, simulate: Mapping[str, Any], **changed: Any) -> Path:
    """Write the settings of a world: those of conf/demo.yaml without models, and return the YAML file.

    Args:
        folder: The folder of the world, also of its logs and its warehouse.
        name: The name of the data set.
        simulate: Settings of the simulator that differ from those of conf/demo.yaml.
        changed: Further sections of the settings.
    """
    demo = yaml.safe_load((Path(__file__).parent.parent / "conf/demo.yaml").read_text())
    conf = {key: value for key, value in demo.items() if key not in ("model", "trainer", "compare", "preset")} | {
        "name": name,
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / "warehouse")},
        "simulate": {**demo["simulate"], **simulate},
        **changed,
    }
    file = folder / "world.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(conf, sort_keys=False))
    return file


def prepare_world(folder: Path, world: int, impressions: int) -> PreparedWorld:
    """Simulate the logs of a world with Spark, and write the splits of `NIGHTS`.

    Args:
        folder: The folder of the world.
        world: The seed of the simulation.
        impressions: The number of impressions in four days.
    """
    from star_ctr.conf.load import load
    from star_ctr.conf.recipe import read_recipe
    from star_ctr.jobs.io.session import start
    from star_ctr.jobs.tools import simulate
    from star_ctr.workflows.trials import prepare_nights

    users, items = count_population(impressions)
    size = {"impressions": impressions, "users": users, "items": items, "seed": world}
    file = write_world(folder, f"world{world}", size)
    settings = load(file, with_recipe=False)
    spark = start(settings, "recipe worlds")
    simulate.run(settings, spark)
    _, pins = prepare_nights(settings, spark, NIGHTS)
    recipe = read_recipe(settings.paths)
    assert recipe is not None
    return PreparedWorld(settings, recipe.size, pins)
