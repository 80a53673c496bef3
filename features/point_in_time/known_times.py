"""When the rows of the logs became known."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F


def compute_known_time(zone: str, time: Column, ds: Column) -> Column:
    """Return the time from which a row of a log is known, in microseconds since 1970.

    A row is not known before its log day. Its time can be earlier, for example if the log of a day contains rows that
    arrived late.

    Args:
        zone: The time zone of days.
        time: Time of the event, in microseconds.
        ds: Log day of the row. A row without a day is known from its time on.

    Returns:
        The time, or the start of the log day if that is later.
    """
    return F.greatest(time, find_start(zone, ds.try_cast("date")))


def find_start(zone: str, day: Column) -> Column:
    """Return the start of a day in a time zone, in microseconds since 1970."""
    return F.unix_micros(F.to_utc_timestamp(day.cast("timestamp"), zone))
