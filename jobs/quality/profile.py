"""Data profile: match rates of joins, and unparsable values of numeric features.

A join without a match and an unparsable number both become missing values, which a model trains on silently. This
module counts them by day in the table `profile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import Numeric
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.attributes import name_match_column
from star_ctr.features.point_in_time.attribution import MATCHED
from star_ctr.jobs.io.delta_rows import describe_schema, quote_literal, read_rows
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition

MATCH, UNPARSABLE = "matched", "unparsable"
UNPARSED_COLUMN = "unparsed"
"""Column of `features` with the unparsable values of a row by column, as JSON."""
_SCHEMA = describe_schema(
    "profile",
    [
        ("ds", pa.string()),
        ("name", pa.string()),
        ("measure", pa.string()),
        ("rows", pa.int64()),
        ("hits", pa.int64()),
        ("example", pa.string()),
    ],
)


class Measure(NamedTuple):
    """A match rate or a rate of unparsable values: one row of the table `profile`.

    Attributes:
        ds: The day.
        name: The joined table (for matches) or the column (for unparsable values).
        measure: MATCH or UNPARSABLE.
        rows: Number of rows or values.
        hits: Number of `rows` that matched or were unparsable.
        example: An unparsable value.
    """

    ds: str
    name: str
    measure: str
    rows: int
    hits: int
    example: str = ""

    @property
    def share(self) -> float:
        """`hits` over `rows`; without rows, 1 for matches and 0 for unparsable values."""
        return self.hits / self.rows if self.rows else float(self.measure == MATCH)


def write_profile(
    settings: Settings, store: WarehouseTables, days: Iterable[str], matches: Mapping[tuple[str, str], int]
) -> list[Measure]:
    """Compute the profile of some days and write it to the table `profile`.

    Args:
        settings: The data set.
        store: Its tables; `features` holds the days.
        days: The days.
        matches: Number of clicks by day and status; empty if labels do not come from a click log.

    Returns:
        The measures that were written.
    """
    days = list(days)
    found = [*_count_features(settings, store, days), *_count_clicks(matches, days)]
    store.replace_rows("profile", found, _SCHEMA, make_in_condition("ds", days))
    return found


def _count_features(settings: Settings, store: WarehouseTables, days: list[str]) -> list[Measure]:
    """Count matches of attribute tables and unparsable values of numeric features by day."""
    rows = store.read("features").where(F.col("ds").isin(days))
    tables = [t for t in ("users", "items") if name_match_column(t) in rows.columns and getattr(settings.logs, t)]
    numbers = sorted({f.column for f in settings.select_features(Numeric)})
    counts = [F.count("*").alias("rows")]
    counts += [F.sum(F.col(name_match_column(t)).cast("long")).alias(t) for t in tables]
    for k, column in enumerate(numbers):
        text = F.element_at(F.from_json(UNPARSED_COLUMN, "map<string,string>"), F.lit(column))
        read, bad = F.count(column.flat), F.count(text)
        counts += [read.alias(f"read{k}"), bad.alias(f"not{k}"), F.first(text, True).alias(f"as{k}")]
    measures = []
    for r in rows.groupBy("ds").agg(*counts).orderBy("ds").collect():
        measures += [Measure(r.ds, t, MATCH, r.rows, r[t] or 0) for t in tables]
        measures += [
            Measure(r.ds, c, UNPARSABLE, r[f"read{k}"] + r[f"not{k}"], r[f"not{k}"], r[f"as{k}"] or "")
            for k, c in enumerate(numbers)
        ]
    return measures


def _count_clicks(matches: Mapping[tuple[str, str], int], days: list[str]) -> list[Measure]:
    """Count clicks that match an impression by day; days without clicks are left out."""
    totals = {day: sum(n for (d, _), n in matches.items() if d == day) for day in days}
    return [Measure(day, "clicks", MATCH, n, matches.get((day, MATCHED), 0)) for day, n in totals.items() if n]


def check_numbers(settings: Settings, measures: Iterable[Measure]) -> None:
    """Check the share of unparsable values of numeric features.

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
    feature = next(f.name for f in settings.select_features(Numeric) if f.column == worst.name)
    table = ColumnRef(worst.name).table
    raise DataError(
        f"features.{feature}: {worst.share:.0%} of the {worst.rows:,} values of `{worst.name}` on {worst.ds} are not "
        f"numbers, such as `{worst.example}` (checks.max_unparsable: {limit:.0%}); set logs.{table}.decimal or "
        f"logs.{table}.null_values, or make the feature categorical"
    )


def describe_matches(settings: Settings, ds: str) -> list[str]:
    """Describe the match rates of day `ds`; needs no Spark.

    Returns:
        One line per join.
    """
    found = read_rows(Warehouse(settings.paths).table("profile"), f"ds = {quote_literal(ds)} AND measure = '{MATCH}'")
    lines = []
    for r in sorted(found, key=lambda r: r["name"]):
        share = r["hits"] / r["rows"] if r["rows"] else 1.0
        what = "clicks matched an impression" if r["name"] == "clicks" else f"rows matched `{r['name']}`"
        key = "logs.clicks.impression" if r["name"] == "clicks" else f"logs.{r['name']}.key"
        warning = f"; check that {key} has the same ids as the impressions" if share < 0.5 else ""
        lines.append(f"{share:.1%} of {r['rows']:,} {what}{warning}")
    return lines
