"""Tables of a project, as pandas and Spark DataFrames."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from deltalake import DeltaTable

from star_ctr.conf.contracts.catalog import TABLES, Warehouse
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.errors import UserError, suggest_nearest
from star_ctr.jobs.io.delta_rows import quote_literal
from star_ctr.jobs.io.table_reader import open_table, run_query

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_SHOWN_ROWS = 10
"""Number of rows that a notebook shows."""


def check_table(name: str) -> str:
    """Return the name of a table; raises `UserError` if the warehouse has no such table."""
    if name not in TABLES:
        raise UserError(f"{name}: no such table{suggest_nearest(name, TABLES)} (tables: {', '.join(TABLES)})")
    return name


@dataclass(frozen=True, repr=False)
class Table:
    """One version of a table, or some of its rows and columns.

    Attributes:
        name: The name of the table.
        path: The path or URL of the Delta table.
    """

    name: str
    path: str
    _delta: DeltaTable
    _start_spark: Callable[[], SparkSession]
    _conditions: tuple[str, ...] = ()
    _equal: tuple[tuple[str, str], ...] = ()
    _selected: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """What a row of the table is."""
        return TABLES[self.name].about

    @property
    def version(self) -> int:
        """The Delta version."""
        return int(self._delta.version())

    @property
    def columns(self) -> dict[str, str]:
        """The meaning of each column; empty for a column without a comment."""
        fields = {field.name: str(field.metadata.get("comment", "")) for field in self._delta.schema().fields}
        return {name: fields[name] for name in self._selected or fields}

    def filter(self, where: str | None = None, *, ds: str | None = None, run_id: str | None = None) -> Table:
        """Select rows. Several filters are combined with AND.

        Args:
            where: An SQL condition, for example `"domain = 'home' AND auc > 0.7"`.
            ds: The day of the rows, as YYYY-MM-DD.
            run_id: The run of the rows.

        Returns:
            The table with fewer rows.

        Raises:
            UserError: The table has no column `ds` or `run_id`.
            DataError: `ds` is not a date.
        """
        conditions = [f"({where})"] if where else []
        equal = [("ds", check_day(ds))] if ds is not None else []
        equal += [("run_id", run_id)] if run_id is not None else []
        for column, _ in equal:
            self._check_column(column)
        return replace(self, _conditions=(*self._conditions, *conditions), _equal=(*self._equal, *equal))

    def select(self, *columns: str) -> Table:
        """Select columns; raises `UserError` for a column that the table does not have."""
        return replace(self, _selected=tuple(self._check_column(column) for column in columns))

    def count(self) -> int:
        """Return the number of rows."""
        if not self._conditions and not self._equal:
            return int(self._delta.count())
        return int(self._query("count(*) AS rows")["rows"][0])

    def head(self, n: int = 5) -> pd.DataFrame:
        """Return up to `n` rows, in no particular order."""
        return self._query(self._list_columns(), f" LIMIT {int(n)}")

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows, read without Spark. Rows of `decisions`, `steps` and `lease` are in commit order."""
        order = " ORDER BY sequence" if "sequence" in self._list_names() else ""
        return self._query(self._list_columns(), order)

    def to_spark(self) -> DataFrame:
        """Return the rows as a Spark DataFrame, and start Spark if it is not running."""
        spark = self._start_spark()
        rows = spark.read.format("delta").option("versionAsOf", self.version).load(self.path)
        for condition in self._conditions:
            rows = rows.where(condition)
        for column, value in self._equal:
            rows = rows.where(rows[column] == value)
        return rows.select(*(f"`{column}`" for column in self._selected)) if self._selected else rows

    def _list_names(self) -> list[str]:
        return [field.name for field in self._delta.schema().fields]

    def _check_column(self, column: str) -> str:
        names = self._list_names()
        if column not in names:
            hint = suggest_nearest(column, names)
            raise UserError(f"{self.name}: no column `{column}`{hint} (columns: {', '.join(names)})")
        return column

    def _list_columns(self) -> str:
        """Return the columns for SQL."""
        return ", ".join('"' + name.replace('"', '""') + '"' for name in self.columns)

    def _query(self, columns: str, end: str = "") -> pd.DataFrame:
        conditions = [*self._conditions, *(f"{column} = {quote_literal(value)}" for column, value in self._equal)]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return run_query(f"SELECT {columns} FROM {self.name}{where}{end}", {self.name: self._delta})

    def __len__(self) -> int:
        return self.count()

    def _describe(self) -> str:
        rows = "1 row" if self.count() == 1 else f"{self.count():,} rows"
        return f"version {self.version}, {rows}: {self.about}"

    def __repr__(self) -> str:
        types = {field.name: str(field.type) for field in self._delta.schema().fields}
        width = max(map(len, self.columns), default=0)
        lines = (f"  {name:<{width}}  {comment or types[name]}" for name, comment in self.columns.items())
        return "\n".join([f"{self.name} ({self._describe()})", *lines])

    def _repr_html_(self) -> str:
        shown = self.head(_SHOWN_ROWS)
        for column in shown.columns:
            if shown[column].map(lambda value: isinstance(value, bytes)).any():
                shown[column] = shown[column].map(lambda value: value and f"{len(value)} bytes")
        return f"<p><b>{self.name}</b> {html.escape(self._describe())}</p>{shown.to_html(index=False)}"


class Tables:
    """The tables of a warehouse that have been written: `tables["metrics"]`, or `for table in tables`."""

    def __init__(self, warehouse: Warehouse, start_spark: Callable[[], SparkSession]) -> None:
        self._warehouse, self._start_spark = warehouse, start_spark

    def open(self, name: str, version: int | None = None) -> Table:
        """Open a table at a version, by default the newest one.

        Args:
            name: The name of the table.
            version: The version.

        Returns:
            The table.

        Raises:
            UserError: The warehouse has no such table.
            DataError: The table has not been written yet, or has no such version.
        """
        path = self._warehouse.table(check_table(name))
        return Table(name, path, open_table(self._warehouse, name, version), self._start_spark)

    def query(self, query: str) -> pd.DataFrame:
        """Run an SQL query on the tables that it names, without Spark."""
        names = set(re.findall(r"\w+", query))
        return run_query(query, {name: self.open(name)._delta for name in TABLES if name in names and name in self})

    def list_tables(self) -> pd.DataFrame:
        """Return the version, the number of rows and the meaning of each table."""
        rows = [(t.name, t.version, t.count(), t.about) for t in self]
        return pd.DataFrame(rows, columns=["table", "version", "rows", "about"])

    def __getitem__(self, name: str) -> Table:
        return self.open(name)

    def __iter__(self) -> Iterator[Table]:
        return (self.open(name) for name in TABLES if name in self)

    def __contains__(self, name: object) -> bool:
        return name in TABLES and bool(DeltaTable.is_deltatable(self._warehouse.table(str(name))))

    def __len__(self) -> int:
        return sum(name in self for name in TABLES)

    def __repr__(self) -> str:
        found = self.list_tables()
        return found.to_string(index=False) if len(found) else f"{self._warehouse.root}: no tables yet"

    def _repr_html_(self) -> str:
        return str(self.list_tables().to_html(index=False))


def to_frame(result: Any) -> Any:
    """Return a list of rows as a DataFrame, and any other result unchanged."""
    return pd.DataFrame(result) if isinstance(result, list) else result
