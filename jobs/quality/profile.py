"""Data profile of the joins and of what the features read: match rates, unparsable and unseen values, and click rates.

A join without a match and an unparsable number both become missing values, which a model trains on silently. This
module counts them by day in the table `profile`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial, reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_ref import PLAIN_COLUMNS, ColumnRef
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import Categorical, Numeric, Vector
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.attributes import name_match_column
from star_ctr.jobs.io.delta_rows import make_any_condition
from star_ctr.jobs.io.warehouse import LedgerEntry, WarehouseTables
from star_ctr.jobs.quality.match_rates import measure_clicks, measure_events
from star_ctr.jobs.quality.measures import (
    CLICKED,
    DOMAIN,
    MATCH,
    UNPARSABLE,
    UNSEEN,
    Measure,
    write_measures,
)

UNPARSED_COLUMN = "unparsed"
"""Column of `features` with the unparsable values of a row by column, as JSON."""


class DomainCount(NamedTuple):
    """The rows of a day and domain in `labels`, and how many of them have the label 1."""

    ds: str
    domain: str
    rows: int
    clicked: int


def count_domains(rows: DataFrame) -> list[DomainCount]:
    """Count the rows and the clicked rows of `labels` by day and domain."""
    counts = rows.groupBy("ds", "domain").agg(
        F.count("*").alias("rows"), F.sum(F.col("label").cast("long")).alias("clicked")
    )
    return [DomainCount(*row) for row in counts.select(*DomainCount._fields).collect()]


def count_rows(rows: DataFrame) -> dict[tuple[str, str], int]:
    """Count the rows of `features` by day and domain."""
    return {(r.ds, r.domain): r["count"] for r in rows.groupBy("ds", "domain").count().collect()}


def write_profile(
    settings: Settings,
    store: WarehouseTables,
    ds: str,
    days: Collection[str],
    domains: Iterable[DomainCount],
    clicks: Iterable[LedgerEntry],
    events: Mapping[str, Iterable[LedgerEntry]],
) -> list[Measure]:
    """Compute the profile of the window of a night and write it to the table `profile`.

    Args:
        settings: The data set.
        store: Its tables; `features` holds the days.
        ds: The night.
        days: The days of its window, including `ds`.
        domains: The rows by day and domain, from `count_domains`.
        clicks: The clicks by day, domain and status, from `count_clicks`; empty if labels do not come from a click log.
        events: The same for the events of each further outcome, by its name.

    Returns:
        The measures that were written.
    """
    rows, domains = store.read("features").where(F.col("ds").isin(list(days))), list(domains)
    found = [
        *measure_columns(settings, rows),
        *measure_domains(settings, domains, clicks),
        *measure_clicks(clicks, days),
        *(m for name, entries in events.items() for m in measure_events(name, entries, days)),
        *measure_unseen(settings, rows, [ds], [day for day in days if day < ds]),
    ]
    # The unseen values of an earlier day are relative to the window of its own night, so they are kept.
    where = make_any_condition("ds", days)
    if kept := sorted({count.ds for count in domains} - {ds}):
        where += f" AND NOT (measure = '{UNSEEN}' AND {make_any_condition('ds', kept)})"
    write_measures(settings, "features", found, where)
    return found


def measure_columns(settings: Settings, rows: DataFrame) -> list[Measure]:
    """Count matches of attribute tables and unparsable values of numeric features and vectors by day.

    Args:
        settings: The data set.
        rows: Rows of `features`.

    Returns:
        The measures of each day.
    """
    tables = [t for t in ("users", "items") if name_match_column(t) in rows.columns and getattr(settings.logs, t)]
    numbers = sorted({f.column for f in settings.features if isinstance(f, Numeric | Vector)})
    counts = [F.count("*").alias("rows")]
    counts += [F.sum(F.col(name_match_column(t)).cast("long")).alias(t) for t in tables]
    for k, column in enumerate(numbers):
        text = F.element_at(F.from_json(UNPARSED_COLUMN, "map<string,string>"), F.lit(column))
        read, bad = F.count(column.flat), F.count(text)
        counts += [read.alias(f"read{k}"), bad.alias(f"not{k}"), F.min(text).alias(f"as{k}")]
    measures = []
    for r in rows.groupBy("ds").agg(*counts).orderBy("ds").collect():
        measures += [Measure(r.ds, t, t, MATCH, r.rows, r[t] or 0) for t in tables]
        for k, column in enumerate(numbers):
            table, n, bad = column.table or "impressions", r[f"read{k}"] + r[f"not{k}"], r[f"not{k}"]
            measures.append(Measure(r.ds, table, column, UNPARSABLE, n, bad, example=r[f"as{k}"] or ""))
    return measures


def measure_domains(settings: Settings, domains: Iterable[DomainCount], clicks: Iterable[LedgerEntry]) -> list[Measure]:
    """Return the share of rows and the click rate of each domain and of all domains, by day.

    A click of a click log counts on the day on which it was logged. Otherwise, the newest day would have fewer clicks
    than earlier days, whose late clicks are known.
    """
    if isinstance(settings.label, LabelFromClicks):
        clicked: dict[tuple[str, str], int] = {}
        for entry in clicks:
            key = (entry.ds, entry.domain)
            clicked[key] = clicked.get(key, 0) + entry.rows_out
        domains = [d._replace(clicked=clicked.get((d.ds, d.domain), 0)) for d in domains]
    by_day: dict[str, list[DomainCount]] = {}
    for count in domains:
        by_day.setdefault(count.ds, []).append(count)
    found = []
    for ds, counts in sorted(by_day.items()):
        total = sum(c.rows for c in counts)
        found.append(Measure(ds, "impressions", "", CLICKED, total, sum(c.clicked for c in counts)))
        for c in sorted(counts):
            found.append(Measure(ds, "impressions", c.domain, DOMAIN, total, c.rows))
            found.append(Measure(ds, "impressions", c.domain, CLICKED, c.rows, c.clicked))
    return found


def measure_unseen(
    settings: Settings, rows: DataFrame, days: Collection[str], earlier: Collection[str]
) -> list[Measure]:
    """Count the values of categorical features that do not occur on earlier days.

    Values are compared by their hash. Domains, hours and weekdays are not counted.

    Args:
        settings: The data set.
        rows: Rows of `features` of all these days.
        days: The days to measure.
        earlier: The days whose values are known.

    Returns:
        One measure per day and column; empty if there are no earlier days.
    """
    derived = set(PLAIN_COLUMNS) - {"user_id", "item_id"}
    # A column with a feature of its own is split as that feature declares, even if it is also part of a cross.
    features = sorted(settings.select_features(Categorical), key=lambda f: len(f.columns), reverse=True)
    splitters = {c: f.splitter for f in features for c in f.columns if c not in derived}
    if not splitters or not earlier:
        return []
    columns = sorted(splitters)
    single, split = list[Column](), list[Column]()
    for k, column in enumerate(columns):
        value, splitter = F.col(column.flat), splitters[column]
        if splitter:
            # Split literally: `\Q` and `\E` quote the separator in a regular expression.
            values = F.split(value, f"\\Q{splitter}\\E")
            split.append(F.transform(values, partial(_make_hash, k)))
        else:
            single.append(_make_hash(k, value))
    # Spark generates code for an array of scalars, but interprets higher-order functions such as transform.
    arrays = [F.array(*single)] if single else []
    arrays += [F.flatten(F.array_compact(F.array(*split)))] if split else []
    frames = [rows.select("ds", F.inline(array)).where(F.col("hash").isNotNull()) for array in arrays]
    exploded = reduce(DataFrame.unionByName, frames)
    is_known = F.max(F.col("ds").isin(list(earlier)))
    counts = [F.count_if(F.col("ds") == day).alias(day) for day in days]
    by_value = exploded.groupBy("k", "hash").agg(is_known.alias("known"), *counts)
    sums = [F.sum(f"`{day}`").alias(f"rows {day}") for day in days]
    sums += [F.sum(F.when(~F.col("known"), F.col(f"`{day}`")).otherwise(0)).alias(f"new {day}") for day in days]
    found = {r.k: r for r in by_value.groupBy("k").agg(*sums).collect()}
    return [
        Measure(day, _get_log(column), _name_column(settings, column), UNSEEN, r[f"rows {day}"], r[f"new {day}"])
        for k, column in enumerate(columns)
        if (r := found.get(k)) is not None
        for day in days
        if r[f"rows {day}"]
    ]


def _make_hash(number: int, value: Column) -> Column:
    """Return a struct of a column's number and the hash of a value; the hash of a null is null."""
    found = F.when(value.isNotNull(), F.xxhash64(value))
    return F.struct(F.lit(number).alias("k"), found.alias("hash"))


