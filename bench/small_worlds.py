"""Small worlds for the benchmark of `star-ctr tune`: encoded rows of a few nights that NumPy generates, without Spark.

Clicks depend on products of latent vectors of users and items, which each domain weights in its own way. The quality of
an item changes from day to day. Rows have the ids of user, item, category and hour, and the click rates of
users, items and items by domain on earlier days.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from deltalake import DeltaTable, write_deltalake

from star_ctr.conf.contracts.catalog import NIGHT_TABLES
from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, IdField, Layout, NumericField, NumericSource
from star_ctr.conf.load import load
from star_ctr.conf.recipe import Recipe, TrainingSize, apply_recipe, write_recipe
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.jobs.registry.job_definition import PinnedVersions
from star_ctr.model.recipe_rule import RULE_VERSION, choose_settings
from star_ctr.workflows.tune.nights import Nights, Prepared

DAYS = list_days("2026-01-01", "2026-01-06")
WINDOW = 3
"""Number of training days; the first search night has fewer."""
SIZES = {"user": 600, "item": 300, "category": 20, "hour": 24}
RATES = ("user_rate", "item_rate", "item_domain_rate")
DOMAINS = 4
PRIOR = 10
"""Number of impressions with the mean click rate that smooth each click rate."""


def generate(world: int, rows_a_day: int) -> pd.DataFrame:
    """Generate the rows of all days: `day`, `domain` (from 1), the ids from 0, `label` and RATES.

    Args:
        world: The seed.
        rows_a_day: The number of rows per day.
    """
    rng = np.random.default_rng(world)
    users, items = SIZES["user"], SIZES["item"]
    user_vectors, item_vectors = rng.normal(size=(users, 6)), rng.normal(size=(items, 6))
    scales, biases = rng.uniform(0.2, 1.2, (DOMAINS, 6)), rng.normal(0, 0.4, DOMAINS)
    user_bias, quality = rng.normal(0, 0.5, users), rng.normal(0, 0.5, items)
    category = rng.integers(0, SIZES["category"], items)
    found = []
    for number, _ in enumerate(DAYS):
        quality = quality + rng.normal(0, 0.15, items)
        user = (users * rng.random(rows_a_day) ** 2).astype(int)
        item = (items * rng.random(rows_a_day) ** 2).astype(int)
        domain = rng.choice(DOMAINS, rows_a_day, p=[0.5, 0.3, 0.15, 0.05])
        match = (user_vectors[user] * item_vectors[item] * scales[domain]).sum(axis=1) / 2
        logit = -2.3 + match + user_bias[user] + quality[item] + biases[domain]
        label = (rng.random(rows_a_day) < 1 / (1 + np.exp(-logit))).astype(float)
        columns = {"user": user, "item": item, "category": category[item], "hour": rng.integers(0, 24, rows_a_day)}
        found.append(pd.DataFrame({"day": number, "domain": domain + 1, **columns, "label": label}))
    rows = pd.concat(found, ignore_index=True)
    for name, keys in zip(RATES, (["user"], ["item"], ["item", "domain"]), strict=True):
        by_day = rows.groupby([*keys, "day"])["label"].agg(["sum", "size"]).unstack("day", fill_value=0)
        before = by_day.T.groupby(level=0).cumsum().T - by_day
        rate = (before["sum"] + 0.1 * PRIOR) / (before["size"] + PRIOR)
        rows[name] = rate.stack().reindex(pd.MultiIndex.from_frame(rows[[*keys, "day"]])).to_numpy()
    return rows


def prepare_world(folder: Path, world: int, rows_a_day: int = 8_000) -> Prepared:
    """Write the split of a world, and return the inputs of a search that starts from the recipe.

    Args:
        folder: The folder of the world.
        world: The seed of the world.
        rows_a_day: The number of rows per day.
    """
    demo = yaml.safe_load((Path(__file__).parent.parent / "conf/demo.yaml").read_text())
    conf = {key: value for key, value in demo.items() if key not in ("model", "trainer", "compare", "preset")}
    conf |= {"name": f"world{world}", "paths": {"logs": str(folder), "warehouse": str(folder / "warehouse")}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "world.yaml").write_text(yaml.safe_dump(conf, sort_keys=False))
    settings = load(folder / "world.yaml", with_recipe=False)
    table, rows = f"{settings.paths.warehouse}/split", generate(world, rows_a_day)
    nights = Nights(DAYS[-1], DAYS[2:4], DAYS[4])
    if not DeltaTable.is_deltatable(table):
        for night in (*nights.search, nights.unseen):
            _write_night(table, rows, DAYS.index(night))
    size = rows[rows["day"].between(4 - WINDOW, 3)]
    counts = {"rows": len(size), "clicks": int(size["label"].sum()), "domains": DOMAINS, "used_rows": len(size)}
    recipe = choose_settings(TrainingSize(**counts))
    write_recipe(
        settings.paths,
        Recipe(rule_version=RULE_VERSION, ds=nights.unseen, size=TrainingSize(**counts), settings=recipe),
    )
    version = DeltaTable(table).version()
    pins = {
        night: PinnedVersions(
            NIGHT_TABLES, {"split": version, "vocabularies": 0}, _make_layout(night), [], f"world{world}"
        )
        for night in (*nights.search, nights.unseen)
    }
    return Prepared(apply_recipe(settings), nights, pins)


def _make_layout(night: str) -> Layout:
    return Layout(
        ds=night, domains=[f"d{p}" for p in range(1, DOMAINS + 1)], embeddings={name: size + FIRST_KNOWN for name, size in SIZES.items()},
        categorical=[IdField(name=name, column=name, embedding=name) for name in SIZES], buckets=[],
        numeric=[NumericField(name=name, source=NumericSource(column=name)) for name in RATES], sequences=[],
    )  # fmt: skip


def _write_night(table: str, rows: pd.DataFrame, number: int) -> None:
    """Append the training days and the test day of a night, one file per domain and part."""
    window = rows[rows["day"].between(max(0, number - WINDOW), number)]
    train = window[window["day"] < number]
    mean, deviation = train[list(RATES)].mean(), train[list(RATES)].std()
    for (is_test, domain), own in window.groupby([window["day"] == number, "domain"]):
        shuffled = own.sample(frac=1.0, random_state=0)
        floats = ((shuffled[list(RATES)] - mean) / deviation).clip(-4, 4).to_numpy(np.float32)
        n, part = len(own), "test" if is_test else "train"
        columns: dict[str, Any] = {
            "impression_id": [f"{k:08d}" for k in shuffled.index], "user_id": [f"u{u}" for u in shuffled["user"]],
            "day": [DAYS[d] for d in shuffled["day"]], "label": shuffled["label"].to_numpy(np.float32),
            "label_final": [True] * n, "domain_id": np.full(n, domain, np.int32),
            "ints": pack_rows(shuffled[list(SIZES)].to_numpy(np.int32) + FIRST_KNOWN), "floats": pack_rows(floats),
            "ds": [DAYS[number]] * n, "part": [part] * n, "domain": [f"d{domain}"] * n,
            "domain_number": np.full(n, domain, np.int32),
        }  # fmt: skip
        write_deltalake(table, pa.table(columns), mode="append", partition_by=["ds", "part", "domain_number"])
