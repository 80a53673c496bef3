"""Data profile of a log: rows, reasons for quarantine, hours, columns and the heaviest user, by day.

All functions take rows as `clean_log` returns them, so that they also work on a sample of a log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import LEFT_OUT_BY_WHERE, UNKNOWN_DOMAIN
from star_ctr.features.cleaning.column_conversion import read_number, split_columns_by_use
from star_ctr.features.cleaning.duplicates import DUPLICATE
from star_ctr.features.cleaning.log_columns import (
    get_column,
    list_consumed_columns,
    list_declared_columns,
    map_declared_columns,
    name_table_column,
)
from star_ctr.features.cleaning.row_counts import count_rows
from star_ctr.jobs.quality.measures import (
    DISTINCT,
    DUPLICATES,
    HEAVIEST,
    HOUR,
    LEFT_OUT,
    MEDIAN,
    NULL,
    QUARANTINED,
    ROWS,
    SPREAD,
    Measure,
)

_EXAMPLE = 40
"""Maximum number of characters of an example."""
_SMALLEST = 1e-300
"""Numbers closer to zero count as zero, because their powers of ten cannot be represented."""


class RowCount(NamedTuple):
    """The number of cleaned rows with the same day, domain, reason and hour; see `count_rows`."""

    ds: str
    domain: str
    reason: str
    hour: int | None
    rows: int


def collect_row_counts(settings: Settings, rows: DataFrame) -> list[RowCount]:
    """Count cleaned rows by day, domain, reason and hour; see `count_rows`."""
    return [RowCount(*row) for row in count_rows(rows, settings.zone).select(*RowCount._fields).collect()]


def profile_log(
    settings: Settings, name: str, rows: DataFrame, counts: Iterable[RowCount] | None = None
) -> list[Measure]:
    """Compute the profile of a log by day.

    Args:
        settings: The data set.
        name: The log.
        rows: Cleaned rows, from `clean_log`, of the days to profile.
        counts: The counts of these rows, from `collect_row_counts`; they are computed if they are not given.

    Returns:
        The measures of each day. In a log without days, `ds` is `all`.
    """
    counts = collect_row_counts(settings, rows) if counts is None else counts
    valid = rows.where(F.col("reason").isNull())
    found = [*_summarize_counts(name, counts, "ts" in rows.columns), *_profile_columns(settings, name, valid)]
    found += _profile_numbers(settings, name, valid)
    return found + (_find_heaviest_users(settings, valid) if name == "impressions" else [])


def _summarize_counts(name: str, counts: Iterable[RowCount], has_times: bool) -> list[Measure]:
    """Summarize counts of rows: valid rows, duplicates, quarantined rows by reason, and valid rows by hour."""
    days: dict[str, list[RowCount]] = {}
    for count in counts:
        days.setdefault(count.ds, []).append(count)
    found = []
    for ds, of_day in sorted(days.items()):
        reasons, hours = dict[str, int](), dict.fromkeys(range(24), 0)
        for count in of_day:
            # The reason of an unknown domain contains its name, so there can be any number of such reasons.
            reason = UNKNOWN_DOMAIN if count.reason.startswith(UNKNOWN_DOMAIN) else count.reason
            reasons[reason] = reasons.get(reason, 0) + count.rows
            if not reason and count.hour is not None:
                hours[count.hour] += count.rows
        total, valid = sum(reasons.values()), reasons.pop("", 0)
        found.append(Measure(ds, name, "", ROWS, total, valid))
        found.append(Measure(ds, name, "", DUPLICATES, total, reasons.pop(DUPLICATE, 0)))
        if left_out := reasons.pop(LEFT_OUT_BY_WHERE, 0):
            found.append(Measure(ds, name, "", LEFT_OUT, total, left_out))
        found += [Measure(ds, name, reason, QUARANTINED, total, n) for reason, n in sorted(reasons.items())]
        if has_times and valid:
            found += [Measure(ds, name, f"{hour:02d}", HOUR, valid, n) for hour, n in hours.items()]
    return found


def list_profiled_columns(settings: Settings, name: str, existing: Iterable[str]) -> dict[str, str]:
    """Return the columns of a log to profile: those that the settings name, except unique ids, times and the label.

    Args:
        settings: The data set.
        name: The log.
        existing: The columns of the log's table.

    Returns:
        The name of the column in the log's table by its name in the log.
    """
    log, existing = settings.logs.get_declared()[name], set(existing)
    declared = map_declared_columns(settings, log)
    left_out = list_consumed_columns(settings, log) - set(declared.values())
    left_out |= {declared[target] for target in ("impression_id", "key", "label") if target in declared}
    columns = sorted(list_declared_columns(settings, name) - left_out)
    stored = {column: name_table_column(settings, name, column) for column in columns}
    return {column: target for column, target in stored.items() if target in existing}


def _profile_columns(settings: Settings, name: str, valid: DataFrame) -> list[Measure]:
    """Measure missing and distinct values of the columns of a log by day."""
    columns = list_profiled_columns(settings, name, valid.columns)
    if not columns:
        return []
    aggregates = [F.count("*").alias("rows")]
    for k, target in enumerate(columns.values()):
        value = get_column(target)
        text = F.array_join(value, ", ") if isinstance(valid.schema[target].dataType, ArrayType) else value
        aggregates += [
            F.count(value).alias(f"present{k}"),
            F.approx_count_distinct(value).alias(f"distinct{k}"),
            # The smallest value, because the first one differs from run to run.
            F.min(F.substring(text.cast("string"), 1, _EXAMPLE)).alias(f"example{k}"),
        ]
    found = []
    for r in valid.groupBy("ds").agg(*aggregates).orderBy("ds").collect():
        for k, column in enumerate(columns):
            what, example = f"{name}.{column}", r[f"example{k}"] or ""
            found.append(Measure(r.ds, name, what, NULL, r.rows, r.rows - r[f"present{k}"], example=example))
            found.append(Measure(r.ds, name, what, DISTINCT, r.rows, r[f"distinct{k}"], example=example))
    return found


def _profile_numbers(settings: Settings, name: str, valid: DataFrame) -> list[Measure]:
    """Compute the median and the interquartile range of each column that is read as a number, by day."""
    # Round numbers to two significant digits and count them, which needs few counters. Unlike sketches of quantiles,
    # the result does not depend on the order of the rows.
    columns = list_profiled_columns(settings, name, valid.columns)
    columns = {c: target for c, target in columns.items() if c in split_columns_by_use(settings, name)["number"]}
    if not columns:
        return []
    numbers = F.array(*(read_number(valid, target) for target in columns.values()))
    exploded = valid.select("ds", F.posexplode(numbers).alias("k", "x")).where(F.abs("x") < float("inf"))
    is_zero = F.abs("x") < _SMALLEST
    power = F.when(is_zero, 0).otherwise(F.floor(F.log10(F.abs("x"))) - 1).cast("int")
    digits = F.when(is_zero, 0).otherwise(F.round(F.col("x") / F.pow(F.lit(10.0), power))).cast("int")
    counted = exploded.groupBy("ds", "k", power.alias("power"), digits.alias("digits")).count().collect()
    histograms: dict[tuple[str, int], dict[float, int]] = {}
    for r in counted:
        number = float(f"{r.digits}e{r.power}")
        histogram = histograms.setdefault((r.ds, r.k), {})
        histogram[number] = histogram.get(number, 0) + r["count"]
    found = []
    for (ds, k), histogram in sorted(histograms.items()):
        low, median, high = (_compute_quantile(histogram, q) for q in (0.25, 0.5, 0.75))
        what, n = f"{name}.{list(columns)[k]}", sum(histogram.values())
        found.append(Measure(ds, name, what, MEDIAN, n, n, median))
        found.append(Measure(ds, name, what, SPREAD, n, n, high - low))
    return found


def _compute_quantile(histogram: Mapping[float, int], q: float) -> float:
    """Return the smallest number that at least a share `q` of all numbers does not exceed."""
    limit, seen = q * sum(histogram.values()), 0
    for number, n in sorted(histogram.items()):
        seen += n
        if seen >= limit:
            return number
    return float("nan")


def _find_heaviest_users(settings: Settings, valid: DataFrame) -> list[Measure]:
    """Count the rows of the user with the most rows, by day."""
    by_user = valid.groupBy("ds", "user_id").agg(F.count("*").alias("n"))
    days = by_user.groupBy("ds").agg(F.sum("n").alias("rows"), F.max(F.struct("n", "user_id")).alias("top"))
    what = f"impressions.{settings.logs.impressions.user}"
    return [
        Measure(r.ds, "impressions", what, HEAVIEST, r.rows, r.top.n, example=r.top.user_id[:_EXAMPLE])
        for r in days.orderBy("ds").collect()
    ]
