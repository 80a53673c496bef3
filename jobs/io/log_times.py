"""The range of times in each log day, as calendar days recorded by `ingest`. Needs no Spark."""

from __future__ import annotations

import datetime as dt

from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import DayRecords

TIMES = "times"
"""Key of a record of a log: the calendar days of the first and the last time of the rows of a day."""


def read_time_ranges(settings: Settings, log: str) -> dict[str, tuple[dt.date, dt.date]]:
    """Return the first and the last calendar day of the times in each log day, in the time zone of the settings.

    Args:
        settings: The data set.
        log: The log.

    Returns:
        The days by log day. Log days without a record are left out: their times are unknown.
    """
    records = DayRecords(settings).read(f"ingest.{log}").values()
    found = {day: times for record in records for day, times in record.outputs.get(TIMES, {}).items()}
    return {day: (dt.date.fromisoformat(first), dt.date.fromisoformat(last)) for day, (first, last) in found.items()}
