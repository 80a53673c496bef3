"""Random small logs whose rows arrive late, early, twice and with times on other days than their log day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings

ZONE = "Asia/Tokyo"
HISTORY = {
    "shown": {"impressions": True},
    "click": {"outcome": "label"},
    "spend": {"outcome": "spend"},
    "cart": {"behaviours": "cart"},
}
FEATURES = [
    {"name": "sku", "kind": "categorical", "column": "item_id"},
    {"name": "kind", "kind": "categorical", "column": "items.category"},
    {"name": "by_sku", "kind": "statistic", "by": ["item_id"], "rates": {"click": "shown"}, "counts": ["cart"]},
    {"name": "by_kind", "kind": "statistic", "by": ["user_id", "items.category"], "counts": ["spend"], "since": ["click"]},
    {"name": "week", "kind": "statistic", "by": ["domain"], "counts": ["shown", "spend"], "last_days": 2},
    {"name": "faded", "kind": "statistic", "by": ["domain"], "counts": ["spend", "click"], "half_life_days": 0.5},
    {"name": "now", "kind": "statistic", "by": ["user_id"], "counts": ["shown", "spend"], "since": ["shown"], "cut": "time"},
    {"name": "last", "kind": "sequence", "of": ["click", "cart"], "columns": {"item_id": "sku", "items.category": "kind"},
     "length": 3, "behaviour": True},
    {"name": "before", "kind": "sequence", "of": ["shown"], "columns": {"item_id": "sku"}, "length": 2, "cut": "day"},
]  # fmt: skip


FEW_FEATURES = [f for f in FEATURES if f["name"] in ("sku", "by_sku", "now", "last")]
"""Statistics with both cuts and a sequence, for tests that are not about single features."""


class RandomLogs:
    """Logs of consecutive days, some of which are written.

    Args:
        folder: The folder of the logs.
        seed: Seed of the rows.
        days: The log days.
        rows: Impressions per day.
    """

    def __init__(self, folder: Path, seed: int, days: list[str], rows: int = 40) -> None:
        self.folder, self.rng, self.days, self.rows = folder, np.random.default_rng(seed), days, rows

    def write(self, day: str) -> None:
        """Write the logs of a day, or replace them by other rows."""
        start = pd.Timestamp(day)
        shown = self._draw_times(start, self.rows)
        n, rng = len(shown), self.rng
        views = pd.DataFrame(
            {
                "view": [f"{day}-{k}" for k in range(n - 2)] + ["again-1", "again-2"],  # ids that are used every day
                "visitor": rng.choice(["p", "q", "r", ""], n, p=[0.5, 0.2, 0.2, 0.1]),
                "sku": rng.choice(["s1", "s2", "s3", "s4"], n),
                "surface": rng.choice(["home", "search"], n),
                "spend": rng.choice(["1.25", "", "3", "-2"], n),
                "at": shown,
            }
        )
        views = views[views["visitor"] != ""]
        self._write("views", day, views)
        # Clicks on today's and yesterday's impressions, up to 20 hours later, and logged up to a day later than that.
        clicked = views[rng.random(len(views)) < 0.5]
        delay = pd.to_timedelta(rng.choice([1, 60, 20 * 3600, 30 * 3600], len(clicked), p=[0.5, 0.3, 0.15, 0.05]), "s")
        clicks = pd.DataFrame({"view": clicked["view"], "at": clicked["at"] + delay})
        clicks = pd.concat([clicks, clicks.head(3).assign(at=lambda f: f["at"] + pd.Timedelta(seconds=5))])
        late = rng.random(len(clicks)) < 0.3
        self._write("clicks", day, clicks[~late], name="prompt")
        following = str((start + pd.Timedelta(days=1)).date())
        self._write("clicks", following, clicks[late], name=f"late-{day}")
        carts = pd.DataFrame({"at": self._draw_times(start, 10)})
        carts = carts.assign(user=rng.choice(["p", "q"], 10), sku=rng.choice(["s1", "s2"], 10), what="cart")
        self._write("carts", day, carts)
        items = pd.DataFrame({"sku": ["s1", "s2", "s3"], "category": rng.choice(["red", "blue"], 3)})
        self._write("items", day, items)

    def _draw_times(self, start: pd.Timestamp, n: int) -> pd.Series:
        """Return times of a log day; some are on the day before or after."""
        shift = self.rng.choice([0, -1, 1], n, p=[0.9, 0.06, 0.04])
        seconds = self.rng.integers(0, 86_400, n)
        return pd.Series(start + pd.to_timedelta(shift, "D") + pd.to_timedelta(seconds, "s"))

    def _write(self, log: str, day: str, rows: pd.DataFrame, name: str = "part") -> None:
        folder = self.folder / log / day
        folder.mkdir(parents=True, exist_ok=True)
        rows.to_csv(folder / f"{name}.csv", index=False, date_format="%Y-%m-%d %H:%M:%S")

    def configure(self, warehouse: Path, logs: dict[str, Any] | None = None, **more: Any) -> Settings:
        """Load the settings with a warehouse; `logs` replaces some logs, and `more` other sections."""
        time = {"column": "at", "unit": "timestamp", "zone": ZONE}
        conf = {
            "name": "random",
            "zone": ZONE,
            "paths": {"logs": str(self.folder), "warehouse": str(warehouse)},
            "logs": {
                "impressions": {
                    "path": "views/{ds}/*.csv", "id": "view", "user": "visitor", "item": "sku", "domain": "surface",
                    "time": time, "outcomes": ["spend"], "format": "csv", "duplicate_days": 0,
                },
                "clicks": {"path": "clicks/{ds}/*.csv", "format": "csv", "impression": "view", "time": time},
                "behaviours": {
                    "path": "carts/{ds}/*.csv", "format": "csv", "user": "user", "item": "sku", "behaviour": "what",
                    "time": time,
                },
                "items": {"path": "items/{ds}/*.csv", "format": "csv", "key": "sku"},
                **(logs or {}),
            },
            "label": {"window_hours": 24},
            "window": {"days": 3},
            "history": HISTORY,
            "features": FEATURES,
            "preset": "paper",
            "model": {"layers": [4], "dim": 2},
            "checks": {"max_early_clicks": 1.0, "one_class": True},
            "spark": {"shuffle_partitions": 2},
            **more,
        }  # fmt: skip
        file = warehouse.parent / f"{warehouse.name}.yaml"
        file.write_text(yaml.safe_dump(conf, sort_keys=False))
        return load(file)
