"""Benchmark: what a night costs as the log grows.

Generates logs of thirty days with dated clicks, behaviours and attributes. Users and items come and go: the ids of a day
are a window that moves on by a twentieth per day. Nights train on one day, with a grown vocabulary.

- `night_30_vs_night_3`: processor time of `ingest`, `features` and `split` of night 30, over that of night 3.
- `features_new_day_vs_full`: processor time of `features` for one new day, with a window of 14 days, over that of
  `features --full`, which computes the state and all days of the window again.

Each measured step is a separate command, so it includes the start of Spark. The nights in between are not measured, and
share a Spark session.

    python bench/nights.py [--rows 100000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from click_logs import TIME, describe_logs, write_rows
from entries import make_entry
from size import run_star_ctr
from sizing import measure_core_seconds

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.load import load
from star_ctr.jobs.io.session import start
from star_ctr.workflows.nightly import run_step

DAYS = list_days("2026-01-01", "2026-01-31")
DOMAINS = ["feed", "search", "shop", "video"]
STEPS = ("ingest", "features", "split")
MOVE = 20
"""After this number of days, all users and items of a day are new."""


def generate(folder: Path, rows: int, days: list[str]) -> None:
    """Write the logs.

    Args:
        folder: The folder of the logs.
        rows: The number of impressions per day.
        days: The days.
    """
    rng = np.random.default_rng(0)
    users, items = rows // 10, rows // 50
    for number, day in enumerate(days):
        start = pd.Timestamp(day)

        def draw_ids(prefix: str, size: int, n: int, number: int = number) -> np.ndarray:
            # Low ranks are frequent. A rank is another id every MOVE days.
            rank = (size * rng.random(n) ** 3).astype(int)
            return np.char.add(prefix, (rank + size * ((rank + number * size // MOVE) // size)).astype(str))

        def draw_times(n: int, start: pd.Timestamp = start) -> pd.Series:
            return pd.Series(start + pd.to_timedelta(np.sort(rng.integers(0, 86_400, n)), "s"))

        shown = pd.DataFrame(
            {
                "view": [f"{day}-{k}" for k in range(rows)],
                "user": draw_ids("u", users, rows),
                "item": draw_ids("i", items, rows),
                "page": rng.choice(DOMAINS, rows, p=[0.6, 0.2, 0.15, 0.05]),
                "at": draw_times(rows),
                "price": rng.gamma(2.0, 10.0, rows),
            }
        )
        write_rows(folder / "views" / f"{day}.parquet", shown)
        clicked = shown[rng.random(rows) < 0.1]
        delay = pd.to_timedelta(rng.exponential(1800, len(clicked)).astype(int), "s")
        write_rows(
            folder / "clicks" / f"{day}.parquet", pd.DataFrame({"view": clicked["view"], "at": clicked["at"] + delay})
        )
        carts = pd.DataFrame({"user": draw_ids("u", users, rows // 5), "item": draw_ids("i", items, rows // 5)})
        write_rows(folder / "carts" / f"{day}.parquet", carts.assign(what="cart", at=draw_times(rows // 5)))
        known = pd.unique(pd.concat([shown["item"], carts["item"]]))
        kinds = [f"c{int(item[1:]) % 40}" for item in known]
        write_rows(folder / "items" / f"{day}.parquet", pd.DataFrame({"item": known, "kind": kinds}))


def configure(folder: Path, name: str, **more: Any) -> str:
    """Write a configuration and return its path."""
    conf = {
        "name": name,
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / name)},
        "logs": {
            **describe_logs(),
            "behaviours": {
                "path": "carts/{ds}.parquet", "format": "parquet", "user": "user", "item": "item", "behaviour": "what",
                "time": TIME,
            },
            "items": {"path": "items/{ds}.parquet", "format": "parquet", "key": "item"},
        },
        "label": {"window_hours": 24},
        "history": {
            "shown": {"impressions": True}, "click": {"outcome": "label"}, "cart": {"behaviours": "cart"},
        },
        "features": [
            {"name": "item", "kind": "categorical", "column": "item_id"},
            {"name": "kind", "kind": "categorical", "column": "items.kind"},
            {"name": "hour", "kind": "categorical", "column": "hour"},
            {"name": "price", "kind": "numeric", "column": "impressions.price"},
            {"name": "by_item", "kind": "statistic", "by": ["item_id"], "counts": ["cart"], "rates": {"click": "shown"}},
            {"name": "by_user", "kind": "statistic", "by": ["user_id"], "rates": {"click": "shown"}},
            {"name": "by_pair", "kind": "statistic", "by": ["user_id", "items.kind"], "rates": {"click": "shown"}},
            {"name": "by_week", "kind": "statistic", "by": ["item_id", "domain"], "rates": {"click": "shown"}, "last_days": 7},
            {"name": "liked", "kind": "sequence", "of": ["click", "cart"], "columns": {"item_id": "item"}, "length": 20},
        ],
        "split": {"vocabulary": "grown"},
        **more,
    }  # fmt: skip
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(conf, sort_keys=False))
    return str(file)


def measure_nights(folder: Path, rows: int) -> dict[str, Any]:
    """Return an entry with the processor time of night 30 over that of night 3."""
    generate(folder / "logs", rows, DAYS[:30])
    conf = configure(folder, "nights", window={"days": 1})
    seconds: dict[int, dict[str, float]] = {}
    for number, before in ((3, DAYS[1:2]), (30, DAYS[3:29])):
        arguments = [sys.executable, __file__, "--conf", conf, "--nights", *before]
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        day = DAYS[number - 1]
        seconds[number] = {step: measure_core_seconds(folder, step, "--conf", conf, "--ds", day) for step in STEPS}
    ratio = sum(seconds[30].values()) / sum(seconds[3].values())
    details = "; ".join(
        f"night {n}: {', '.join(f'{step} {s:.0f} s' for step, s in found.items())}" for n, found in seconds.items()
    )
    return make_entry("night_30_vs_night_3", ratio, "ratio", 1.15, f"{rows:,} impressions a day; {details}")


def run_nights(conf: str, days: list[str]) -> None:
    """Run the steps of some nights in one Spark session."""
    settings = load(conf)
    spark = start(settings, "nights")
    for day in days:
        for step in STEPS:
            run_step(settings, spark, step, day, "benchmark")


def measure_features(folder: Path, rows: int) -> dict[str, Any]:
    """Return an entry with the processor time of `features` for a new day over that of all days."""
    generate(folder / "logs", rows, DAYS[:15])
    conf = configure(folder, "window", window={"days": 14})
    for day in (DAYS[13], DAYS[14]):
        run_star_ctr(folder, "ingest", "--conf", conf, "--ds", day)
        if day == DAYS[13]:
            run_star_ctr(folder, "features", "--conf", conf, "--ds", day)
    new = measure_core_seconds(folder, "features", "--conf", conf, "--ds", DAYS[14])
    full = measure_core_seconds(folder, "features", "--full", "--conf", conf, "--ds", DAYS[14])
    return make_entry(
        "features_new_day_vs_full", new / full, "ratio", 1 / 6, f"{rows * 14:,} impressions in 14 days; {new:.0f} s and {full:.0f} s",
    )  # fmt: skip


def run(rows: int = 100_000) -> list[dict[str, Any]]:
    """Run both measurements and return their entries."""
    found = []
    for measure, number in ((measure_nights, rows), (measure_features, 10 * rows)):
        with tempfile.TemporaryDirectory(prefix="star-ctr-nights-") as name:
            found.append(measure(Path(name), number))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="impressions per day")
    parser.add_argument("--conf", help="configuration for --nights")
    parser.add_argument("--nights", nargs="+", default=[], help="only run these nights, without measuring them")
    arguments = parser.parse_args()
    if arguments.nights:
        run_nights(arguments.conf, arguments.nights)
    else:
        print(json.dumps(run(arguments.rows), indent=1))
