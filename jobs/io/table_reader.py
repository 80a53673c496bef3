"""Read Delta tables into pandas without Spark, with SQL.

Queries run in deltalake's engine (DataFusion), which reads only the files and columns that a query needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
from arro3.core import DataType, Table
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError, TableNotFoundError

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.pipeline import find_writer
from star_ctr.conf.errors import DataError, UserError

_COMMANDS = {"differences": "evaluate --against RUN", "importance": "explain"}
"""The commands that write tables that no step writes."""


def explain_missing(path: str, table: str, conf: str | None = None) -> str:
    """Return the message for a table that has not been written yet, with the command that writes it.

    Args:
        path: The path of the table.
        table: The name of the table.
        conf: The YAML file for the command; None to leave out its option.
    """
    step = _COMMANDS.get(table) or find_writer(table)
    return f"{path}: no such table yet; run `star-ctr {step}{f' --conf {conf}' if conf else ''}` first"


def open_table(warehouse: Warehouse, name: str, version: int | None = None, conf: str | None = None) -> DeltaTable:
    """Open a table of the warehouse.

    Args:
        warehouse: The warehouse.
        name: The name of the table.
        version: The version; the newest by default.
        conf: As for `explain_missing`.

    Returns:
        The table, whose files are not read yet.

    Raises:
        DataError: The table has not been written yet, or has no such version.
    """
    path = warehouse.table(name)
    try:
        newest = DeltaTable(path)
    except TableNotFoundError:
        raise DataError(explain_missing(path, name, conf)) from None
    if version is None:
        return newest
    try:
        return DeltaTable(path, version=version)
    except DeltaError:
        raise DataError(f"{path}: no version {version}; the newest is {newest.version()}") from None


def run_query(query: str, tables: Mapping[str, DeltaTable]) -> pd.DataFrame:
    """Run an SQL query; see `query_tables`.

    Returns:
        The rows. Integers with missing values become floating-point numbers, as always in pandas. Times are in UTC.
    """
    return query_tables(query, tables).to_pandas()  # type: ignore[no-any-return]


def query_tables(query: str, tables: Mapping[str, DeltaTable]) -> pa.Table:
    """Run an SQL query.

    Args:
        query: The query.
        tables: The tables that it reads, by their names in the query.

    Returns:
        The rows. Times are in UTC.

    Raises:
        UserError: The query is not valid. The message contains the query.
    """
    builder = QueryBuilder()
    for name, table in tables.items():
        builder.register(name, table)
    try:
        found = builder.execute(query).read_all()
    except DeltaError as error:
        raise UserError(f"{query}: {str(error).splitlines()[0]}") from None
    columns = {name: found.column(name) for name in found.schema.names}
    plain: dict[str, Any] = {name: column.cast(_replace_views(column.type)) for name, column in columns.items()}
    return pa.table(Table.from_pydict(plain))


def _replace_views(kind: Any) -> Any:
    """Return an Arrow type without view types, which pyarrow 14 (for petastorm) does not know, and dictionaries."""
    if DataType.is_string_view(kind):
        return DataType.string()
    if DataType.is_binary_view(kind):
        return DataType.binary()
    if DataType.is_dictionary(kind):
        return _replace_views(kind.value_type)
    if DataType.is_list(kind):
        return DataType.list(kind.value_field.with_type(_replace_views(kind.value_type)))
    if DataType.is_struct(kind):
        return DataType.struct([field.with_type(_replace_views(field.type)) for field in kind.fields])
    return kind
