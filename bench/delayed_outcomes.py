"""Benchmark: how delayed events bias the predictions of a further outcome (`label.also`).

Generates impressions with orders 18 hours later on average, and an attribution window of 72 hours. Trains one night
twice, with the outcome from

- events: a row trains the head only once its window has closed;
- a column that says whether there was an order so far: open windows count as negatives.

Prints the PCOC of the outcome on the test day, counting all orders that arrive within the window.

- `pcoc_of_delayed_outcomes`: |PCOC - 1| with events, over |PCOC - 1| with the column.

    python bench/delayed_outcomes.py [--rows 30000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from click_logs import TIME, describe_logs
from entries import make_entry
from open_labels import DAYS, NIGHT, generate
from size import run_star_ctr

from star_ctr.jobs.io.delta_rows import read_rows

WINDOW_HOURS = 72
OUTCOMES = {
    "events": {"order": {"window_hours": WINDOW_HOURS}},
    "column": {"order": {"column": "ordered_so_far"}},
}


def prepare(folder: Path, rows: int) -> pd.Series:
    """Write the logs of `open_labels` with orders in place of clicks.

    Returns:
        Whether each impression of the night is followed by an order within the window, by id of the impression.
    """
    generate(folder, rows)
    (folder / "clicks").rename(folder / "orders")
    orders = {day: pd.read_parquet(folder / "orders" / f"{day}.parquet") for day in DAYS}
    for day, found in orders.items():
        found.assign(what="order").to_parquet(folder / "orders" / f"{day}.parquet", index=False)
    known = set(pd.concat([found for day, found in orders.items() if day <= NIGHT])["view"])
    random = np.random.default_rng(1)
    for day in DAYS:
        views = pd.read_parquet(folder / "views" / f"{day}.parquet")
        views["opened"] = (random.random(len(views)) < 0.2).astype(int)
        views["ordered_so_far"] = views["view"].isin(known).astype(int)
        views.to_parquet(folder / "views" / f"{day}.parquet", index=False)
    shown = pd.read_parquet(folder / "views" / f"{NIGHT}.parquet").set_index("view")["at"]
    found = pd.concat(orders.values()).set_index("view")["at"].reindex(shown.index)
    return found - shown <= pd.Timedelta(hours=WINDOW_HOURS)


def measure_pcoc(folder: Path, name: str, ordered: pd.Series) -> float:
    """Run the night with one definition of the outcome, and return its PCOC, counting all orders of the night."""
    logs = describe_logs()
    events = {"path": "orders/{ds}.parquet", "format": "parquet", "impression": "view", "event": "what", "time": TIME}
    conf = {
        "name": name,
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / name)},
        "logs": {"impressions": logs["impressions"], "events": events},
        "label": {"column": "opened", "also": OUTCOMES[name]},
        "window": {"days": 5},
        "features": [{"name": "item", "kind": "categorical", "column": "item_id"}],
        "preset": "paper",
        "model": {"layers": [16], "dim": 8},
        "trainer": {"batch_size": 256},
        "gate": {"min_rows": 0, "min_clicks": 0},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(conf, sort_keys=False))
    run_star_ctr(folder, "nightly", "--conf", str(file), "--ds", NIGHT)
    rows = pd.DataFrame(read_rows(str(folder / name / "scores"))).query("ds == @NIGHT")
    predicted = rows["outcome_scores"].map(lambda pairs: dict(pairs)["order"]).sum()
    return float(predicted / ordered.loc[rows["impression_id"]].sum())


def run(rows: int = 30_000) -> list[dict[str, Any]]:
    """Run the benchmark and return its entry."""
    with tempfile.TemporaryDirectory(prefix="star-ctr-delayed-") as name:
        folder = Path(name)
        ordered = prepare(folder / "logs", rows)
        events, column = (measure_pcoc(folder, name, ordered) for name in OUTCOMES)
    reference = f"{rows:,} impressions a day; PCOC of orders {events:.3f} with events and {column:.3f} with the column"
    return [make_entry("pcoc_of_delayed_outcomes", abs(events - 1) / abs(column - 1), "ratio", 0.5, reference)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000, help="impressions per day")
    print(json.dumps(run(parser.parse_args().rows), indent=1))
