"""Benchmark: what training on open labels does to PCOC, if clicks follow hours to days after their impressions.

Generates logs whose clicks follow after 18 hours on average, and labels with an attribution window of 72 hours. Trains
one night with `label.open: keep` and one with `drop`, and computes the final metrics of both once all labels are final.

- `pcoc_with_open_labels_dropped`: |PCOC - 1| with `drop`, over |PCOC - 1| with `keep`.

    python bench/open_labels.py [--rows 30000]
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
from click_logs import describe_logs, write_rows
from entries import make_entry
from size import run_star_ctr

from star_ctr.conf.contracts.dates import list_days
from star_ctr.jobs.io.delta_rows import read_rows

DAYS = list_days("2026-01-01", "2026-01-09")
NIGHT, LAST = DAYS[5], DAYS[8]


def generate(folder: Path, rows: int) -> None:
    """Write the logs, with `rows` impressions per day."""
    rng = np.random.default_rng(0)
    affinity = rng.normal(size=500)
    late: list[pd.DataFrame] = []
    for day in DAYS:
        start = pd.Timestamp(day)
        item = rng.integers(0, len(affinity), rows)
        seconds = np.sort(rng.integers(0, 86_400, rows))
        at = pd.Series(start + pd.to_timedelta(seconds, "s"))
        shown = pd.DataFrame({"view": [f"{day}-{k}" for k in range(rows)], "at": at})
        shown["user"] = np.char.add("u", rng.integers(0, rows // 10, rows).astype(str))
        shown["item"] = np.char.add("i", item.astype(str))
        shown["page"] = rng.choice(["feed", "search"], rows)
        write_rows(folder / "views" / f"{day}.parquet", shown)
        clicked = shown[rng.random(rows) < 1 / (1 + np.exp(2 - 0.5 * affinity[item]))]
        delay = pd.to_timedelta(rng.exponential(18 * 3600, len(clicked)).astype(int), "s")
        late.append(pd.DataFrame({"view": clicked["view"], "at": clicked["at"] + delay}))
        clicks = pd.concat(late)
        today = clicks["at"] < start + pd.Timedelta(days=1)
        write_rows(folder / "clicks" / f"{day}.parquet", clicks[today])
        late = [clicks[~today]]


def measure_pcoc(folder: Path, choice: str) -> tuple[float, float]:
    """Run a night and three later ones, which close its labels; returns its provisional and its final PCOC."""
    conf = {
        "name": choice,
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / choice)},
        "logs": describe_logs(),
        "label": {"window_hours": 72, "open": choice},
        "window": {"days": 5},
        "features": [{"name": "item", "kind": "categorical", "column": "item_id"}],
        "preset": "paper",
        "model": {"layers": [16], "dim": 8},
        "trainer": {"batch_size": 256},
        "gate": {"min_rows": 0, "min_clicks": 0},
    }  # fmt: skip
    file = folder / f"{choice}.yaml"
    file.write_text(yaml.safe_dump(conf, sort_keys=False))
    for night in (NIGHT, LAST):
        run_star_ctr(folder, "nightly", "--conf", str(file), "--ds", night)
    found = [
        next(
            r["pcoc"] for r in read_rows(str(folder / choice / table)) if r["ds"] == NIGHT and r["domain"] == "overall"
        )
        for table in ("metrics", "final_metrics")
    ]
    return found[0], found[1]


def run(rows: int = 30_000) -> list[dict[str, Any]]:
    """Run the benchmark and return its entry."""
    with tempfile.TemporaryDirectory(prefix="star-ctr-open-") as name:
        folder = Path(name)
        generate(folder / "logs", rows)
        keep, drop = (measure_pcoc(folder, choice) for choice in ("keep", "drop"))
    ratio = abs(drop[1] - 1) / abs(keep[1] - 1)
    reference = (
        f"{rows:,} impressions a day; final PCOC {drop[1]:.3f} with drop and {keep[1]:.3f} with keep "
        f"(provisional: {drop[0]:.3f} and {keep[0]:.3f})"
    )
    return [make_entry("pcoc_with_open_labels_dropped", ratio, "ratio", 0.5, reference)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000, help="impressions per day")
    print(json.dumps(run(parser.parse_args().rows), indent=1))
