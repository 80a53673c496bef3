"""Rows of Delta tables without Spark: read in a moment, and added one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from deltalake.exceptions import TableNotFoundError

_COMPACT_EVERY = 100
"""Commits after which the many files of a table that grows row by row are written as one."""


def rows_of(table: str, where: str | None = None, columns: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
    """The rows of a table for which an SQL condition holds; none where it was never written.

    (deltalake's own way into pyarrow needs a newer pyarrow than petastorm can live with where a table is partitioned.)
    """
    try:
        delta = DeltaTable(table)
    except TableNotFoundError:
        return []
    query = f"SELECT {', '.join(columns)} FROM rows" + (f" WHERE {where}" if where else "")
    found = QueryBuilder().register("rows", delta).execute(query).read_all()
    names = found.schema.names
    values = (found.column(name).to_pylist() for name in names)
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def add_row(table: str, row: Mapping[str, Any], schema: pa.Schema) -> None:
    """Add a row to a table, which is made with the first one."""
    if "://" not in table:
        Path(table).mkdir(parents=True, exist_ok=True)
    write_deltalake(table, pa.Table.from_pylist([row], schema), mode="append")
    delta = DeltaTable(table)
    if delta.version() % _COMPACT_EVERY == _COMPACT_EVERY - 1:
        delta.optimize.compact()
