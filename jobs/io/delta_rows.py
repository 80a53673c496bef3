"""Read, append and replace rows of small Delta tables without Spark. A commit takes milliseconds instead of seconds.

Rows that `add_row` appends are numbered in commit order, independent of clocks:

1. The writer gives its row the next sequence number of the table.
2. The number is also the version of a `txn` action in the Delta log. If two writers on any hosts use the same number,
   Delta rejects the second commit.
3. The rejected writer retries with the next number.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from star_ctr.conf.contracts.catalog import TABLE_PROPERTIES, TABLES
from star_ctr.conf.errors import DataError, UserError

SEQUENCE = "sequence"
"""The column with the sequence number of a row; null in rows that were written before the column existed."""
_APPLICATION = "star-ctr/sequence"
_TOKEN, _NUMBER = "star-ctr/token", "star-ctr/number"
"""Metadata keys of a commit that appended a row: the id of the `add_row` call, and the sequence number of the row."""
_ABOUT, _COMMENT = "about", "comment"
"""Metadata keys: of a schema, what a row of the table is; of a field, the meaning of the column (as Delta names it)."""
_RECENT = 10
"""Number of recent commits that a retry searches for its row."""
_REWRITE_AT = 100
"""Number of files at which the table is rewritten as a single file."""
_PATIENCE = 120.0
"""Number of seconds for which a writer retries after conflicts."""
T = TypeVar("T")


def describe_schema(table: str, columns: Iterable[tuple[str, pa.DataType]]) -> pa.Schema:
    """Make the schema of a table of the warehouse, with the comments that a new table gets.

    Args:
        table: The name of the table.
        columns: Name and type of each column.

    Returns:
        The schema, for `add_row` and `replace_rows`.
    """
    comments = TABLES[table].columns
    fields = [pa.field(name, kind, metadata={_COMMENT: comments[name]}) for name, kind in columns]
    return pa.schema(fields, metadata={_ABOUT: TABLES[table].about})


def read_rows(table: str, where: str | None = None, columns: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
    """Read the rows of a table that match an SQL condition.

    Uses a query instead of deltalake's conversion to pyarrow, which for partitioned tables needs a newer pyarrow than
    petastorm supports.

    Args:
        table: Path or URL of the table.
        where: An SQL condition; see `quote_literal`. None for all rows.
        columns: The columns to read; all by default.

    Returns:
        The rows as dictionaries by column; empty if the table does not exist.
    """
    try:
        delta = DeltaTable(table)
    except TableNotFoundError:
        return []
    return _run_query(delta, f"SELECT {', '.join(columns)} FROM rows" + (f" WHERE {where}" if where else ""))


def read_ordered_rows(table: str, schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    """Read all rows that `add_row` appended.

    Args:
        table: The path of the table.
        schema: The columns that the table may have besides SEQUENCE; any by default.

    Returns:
        The rows in commit order. Rows without a sequence number come first, ordered by their column `at`.

    Raises:
        DataError: The table has other columns, because another version of star-ctr has written it.
    """
    rows = read_rows(table)
    if rows and schema is not None and (unknown := sorted(set(rows[0]) - {*schema.names, SEQUENCE})):
        raise DataError(
            f"{table}: unknown columns {', '.join(unknown)}; the warehouse was written by another version of star-ctr. "
            "Set paths.warehouse to a new folder and run the nights again"
        )
    rows.sort(key=lambda row: (n, 0) if (n := row.get(SEQUENCE)) is not None else (-1, row["at"]))
    return rows


class SupersededError(Exception):
    """Another writer has added a row since the caller last read the table."""


def add_row(table: str, row: Mapping[str, Any], schema: pa.Schema, after: int | None = None) -> int:
    """Append a row to a table, which is created if it does not exist.

    Args:
        table: Path or URL of the table.
        row: Values by column.
        schema: The columns, without `SEQUENCE`.
        after: The sequence number that the last row must have; -1 if the table must be empty, None for no check.

    Returns:
        The sequence number of the row.

    Raises:
        SupersededError: The sequence number of the last row is not `after`.
        UserError: The write conflicted with other writers for two minutes.
    """
    schema = schema.append(pa.field(SEQUENCE, pa.int64(), metadata={_COMMENT: "order in which rows were committed"}))
    token, is_retry = uuid.uuid4().hex, False

    def add() -> int:
        nonlocal is_retry
        delta = _open_or_create(table, schema)
        # A storage can report a failure although it has committed the row.
        if is_retry and (number := _find_committed_number(delta, token)) is not None:
            return number
        is_retry = True
        return _add(delta, row, schema, after, token)

    return _retry(table, add)


def replace_rows(
    table: str, rows: Iterable[Sequence[Any]], schema: pa.Schema, where: str, partitions: Sequence[str] = ()
) -> None:
    """Replace the rows that match a condition in one commit. The table is created if it does not exist.

    Args:
        table: Path or URL of the table.
        rows: The new rows: the values of each row in the order of `schema`. All of them must match `where`.
        schema: The columns.
        where: An SQL condition; see `quote_literal`.
        partitions: The partition columns of a new table.

    Raises:
        UserError: The write conflicted with other writers for two minutes.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    data = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)

    def replace() -> None:
        delta = _open_or_create(table, schema, partitions)
        existing = {field.name for field in delta.schema().fields}
        write_deltalake(
            delta,
            data,
            mode="overwrite",
            predicate=where,
            schema_mode=None if existing == set(schema.names) else "merge",
        )

    _retry(table, replace)


