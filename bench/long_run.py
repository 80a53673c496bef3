"""Benchmark: nights on thirty days of logs whose users and items come and go, with and without expiry.

Runs all nights twice: with vocabularies and a history that only grow, and with `expire_days`. Prints the rows of the
history that the night reads, the size of the embeddings and the GAUC. Merges the history every 2 and 8 days, instead of
every 8 and 64, so that thirty days have several bases.

- `embeddings_night_30_vs_night_22`, `state_night_30_vs_night_22`: model parameters, and rows of `history_counts` that a
  night reads, with expiry on day 30 over those on day 22. The rows rise until the next roll-up of eight days is merged,
  so only nights that are eight days apart can be compared.
- `gauc_with_expiry`: mean GAUC of the last ten nights with expiry, minus that without.

    python bench/long_run.py [--rows 3000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from click_logs import describe_logs, write_rows
from deltalake import DeltaTable
from entries import make_entry
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.history import roll_ups
from star_ctr.jobs.history.roll_ups import count_days
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.session import start
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.workflows import nightly

DAYS = list_days("2026-01-01", "2026-01-30")
LIFE = 5
"""Days on which an id occurs."""


def generate(folder: Path, rows: int) -> None:
    """Write the logs, with `rows` impressions per day. Every item has a click rate of its own."""
    rng = np.random.default_rng(0)
    users, items = rows // 20, rows // 30
    for number, day in enumerate(DAYS):

        def draw_ids(prefix: str, size: int, number: int = number) -> np.ndarray:
            # A fifth of the ids are new every day.
            rank = rng.integers(0, size, rows)
            return np.char.add(prefix, (rank + size * ((rank + number * size // LIFE) // size)).astype(str))

        item = draw_ids("i", items)
        at = pd.Timestamp(day) + pd.to_timedelta(np.sort(rng.integers(0, 80_000, rows)), "s")
        shown = pd.DataFrame({"view": [f"{day}-{k}" for k in range(rows)], "at": at, "item": item})
        shown["user"], shown["page"] = draw_ids("u", users), rng.choice(["feed", "search"], rows)
        affinity = pd.util.hash_array(item.astype(object)) % 1000 / 250 - 2
        clicked = shown[rng.random(rows) < 1 / (1 + np.exp(1.5 - affinity))]
        clicks = pd.DataFrame({"view": clicked["view"], "at": clicked["at"] + pd.Timedelta(seconds=60)})
        for name, frame in (("views", shown), ("clicks", clicks)):
            write_rows(folder / name / f"{day}.parquet", frame)


def configure(folder: Path, name: str, expires: bool) -> Path:
    """Write a configuration and return its path."""
    conf: dict[str, Any] = {
        "name": name,
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / name)},
        "logs": describe_logs(),
        "label": {"window_hours": 1},
        "window": {"days": 2},
        "history": {"shown": {"impressions": True}, "click": {"outcome": "label"}},
        "features": [
            {"name": "item", "kind": "categorical", "column": "item_id"},
            {"name": "user", "kind": "categorical", "column": "user_id"},
            {"name": "by_item", "kind": "statistic", "by": ["item_id"], "rates": {"click": "shown"}},
            {"name": "clicked", "kind": "sequence", "of": ["click"], "columns": {"item_id": "item"}, "length": 10},
        ],
        "split": {"vocabulary": "grown"},
        "preset": "paper",
        "model": {"layers": [16], "dim": 8},
        "trainer": {"batch_size": 128, "warm_start": "previous"},
        "gate": {"min_rows": 0, "min_clicks": 0},
        "spark": {"shuffle_partitions": 2},
    }  # fmt: skip
    if expires:
        conf["state"] = {"expire_days": LIFE}
        conf["model"]["embeddings"] = {"item": {"expire_days": LIFE}, "user": {"expire_days": LIFE}}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(conf, sort_keys=False))
    return file


def count_read_rows(settings: Settings, spark: SparkSession, ds: str, table: str) -> int:
    """Count the rows of the history that night `ds` reads for the features of its day."""
    state = HistoryState(settings, WarehouseTables(settings, spark), ds)
    chosen = {(str(p.span), p.ds) for p in state.merged.choose_partitions(count_days(ds), 0)}
    actions = DeltaTable(state.store.warehouse.table(table)).get_add_actions(flatten=True)
    columns = (pa.table(actions)[name].to_pylist() for name in ("partition.span", "partition.ds", "num_records"))
    return sum(n for span, day, n in zip(*columns, strict=True) if (str(span), day) in chosen)


def run_nights(conf: Path) -> pd.DataFrame:
    """Run all nights in one Spark session; returns their GAUC, values, model parameters and stored rows of the history."""
    settings = load(str(conf))
    spark = start(settings, "long run")
    roll_ups.SPANS = (2, 8)
    rows = []
    for ds in DAYS[2:]:
        metrics = nightly.run(settings, spark, ds)["metrics"]
        gauc = next(m["gauc"] for m in metrics if m["domain"] == OVERALL)
        record = json.loads(max(read_rows(f"{settings.paths.warehouse}/runs"), key=lambda r: r["ds"])["record"])
        values = len(read_rows(f"{settings.paths.warehouse}/vocabularies", f"ds = '{ds}'", ["id"]))
        state = {table: count_read_rows(settings, spark, ds, table) for table in ("history_counts", "history_events")}
        rows.append({"ds": ds, "gauc": gauc, "values": values, "parameters": record["parameters"], **state})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def run(rows: int = 3_000) -> list[dict[str, Any]]:
    """Run the benchmark and return its entries."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="star-ctr-long-") as name:
        folder = Path(name)
        generate(folder / "logs", rows)
        for kind in ("growing", "expiring"):
            found[kind] = run_nights(configure(folder, kind, kind == "expiring"))
    expiring, growing = found["expiring"].set_index("ds"), found["growing"].set_index("ds")
    last, before = DAYS[29], DAYS[21]
    entries = []
    for entry, column in (("embeddings", "parameters"), ("state", "history_counts")):
        ratio = expiring.loc[last, column] / expiring.loc[before, column]
        other = growing.loc[last, column] / growing.loc[before, column]
        details = f"{rows:,} impressions a day; without expiry: {other:.2f}"
        entries.append(make_entry(f"{entry}_night_30_vs_night_22", ratio, "ratio", 1.1, details))
    means = {kind: frame["gauc"].tail(10).mean() for kind, frame in found.items()}
    details = f"{means['expiring']:.4f} with expiry, {means['growing']:.4f} without, mean of ten nights"
    difference = means["expiring"] - means["growing"]
    return [*entries, make_entry("gauc_with_expiry", difference, "difference", -0.003, details, least=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000, help="impressions per day")
    print(json.dumps(run(parser.parse_args().rows), indent=1))
