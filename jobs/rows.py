"""Reads and appends rows of Delta tables without Spark, in commit order.

Each row gets the next sequence number of its table. The number is also the version of a `txn` action in the Delta log:
if two writers use the same number, on any hosts, Delta rejects the second, which then retries with the next one. The
order of rows is therefore their commit order, independent of clocks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from star_ctr.conf.errors import UserError

SEQUENCE = "sequence"
"""The column with a row's sequence number; null in rows that predate the column."""
_APPLICATION = "star-ctr/sequence"
_REWRITE_AT = 100
"""Number of files at which the table is rewritten as a single file."""
_PATIENCE = 120.0
"""Seconds for which a writer retries after conflicts."""


def rows_of(table: str, where: str | None = None, columns: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
    """The rows of a table for which an SQL condition holds; none where it was never written.

    (deltalake's own way into pyarrow needs a newer pyarrow than petastorm can live with where a table is partitioned.)
    """
    try:
        delta = DeltaTable(table)
    except TableNotFoundError:
        return []
    return _query(delta, f"SELECT {', '.join(columns)} FROM rows" + (f" WHERE {where}" if where else ""))


def ordered_rows(table: str) -> list[dict[str, Any]]:
    """Return all rows that `add_row` added, in commit order and without their sequence numbers.

    Rows that predate sequence numbers come first, ordered by their column `at`.
    """
    rows = rows_of(table)
    rows.sort(key=lambda row: (n, 0) if (n := row.get(SEQUENCE)) is not None else (-1, row["at"]))
    return [{k: v for k, v in row.items() if k != SEQUENCE} for row in rows]


def add_row(table: str, row: Mapping[str, Any], schema: pa.Schema) -> int:
    """Append a row to a table; creates the table if needed.

    Args:
        table: Path or URL of the table.
        row: Values by column.
        schema: The columns, without `SEQUENCE`.

    Returns:
        The row's sequence number.

    Raises:
        UserError: Every attempt conflicted with other writers for two minutes.
    """
    schema = schema.append(pa.field(SEQUENCE, pa.int64()))
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return _add(_open_or_create(table, schema), row, schema)
        except CommitFailedError as error:
            if time.monotonic() > give_up:
                raise UserError(
                    f"{table}: other writers kept adding rows for {_PATIENCE:.0f} s, and this one was not added "
                    f"({error}); run the command again"
                ) from None
            time.sleep(random.uniform(0.0, 0.05))


def _add(delta: DeltaTable, row: Mapping[str, Any], schema: pa.Schema) -> int:
    """Append a row to the open version of `delta`; raises `CommitFailedError` if its number is taken."""
    number = _next_number(delta)
    rows = [{**row, SEQUENCE: number}]
    there = {field.name for field in delta.schema().fields}
    # Rewrite many small files as one in the same commit. deltalake's `compact` does not work here: it has no `txn`
    # action, and two concurrent calls duplicate every row.
    rewrite = len(delta.file_uris()) >= _REWRITE_AT and there == set(schema.names)
    if rewrite:
        rows = [*_query(delta, "SELECT * FROM rows"), *rows]
    write_deltalake(
        delta,
        pa.Table.from_pylist(rows, schema),
        mode="overwrite" if rewrite else "append",
        schema_mode=None if SEQUENCE in there else "merge",
        commit_properties=CommitProperties(app_transactions=[Transaction(_APPLICATION, number)]),
    )
    return number


def _open_or_create(table: str, schema: pa.Schema) -> DeltaTable:
    """Open a table, or create it empty: a conflict is only detected for a commit on top of a known version."""
    try:
        return DeltaTable(table)
    except TableNotFoundError:
        if "://" not in table:
            Path(table).mkdir(parents=True, exist_ok=True)
    try:
        return DeltaTable.create(table, schema, mode="error")
    except DeltaError:  # another writer created it first
        return DeltaTable(table)


def _next_number(delta: DeltaTable) -> int:
    """Return the next sequence number; 0 for the first row."""
    last = delta.transaction_version(_APPLICATION)
    if last is None and SEQUENCE in {field.name for field in delta.schema().fields}:
        # The rows were copied to a new table, whose log has no `txn` action.
        last = _query(delta, f"SELECT max({SEQUENCE}) AS last FROM rows")[0]["last"]
    return 0 if last is None else int(last) + 1


def _query(delta: DeltaTable, query: str) -> list[dict[str, Any]]:
    found = QueryBuilder().register("rows", delta).execute(query).read_all()
    names = found.schema.names
    values = (found.column(name).to_pylist() for name in names)
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
