"""Parse the time and the day of log rows."""

from __future__ import annotations

import datetime as dt
import re

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DateType, LongType, NumericType, StringType, TimestampNTZType, TimestampType

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.logs import AttributeLog, DayColumn, Log, TimeColumn

# A date, a time of day, and a zone in any common form: Z, +01, +0100, UTC, Europe/Berlin. A zone needs a time before
# it, so that the end of 2022-05-05 is not read as one. Abbreviations are not read: CST is Chicago, or China.
_ISO = (
    r"^\s*(\d{4}-\d{1,2}-\d{1,2})"
    r"(?:[T ]\s*(\d{1,2}(?::\d{1,2}(?::\d{1,2}(?:[.,]\d+)?)?)?)\s*"
    r"(Z|z|(?:UTC|GMT|UT)?(?:[+-]\d{1,2}(?::?\d{2})?)?|[A-Za-z]+(?:/[A-Za-z0-9_+-]+)+)?)?\s*$"
)
OUTSIDE = "not between `earliest` and `latest`"
"""Part of the reason of a row with an implausible time or log day."""
_ZONE_LETTERS = frozenset("VzOXxZ")


def parse_time(column: TimeColumn, source: Column, text: Column, kind: DataType, where: str) -> Column:
    """Parse the time of a row, null if that fails.

    Args:
        column: Its declaration in the settings.
        source: The log's column.
        text: Its text, from `to_text`.
        kind: Its type.
        where: The settings key, for errors.

    Raises:
        DataError: The column's type does not match the declared unit.
    """
    if column.unit in ("s", "ms"):
        factor = 1_000_000 if column.unit == "s" else 1_000
        if isinstance(kind, TimestampType | TimestampNTZType | DateType):
            raise DataError(f"{where}: `{column.column}` is a {kind.simpleString()}; set unit to timestamp")
        seconds = source.cast("string").try_cast("decimal(30, 6)")
        return F.timestamp_micros((seconds * factor).try_cast("bigint"))
    if isinstance(kind, TimestampType):
        return source
    if isinstance(kind, TimestampNTZType):
        return F.to_utc_timestamp(source.cast("timestamp"), column.zone)
    if column.format is not None and isinstance(kind, StringType | NumericType):
        return _parse_pattern(column, text, kind)
    if isinstance(kind, StringType):
        return _parse_iso(column, source)
    if isinstance(kind, LongType):  # nanoseconds that pandas wrote without a zone and Spark copied as integers
        micros = F.call_function("div", source, F.lit(1000))
        return F.to_utc_timestamp(F.timestamp_micros(micros), column.zone)
    raise DataError(
        f"{where}: `{column.column}` is a {kind.simpleString()}, but unit `timestamp` needs text or a timestamp"
    )


def _parse_pattern(column: TimeColumn, text: Column, kind: DataType) -> Column:
    pattern = str(column.format)
    text = F.trim(text)
    if isinstance(kind, NumericType) and pattern.isalpha():  # as a number, 09010203 is 9010203
        short = F.length(text) < len(pattern)
        text = F.when(short, F.lpad(text, len(pattern), "0")).otherwise(text)
    parsed = F.try_to_timestamp(text, F.lit(pattern))
    has_zone = _ZONE_LETTERS & set(re.sub(r"'[^']*'", "", pattern))
    return parsed if has_zone else F.to_utc_timestamp(parsed, column.zone)


def _parse_iso(column: TimeColumn, source: Column) -> Column:
    date, time, zone = (F.regexp_extract(source, _ISO, group) for group in (1, 2, 3))
    local = F.concat_ws(" ", date, F.when(time != "", F.replace(time, F.lit(","), F.lit("."))))
    offset = F.regexp_replace(zone, r"^(UTC|GMT|UT)(?=[+-])", "")
    with_zone = F.concat(local, F.lit(" "), offset).try_cast("timestamp")
    without = F.to_utc_timestamp(local.try_cast("timestamp"), column.zone)
    return F.when(date == "", None).when(zone != "", with_zone).otherwise(without)


def check_time(column: TimeColumn, ts: Column, zone: str) -> Column:
    """Return the reason why a row's time is unusable, null if it is usable; `zone` is that of the days."""
    unreadable = F.when(ts.isNull(), F.lit(f"{column.column}: no usable time"))
    day = F.to_date(F.from_utc_timestamp(ts, zone))
    outside = (day < F.lit(column.earliest)) | (day > F.lit(_get_latest(column)))
    return F.coalesce(unreadable, F.when(outside, F.lit(f"{column.column}: {OUTSIDE}")))


def _get_latest(column: TimeColumn) -> dt.date:
    # Allow a day: a clock may be hours ahead, or in another zone. Rows with a clock set to 2036 are quarantined.
    return column.latest or dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)


def parse_day(
    log: Log, zone: str, ts: Column | None, own: Column | None, file_day: Column | None, is_date: bool = False
) -> tuple[Column, Column | None]:
    """Return the day of a row, and the check on it.

    Args:
        log: The log; its `day`, if declared, has the format of `own`.
        zone: The time zone of days.
        ts: The row's time, if the log has times.
        own: The log's own day as a date or as text, if one is declared.
        file_day: The day in the file's path, if it names one. It is the day of all rows of the file: a row can then
            belong to one day only, whichever files are read.
        is_date: Whether `own` is a date, or a timestamp in local time.
    """
    if file_day is not None:
        return file_day, None
    day: DayColumn | None = getattr(log, "day", None)
    if day is not None and own is not None:
        parsed = F.to_date(F.try_to_timestamp(own, F.lit(day.format)))
        date = own.cast("date") if is_date else parsed
        bad = F.when(date.isNull(), F.lit(f"{day.column}: no day in the format {day.format}"))
        time: TimeColumn | None = getattr(log, "time", None)
        if time is not None:
            outside = (date < F.lit(time.earliest)) | (date > F.lit(_get_latest(time)))
            bad = F.coalesce(bad, F.when(outside, F.lit(f"{day.column}: {OUTSIDE}")))
            date = F.when(~outside, date)
        return F.date_format(date, "yyyy-MM-dd"), bad
    if isinstance(log, AttributeLog):
        return F.lit(NO_DAY), None
    if ts is None:
        return F.lit(BEFORE_FIRST_DAY), None
    return F.date_format(F.from_utc_timestamp(ts, zone), "yyyy-MM-dd"), None