def _get_log(column: ColumnRef) -> str:
    return column.table or "impressions"


def _name_column(settings: Settings, column: ColumnRef) -> str:
    """Return the name of a column in its log, with the log: `user_id` -> `impressions.visitor`."""
    log = settings.logs.impressions
    return {"user_id": f"impressions.{log.user}", "item_id": f"impressions.{log.item}"}.get(column, str(column))


def check_numbers(settings: Settings, measures: Iterable[Measure]) -> None:
    """Check the share of unparsable values of numeric features and vectors.

    Args:
        settings: The data set.
        measures: The profile, from `write_profile`.

    Raises:
        DataError: The share of unparsable values of a feature exceeds `checks.max_unparsable` on a day.
    """
    limit = settings.checks.max_unparsable
    exceeded = [m for m in measures if m.measure == UNPARSABLE and m.share > limit]
    if not exceeded:
        return
    worst = max(exceeded, key=lambda m: (m.share, m.ds))
    readers = (f for f in settings.features if isinstance(f, Numeric | Vector))
    feature = next(f for f in readers if f.column == worst.name)
    table = ColumnRef(worst.name).table
    what = f"vectors of {feature.length} numbers" if isinstance(feature, Vector) else "numbers"
    remedy = f"set logs.{table}.decimal or logs.{table}.null_values, or make the feature categorical"
    if isinstance(feature, Vector):
        remedy = f"set features.{feature.name}.length and features.{feature.name}.separator as in the log"
    raise DataError(
        f"features.{feature.name}: {worst.share:.0%} of the {worst.rows:,} values of `{worst.name}` on {worst.ds} are "
        f"not {what}, such as `{worst.example}` (checks.max_unparsable: {limit:.0%}); {remedy}"
    )
