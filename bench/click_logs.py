"""Logs that the benchmarks of nights share: impressions and clicks in one Parquet file per day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

TIME = {"column": "at", "unit": "timestamp"}


def describe_logs() -> dict[str, Any]:
    """Return the section `logs` of the YAML file."""
    return {
        "impressions": {
            "path": "views/{ds}.parquet", "format": "parquet", "id": "view", "user": "user", "item": "item",
            "domain": "page", "time": TIME,
        },
        "clicks": {"path": "clicks/{ds}.parquet", "format": "parquet", "impression": "view", "time": TIME},
    }  # fmt: skip


def write_rows(file: Path, rows: pd.DataFrame) -> None:
    """Write rows to a Parquet file, and create its folder if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(file, index=False)
