"""Rows of Delta tables without Spark: read in a moment, and added one at a time in a certain order.

A row gets the next number of its table's sequence. The number is also the version of an application transaction in the
table's log: of two writers that take the same number, on whatever hosts, Delta refuses the second, which then takes the
next one. So the order of rows is the order of their commits, and depends on no clock.
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
"""The column with a row's number; null in rows from before there was one."""
_APPLICATION = "star-ctr/sequence"
_REWRITE_AT = 100
"""Files at which a table that grows row by row is written as one."""
_PATIENCE = 120.0
"""Seconds for which a writer tries again when others are faster."""


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
    """Return all rows that `add_row` added, in the order of their commits and without their numbers.

    Rows without a number were added before there were any: they come first, by the time in their column `at`.
    """
    rows = rows_of(table)
    rows.sort(key=lambda row: (n, 0) if (n := row.get(SEQUENCE)) is not None else (-1, row["at"]))
    return [{k: v for k, v in row.items() if k != SEQUENCE} for row in rows]


def add_row(table: str, row: Mapping[str, Any], schema: pa.Schema) -> int:
    """Add a row to a table, and create the table with the first one.

    Args:
        table: Path or URL of the table.
        row: Values by column.
        schema: The columns, without `SEQUENCE`.

    Returns:
        The row's number in the table's sequence.

    Raises:
        UserError: Other writers were faster for two minutes.
    """
    schema = schema.append(pa.field(SEQUENCE, pa.int64()))
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return _add(_opened(table, schema), row, schema)
        except CommitFailedError as error:
            if time.monotonic() > give_up:
                raise UserError(
                    f"{table}: other writers kept adding rows for {_PATIENCE:.0f} s, and this one was not added "
                    f"({error}); run the command again"
                ) from None
            time.sleep(random.uniform(0.0, 0.05))


def _add(delta: DeltaTable, row: Mapping[str, Any], schema: pa.Schema) -> int:
    """Add a row on top of the version that `delta` has open; `CommitFailedError` if another one took its number."""
    number = _next_number(delta)
    rows = [{**row, SEQUENCE: number}]
    there = {field.name for field in delta.schema().fields}
    # Many small files become one in the same commit. deltalake's own `compact` is no alternative: it takes no
    # transaction, and two of them at once leave every row twice.
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


def _opened(table: str, schema: pa.Schema) -> DeltaTable:
    """Open a table, or create it empty: only a commit on top of a known version can be refused for its number."""
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
    """The number after the last one; 0 for the first."""
    last = delta.transaction_version(_APPLICATION)
    if last is None and SEQUENCE in {field.name for field in delta.schema().fields}:
        # The rows were copied into a new table, whose log knows no transaction.
        last = _query(delta, f"SELECT max({SEQUENCE}) AS last FROM rows")[0]["last"]
    return 0 if last is None else int(last) + 1


def _query(delta: DeltaTable, query: str) -> list[dict[str, Any]]:
    found = QueryBuilder().register("rows", delta).execute(query).read_all()
    names = found.schema.names
    values = (found.column(name).to_pylist() for name in names)
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
