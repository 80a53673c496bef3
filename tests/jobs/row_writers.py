"""Writers of rows for separate processes. They import neither Spark nor torch, so that they start fast."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from star_ctr.jobs.io import delta_rows
from star_ctr.jobs.io.delta_rows import add_row, replace_rows

SCHEMA = pa.schema([("at", pa.timestamp("us", "UTC")), ("writer", pa.int64()), ("number", pa.int64())])
NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
WRITERS, ROWS = 3, 9


def row(number: int, writer: int = 0, back: float = 0.0) -> dict[str, object]:
    """Create a row with a clock that runs backwards by `back` seconds per row."""
    return {"at": NOON - dt.timedelta(seconds=back * number), "writer": writer, "number": number}


def write(table: str, writer: int) -> list[int]:
    delta_rows._REWRITE_AT = 8  # this runs in a separate process
    return [add_row(table, row(k, writer, back=1.0), SCHEMA) for k in range(ROWS)]


LEDGER = pa.schema([("run_id", pa.string()), ("ds", pa.string()), ("number", pa.int64())])


def replace(table: str, writer: int) -> None:
    for k in range(ROWS):
        key = f"own {writer}" if k % 2 else "common"
        replace_rows(table, [(key, "1", k), (key, "2", k)], LEDGER, f"run_id = '{key}'", ["run_id"])
