"""Parse the time and the day of log rows."""

from __future__ import annotations

import datetime as dt
import re

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DateType, LongType, NumericType, StringType, TimestampNTZType, TimestampType

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.logs import AttributeLog, DayColumn, TimeColumn
from star_ctr.conf.settings.sources import Log

# A date, an optional time of day, and an optional zone in any common form: Z, +01, +0100, UTC, Europe/Berlin. A zone
# is accepted only after a time of day, so that -05 at the end of 2022-05-05 is not parsed as one. Abbreviations are not
# accepted because they are ambiguous: CST is used in Chicago and in China.
_ISO = (
    r"^\s*(\d{4}-\d{1,2}-\d{1,2})"
    r"(?:[T ]\s*(\d{1,2}(?::\d{1,2}(?::\d{1,2}(?:[.,]\d+)?)?)?)\s*"
    r"(Z|z|(?:UTC|GMT|UT)?(?:[+-]\d{1,2}(?::?\d{2})?)?|[A-Za-z]+(?:/[A-Za-z0-9_+-]+)+)?)?\s*$"
)
UNUSABLE = "no usable time"
"""Part of the reason of a row whose time cannot be parsed."""
OUTSIDE_BOUNDS = "not between `earliest` and `latest`"
"""Part of the reason of a row with an implausible time or day."""
_ZONE_LETTERS = frozenset("VzOXxZ")
"""Letters of a Spark date pattern that stand for a time zone."""


def parse_time(column: TimeColumn, source: Column, text: Column, kind: DataType, where: str) -> Column:
    """Parse the time column of a log.

    Args:
        column: The declaration of the column in the settings.
        source: The log column.
        text: The canonical text of the column, from `to_text`.
        kind: The type of the column.
        where: The settings key, for messages.

    Returns:
        A timestamp column; null if the value cannot be parsed.

    Raises:
        DataError: The type of the column does not match the declared unit.
    """
    if column.unit in ("s", "ms"):
        factor = 1_000_000 if column.unit == "s" else 1_000
        if isinstance(kind, TimestampType | TimestampNTZType | DateType):
            raise DataError(f"{where}: `{column.column}` is a {kind.simpleString()}; set `unit` to timestamp")
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
    if isinstance(kind, LongType):  # nanoseconds that pandas wrote without a zone and Spark reads as integers
        micros = F.call_function("div", source, F.lit(1000))
        return F.to_utc_timestamp(F.timestamp_micros(micros), column.zone)
    raise DataError(
        f"{where}: `{column.column}` is a {kind.simpleString()}, but unit `timestamp` needs text or a timestamp"
    )


def _parse_pattern(column: TimeColumn, text: Column, kind: DataType) -> Column:
    """Parse text in the declared `format`."""
    pattern = str(column.format)
    text = F.trim(text)
    if isinstance(kind, NumericType) and pattern.isalpha():  # as a number, 09010203 has become 9010203
        short = F.length(text) < len(pattern)
        text = F.when(short, F.lpad(text, len(pattern), "0")).otherwise(text)
    parsed = F.try_to_timestamp(text, F.lit(pattern))
    has_zone = _ZONE_LETTERS & set(re.sub(r"'[^']*'", "", pattern))
    return parsed if has_zone else F.to_utc_timestamp(parsed, column.zone)


def _parse_iso(column: TimeColumn, source: Column) -> Column:
    """Parse ISO 8601 text; a time without a zone is in the declared `zone`."""
    date, time, zone = (F.regexp_extract(source, _ISO, group) for group in (1, 2, 3))
    local = F.concat_ws(" ", date, F.when(time != "", F.replace(time, F.lit(","), F.lit("."))))
    offset = F.regexp_replace(zone, r"^(UTC|GMT|UT)(?=[+-])", "")
    with_zone = F.concat(local, F.lit(" "), offset).try_cast("timestamp")
    without = F.to_utc_timestamp(local.try_cast("timestamp"), column.zone)
    return F.when(date == "", None).when(zone != "", with_zone).otherwise(without)


def check_time(column: TimeColumn, ts: Column, zone: str) -> Column:
    """Check that times were parsed and lie between `earliest` and `latest`.

    Args:
        column: The declaration of the time column in the settings.
        ts: The parsed times, from `parse_time`.
        zone: The time zone of days.

    Returns:
        A text column with the reason why a time cannot be used; null if it can be used.
    """
    unreadable = F.when(ts.isNull(), F.lit(f"{column.column}: {UNUSABLE}"))
    day = F.to_date(F.from_utc_timestamp(ts, zone))
    outside = (day < F.lit(column.earliest)) | (day > F.lit(_get_latest(column)))
    return F.coalesce(unreadable, F.when(outside, F.lit(f"{column.column}: {OUTSIDE_BOUNDS}")))


def _get_latest(column: TimeColumn) -> dt.date:
    # The default is tomorrow, because a clock may be hours ahead or in another zone. Rows from a clock that is set to
    # 2036 are still quarantined.
    return column.latest or dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)


def parse_day_column(
    log: Log, zone: str, ts: Column | None, log_day: Column | None, file_day: Column | None, is_date: bool = False
) -> tuple[Column, Column | None]:
    """Determine the day of rows, and check it.

    The day comes from the path of the file, else from the declared day column, else from the time.

    Args:
        log: The log. If it declares `day`, that is the format of `log_day`.
        zone: The time zone of days.
        ts: The times of the rows; None if the log has no times.
        log_day: The values of the day column, as dates or as text; None if no day column is declared.
        file_day: The day in the path of the file; None if the path contains no day. It is the day of all rows of the
            file, so that the day of a row does not depend on which files are read.
        is_date: Whether `log_day` contains dates, or timestamps in local time, instead of text.

    Returns:
        The day as `yyyy-MM-dd` text (null if it cannot be determined), and the check on it: a text column with the
        reason why the day cannot be used (null if it can), or None if no check is needed. The day is `NO_DAY` for
        attributes without days, and `BEFORE_FIRST_DAY` for behaviours without times.
    """
    if file_day is not None:
        return file_day, None
    day: DayColumn | None = getattr(log, "day", None)
    if day is not None and log_day is not None:
        parsed = F.to_date(F.try_to_timestamp(log_day, F.lit(day.format)))
        date = log_day.cast("date") if is_date else parsed
        bad = F.when(date.isNull(), F.lit(f"{day.column}: no day in the format {day.format}"))
        time: TimeColumn | None = getattr(log, "time", None)
        if time is not None:
            outside = (date < F.lit(time.earliest)) | (date > F.lit(_get_latest(time)))
            bad = F.coalesce(bad, F.when(outside, F.lit(f"{day.column}: {OUTSIDE_BOUNDS}")))
            date = F.when(~outside, date)
        return F.date_format(date, "yyyy-MM-dd"), bad
    if isinstance(log, AttributeLog):
        return F.lit(NO_DAY), None
    if ts is None:
        return F.lit(BEFORE_FIRST_DAY), None
    return F.date_format(F.from_utc_timestamp(ts, zone), "yyyy-MM-dd"), None
