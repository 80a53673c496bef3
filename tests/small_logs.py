"""Small logs of a shop with three surfaces, over four days: Parquet impressions and a JSON Lines click log.

Column names and formats differ from the shipped configurations, and times have a zone. Pandas writes the logs, so that
tests can add any rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from deltalake import DeltaTable

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04")
ZONE = "Europe/Berlin"

CONF = {
    "name": "shop",
    "zone": ZONE,
    "paths": {"logs": "?", "warehouse": "?"},
    "logs": {
        "impressions": {
            "path": "views/{yyyymmdd}.parquet",
            "format": "parquet",
            "id": "view",
            "user": "visitor",
            "item": "sku",
            "domain": "surface",
            "time": {"column": "seen", "unit": "timestamp", "zone": ZONE},
        },
        "clicks": {
            "path": "clicks/*.jsonl",
            "format": "json",
            "impression": "view",
            "time": {"column": "at", "unit": "timestamp"},
        },
        "users": {
            "path": "visitors/*.parquet",
            "format": "parquet",
            "key": "visitor",
            "day": {"column": "snapshot"},
            "as_of": "day_before",
        },
        "items": {"path": "skus.csv", "format": "csv", "key": "sku", "types": {"price": "double"}},
    },
    "label": {"window_hours": 24},
    "window": {"days": 3},
    "history": {"shown": {"impressions": True}, "click": {"outcome": "label"}},
    "features": [
        {"name": "visitor", "kind": "categorical", "column": "user_id"},
        {"name": "sku", "kind": "categorical", "column": "item_id"},
        {"name": "labels", "kind": "categorical", "column": "items.labels", "separator": "|", "length": 2},
        {"name": "tier", "kind": "categorical", "column": "users.tier"},
        {"name": "slot", "kind": "numeric", "column": "impressions.slot"},
        {"name": "price", "kind": "numeric", "column": "items.price", "log": True, "encode": ["standard", "bucket"], "buckets": 5},
        {"name": "clicked", "kind": "sequence", "of": ["click"], "columns": {"item_id": "sku"}, "length": 5, "cut": "time"},
        {"name": "by_sku", "kind": "statistic", "by": ["item_id"], "counts": ["shown"], "rates": {"click": "shown"}},
        {"name": "by_visitor", "kind": "statistic", "by": ["user_id"], "rates": {"click": "shown"}, "since": ["shown"], "cut": "time"},
    ],
    "preset": "paper",
    "model": {"layers": [16, 8], "dim": 4},
    "trainer": {"batch_size": 64, "device": "cpu", "threads": 1},
    "spark": {"shuffle_partitions": 2},
}  # fmt: skip


def frames(seed: int = 0, rows_a_day: int = 300, days: Sequence[str] = DAYS) -> dict[str, pd.DataFrame]:
    """Create the impressions and clicks of all days. `seen` is local time without a zone; `at` is ISO text with a zone."""
    rng = np.random.default_rng(seed)
    views, clicks = [], []
    for d, day in enumerate(days):
        start = pd.Timestamp(day, tz=ZONE)
        for k in range(rows_a_day):
            at = start + pd.Timedelta(seconds=int(rng.integers(0, 86_400)))
            view = f"v{d}-{k:05d}"
            surface = rng.choice(["home", "search", "mail"], p=[0.6, 0.35, 0.05])
            sku = int(rng.zipf(1.5)) % 40
            views.append(
                (
                    day,
                    view,
                    f"p{rng.integers(0, 30)}",
                    f"s{sku}",
                    surface,
                    at.tz_localize(None),
                    int(rng.integers(1, 6)),
                )
            )
            if rng.random() < (0.5 if sku % 3 == 0 else 0.2):
                clicks.append(
                    (view, (at + pd.Timedelta(seconds=int(rng.exponential(600)))).tz_convert("UTC").isoformat())
                )
    return {
        "views": pd.DataFrame(views, columns=["day", "view", "visitor", "sku", "surface", "seen", "slot"]),
        "clicks": pd.DataFrame(clicks, columns=["view", "at"]),
    }


FEW_FEATURES = ("visitor", "sku", "slot", "by_sku")
"""Features of each kind of encoding, for tests of nights that are not about features."""


def write(folder: Path, logs: dict[str, pd.DataFrame], features: Collection[str] | None = None) -> Path:
    """Write logs and their configuration below `folder`, by default with all features, and return the YAML file."""
    for name in ("views", "clicks", "visitors"):
        (folder / "logs" / name).mkdir(parents=True, exist_ok=True)
    for day, rows in logs["views"].groupby("day"):
        rows.drop(columns="day").to_parquet(
            folder / "logs" / "views" / f"{str(day).replace('-', '')}.parquet", index=False
        )
    logs["clicks"].to_json(folder / "logs" / "clicks" / "all.jsonl", orient="records", lines=True)
    visitors = pd.DataFrame(
        [
            (f"p{p}", day, "gold" if (p + d) % 3 == 0 else "plain")
            for d, day in enumerate(("2026-02-28", *DAYS))
            for p in range(30)
        ],
        columns=["visitor", "snapshot", "tier"],
    )
    visitors.to_parquet(folder / "logs" / "visitors" / "all.parquet", index=False)
    skus = pd.DataFrame(
        [(f"s{s}", 1.5 + s, "|".join(["new", "sale", "eco"][: s % 4])) for s in range(40)],
        columns=["sku", "price", "labels"],
    )
    skus.to_csv(folder / "logs" / "skus.csv", index=False)
    conf = {**CONF, "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / "warehouse")}}
    conf["features"] = [f for f in CONF["features"] if features is None or f["name"] in features]
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(conf, sort_keys=False))
    return file


def read(table: Path) -> pd.DataFrame:
    """Read the newest version of a Delta table without Spark, and without its partition columns."""
    return pd.concat([pd.read_parquet(uri.removeprefix("file://")) for uri in DeltaTable(str(table)).file_uris()])
