"""A small log of three days, one file per day, that tests can write in any format and corrupt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
DS = DAYS[-1]


def views(a_day: int = 60, seed: int = 0) -> pd.DataFrame:
    """Create impressions of all days: day, view, visitor, sku, surface, at (ISO text in UTC), slot, clk."""
    rng = np.random.default_rng(seed)
    n = a_day * len(DAYS)
    day = np.repeat(DAYS, a_day)
    seconds = rng.integers(0, 86_400, n)
    sku = rng.integers(0, 12, n)
    return pd.DataFrame(
        {
            "day": day,
            "view": [f"v{k:05d}" for k in range(n)],
            "visitor": [f"p{k}" for k in rng.integers(0, 12, n)],
            "sku": [f"s{k}" for k in sku],
            "surface": np.where(rng.random(n) < 0.4, "search", "home"),
            "at": [
                (pd.Timestamp(str(d), tz="UTC") + pd.Timedelta(seconds=int(s))).strftime("%Y-%m-%dT%H:%M:%SZ")
                for d, s in zip(day, seconds, strict=True)
            ],
            "slot": rng.integers(1, 6, n),
            "clk": (rng.random(n) < np.where(sku % 3 == 0, 0.5, 0.2)).astype(int),
        }
    )


def write_days(
    folder: Path, rows: pd.DataFrame, write: Callable[[pd.DataFrame, Path], Any] | None = None, suffix: str = "csv"
) -> None:
    """Write one file of impressions per day; CSV unless `write` is given."""
    target = folder / "logs" / "views"
    target.mkdir(parents=True, exist_ok=True)
    for day, part in rows.groupby("day"):
        (write or (lambda f, p: f.to_csv(p, index=False)))(part.drop(columns="day"), target / f"{day}.{suffix}")


def settings(folder: Path, log: dict[str, Any] | None = None, **more: Any) -> Settings:
    """Load the settings of the log. `log` adds keys to `logs.impressions`, and `more` adds sections."""
    conf: dict[str, Any] = {
        "name": "messy",
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / "warehouse")},
        "logs": {
            "impressions": {
                "path": "views/{ds}.csv", "format": "csv", "id": "view", "user": "visitor", "item": "sku",
                "domain": "surface", "time": {"column": "at", "unit": "timestamp"}, **(log or {}),
            }
        },
        "label": {"column": "clk"},
        "window": {"days": 2},
        "history": {"shown": {"impressions": True}, "click": {"outcome": "label"}},
        "features": [
            {"name": "sku", "kind": "categorical", "column": "item_id"},
            {"name": "slot", "kind": "numeric", "column": "impressions.slot"},
            {"name": "by_sku", "kind": "statistic", "by": ["item_id"], "rates": {"click": "shown"}},
        ],
        "preset": "paper",
        "model": {"layers": [4], "dim": 2},
        "trainer": {"batch_size": 64, "device": "cpu", "threads": 1},
        "evaluate": {"bootstrap_samples": 0},
        "spark": {"shuffle_partitions": 1},
    }  # fmt: skip
    logs = {**conf["logs"], **more.pop("logs", {})}
    file = folder / "messy.yaml"
    file.write_text(yaml.safe_dump({**conf, **more, "logs": logs}, sort_keys=False))
    return load(file)
