"""The table `profile`: one measure of a day of logs per row. Needs no Spark.

A measure is a share (`hits` of `rows`) or a number (`value`). `ingest` measures the rows of each log, `features` the
joins and what the features read. Each step replaces only the rows that it wrote itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa
from deltalake import DeltaTable, Field
from deltalake.schema import PrimitiveType

from star_ctr.conf.contracts.catalog import TABLES, Warehouse
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import describe_schema, make_any_condition, quote_literal, read_rows, replace_rows

# Measures of a log, written by `ingest`. The name is a column (`impressions.slot`), an hour, a reason or empty.
ROWS = "rows"
"""Rows read of the day (`rows`), and how many of them are valid (`hits`)."""
QUARANTINED, DUPLICATES, LEFT_OUT = "quarantined", "duplicate", "left out"
"""Share of the rows read that are quarantined, by reason; that are duplicates; and that `where` leaves out."""
HOUR = "hour"
"""Share of the rows by hour of the day, `00` to `23`, in the time zone of the data set."""
NULL, DISTINCT = "null", "distinct"
"""Share of missing values of a column, and its approximate number of distinct values (`hits`)."""
MEDIAN, SPREAD = "median", "interquartile range"
"""Median and interquartile range (`value`) of the `rows` numbers in a column, from numbers with two digits."""
HEAVIEST = "heaviest user"
"""Share of the user with the most rows, who is the `example`."""

# Measures of joins and features, written by `features`.
DOMAIN, CLICKED = "domain", "clicked"
"""Share of the rows by domain; clicks per row by domain, and over all domains (empty name)."""
MATCH, EARLY = "matched", "early"
"""Share of rows or clicks that match a joined table; share of clicks that precede their impression."""
UNPARSABLE, UNSEEN = "unparsable", "unseen"
"""Share of the values of a numeric column that are not numbers; of a categorical column that are new to the window."""

HISTORY_DAYS = 14
"""Number of earlier days that a day is compared with, at most."""
SCHEMA = describe_schema(
    "profile",
    [
        ("ds", pa.string()),
        ("step", pa.string()),
        ("log", pa.string()),
        ("name", pa.string()),
        ("measure", pa.string()),
        ("rows", pa.int64()),
        ("hits", pa.int64()),
        ("value", pa.float64()),
        ("example", pa.string()),
    ],
)


class Measure(NamedTuple):
    """A measure of a day: one row of the table `profile`.

    Attributes:
        ds: The day.
        log: The log that is measured.
        name: What is measured: a column, domain, hour, reason or joined table; empty for the whole log.
        measure: The kind of measure, such as NULL.
        rows: Number of rows or values.
        hits: Number of `rows` that the measure counts.
        value: The number, for a measure that is no share.
        example: An example value; None if there is none.
    """

    ds: str
    log: str
    name: str
    measure: str
    rows: int
    hits: int
    value: float | None = None
    example: str = ""

    @property
    def share(self) -> float:
        """`hits` over `rows`; without rows, 1 for matches and 0 for everything else."""
        return self.hits / self.rows if self.rows else float(self.measure == MATCH)


def write_measures(
    settings: Settings, step: Literal["ingest", "features"], measures: Iterable[Measure], where: str
) -> None:
    """Replace measures of a step in one commit. If the step writes the same days again, the table has the same rows.

    Args:
        settings: The data set.
        step: The step that computed the measures.
        measures: The new measures.
        where: An SQL condition that selects the measures of the step to replace; all `measures` must match it.
    """
    table = Warehouse(settings.paths).table("profile")
    _add_missing_columns(table)
    rows = [(m.ds, step, m.log, m.name, m.measure, m.rows, m.hits, m.value, m.example) for m in measures]
    replace_rows(table, rows, SCHEMA, f"step = '{step}' AND ({where})", TABLES["profile"].partitions)


def _add_missing_columns(table: str) -> None:
    """Add the columns of SCHEMA that an earlier version did not write, so that a condition can refer to them."""
    if not DeltaTable.is_deltatable(table):
        return
    delta = DeltaTable(table)
    missing = [f for f in SCHEMA if f.name not in {field.name for field in delta.schema().fields}]
    if missing:
        types = {pa.string(): "string", pa.int64(): "long", pa.float64(): "double"}
        delta.alter.add_columns([Field(f.name, PrimitiveType(types[f.type])) for f in missing])


def read_measures(settings: Settings, ds: str, earlier: int = HISTORY_DAYS) -> list[Measure]:
    """Read the measures of a day and of the days before it.

    Args:
        settings: The data set.
        ds: The day.
        earlier: Number of days before `ds` to read.

    Returns:
        The measures, in no particular order; empty if the table does not exist.
    """
    first = (dt.date.fromisoformat(ds) - dt.timedelta(days=earlier)).isoformat()
    where = f"ds >= {quote_literal(first)} AND ds <= {quote_literal(ds)}"
    return _to_measures(read_rows(Warehouse(settings.paths).table("profile"), where))


def read_day(settings: Settings, ds: str, measures: Sequence[str]) -> list[Measure]:
    """Read the measures of the given kinds of one day."""
    where = f"ds = {quote_literal(ds)} AND {make_any_condition('measure', measures)}"
    return _to_measures(read_rows(Warehouse(settings.paths).table("profile"), where))


def _to_measures(rows: Iterable[dict[str, object]]) -> list[Measure]:
    # An earlier version wrote fewer columns; such rows cannot be assigned to a log.
    return [Measure(*(row[k] for k in Measure._fields)) for row in rows if row.get("log") is not None]  # type: ignore[arg-type]