def quote_literal(value: str) -> str:
    """Quote a string for an SQL condition of this module. For Spark's SQL, use `warehouse.quote_spark_literal`."""
    return "'" + value.replace("'", "''") + "'"


def make_any_condition(column: str, values: Iterable[str]) -> str:
    """Return an SQL condition of this module that `column` is one of `values`, which must not be empty."""
    return f"{column} IN ({', '.join(map(quote_literal, values))})"


def _retry(table: str, write: Callable[[], T]) -> T:
    """Call `write` until it does not conflict with another writer.

    Returns:
        The result of `write`.

    Raises:
        UserError: The writes conflicted for `_PATIENCE` seconds.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return write()
        except CommitFailedError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{table}: not written, because other writers kept changing the table for {_PATIENCE:.0f} s "
                    f"({error}); run the command again"
                ) from None
            time.sleep(random.uniform(0.0, 0.05))


def _find_committed_number(delta: DeltaTable, token: str) -> int | None:
    """Return the sequence number of the row with this token; None if none of the last commits appended it."""
    return next((int(c[_NUMBER]) for c in delta.history(_RECENT) if c.get(_TOKEN) == token), None)


def _add(delta: DeltaTable, row: Mapping[str, Any], schema: pa.Schema, after: int | None, token: str) -> int:
    """Append a row to the open version of a table; raises `CommitFailedError` if its number is already used."""
    number = _get_next_number(delta)
    if after not in (None, number - 1):
        raise SupersededError
    rows = [{**row, SEQUENCE: number}]
    existing = {field.name for field in delta.schema().fields}
    # Rewrite many small files as one in the same commit. deltalake's `compact` cannot be used, because it writes no
    # `txn` action, and two concurrent calls would duplicate every row.
    should_rewrite = len(delta.file_uris()) >= _REWRITE_AT and existing == set(schema.names)
    if should_rewrite:
        rows = [*_run_query(delta, "SELECT * FROM rows"), *rows]
    write_deltalake(
        delta,
        pa.Table.from_pylist(rows, schema),
        mode="overwrite" if should_rewrite else "append",
        schema_mode=None if set(schema.names) <= existing else "merge",
        commit_properties=CommitProperties(
            custom_metadata={_TOKEN: token, _NUMBER: str(number)},
            app_transactions=[Transaction(_APPLICATION, number)],
        ),
    )
    return number


def _open_or_create(table: str, schema: pa.Schema, partitions: Sequence[str] = ()) -> DeltaTable:
    """Open a table, or create it empty, because conflicts are only detected for commits on top of an open version."""
    try:
        return DeltaTable(table)
    except TableNotFoundError:
        about = (schema.metadata or {}).get(_ABOUT.encode(), b"").decode()
        return create_table(table, schema, about, partitions)


def create_table(table: str, schema: pa.Schema | Schema, about: str, partitions: Sequence[str]) -> DeltaTable:
    """Create an empty table, or open it if another writer has created it first.

    Args:
        table: Path or URL of the table.
        schema: The columns, with their comments.
        about: The comment of the table; empty for none.
        partitions: The partition columns.

    Returns:
        The table.
    """
    if "://" not in table:
        Path(table).mkdir(parents=True, exist_ok=True)
    properties = {f"delta.{name}": value for name, value in TABLE_PROPERTIES.items()}
    try:
        return DeltaTable.create(
            table, schema, mode="error", partition_by=list(partitions), description=about or None,
            configuration=properties,
        )  # fmt: skip
    except DeltaError:
        return DeltaTable(table)


def _get_next_number(delta: DeltaTable) -> int:
    """Return the next sequence number; 0 for the first row."""
    last = delta.transaction_version(_APPLICATION)
    if last is None and SEQUENCE in {field.name for field in delta.schema().fields}:
        # The rows may have been copied to a new table, whose log has no `txn` action.
        last = _run_query(delta, f"SELECT max({SEQUENCE}) AS last FROM rows")[0]["last"]
    return 0 if last is None else int(last) + 1


def _run_query(delta: DeltaTable, query: str) -> list[dict[str, Any]]:
    """Run an SQL query on a table, which the query calls `rows`."""
    found = QueryBuilder().register("rows", delta).execute(query).read_all()
    names = found.schema.names
    values = (found.column(name).to_pylist() for name in names)
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
