"""The jumps of a night, read from the table `profile` without Spark.

A jump changes neither the data nor a decision. It is reported to a person.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.quality.deviations import MIN_DAYS
from star_ctr.jobs.quality.jumps import Jump, find_jumps
from star_ctr.jobs.quality.measures import ROWS, read_measures

MAX_JUMPS = 10
"""Maximum number of jumps that are listed."""


class JumpList(NamedTuple):
    """The jumps of a day.

    Attributes:
        jumps: The most severe jumps, at most MAX_JUMPS.
        more: Number of other jumps.
        earlier_days: Number of earlier days in the profile; with fewer than MIN_DAYS, nothing is compared.
    """

    jumps: list[Jump]
    more: int
    earlier_days: int

    def describe(self, most: int = MAX_JUMPS) -> list[str]:
        """Return the sentences of the most severe jumps, and how many more there are."""
        lines = [jump.sentence for jump in self.jumps[:most]]
        more = self.more + len(self.jumps[most:])
        return [*lines, *([f"{more} more {'measures' if more > 1 else 'measure'} jumped"] if more else [])]


def read_jumps(settings: Settings, ds: str) -> JumpList:
    """Read the profile and find the jumps of day `ds`; none if `checks.jumps` is false."""
    measures = read_measures(settings, ds) if settings.checks.jumps else []
    days = {m.ds for m in measures if (m.log, m.measure) == ("impressions", ROWS) and m.ds < ds}
    jumps = find_jumps(measures, ds, list_skipped_hours(settings.zone, ds))
    return JumpList(jumps[:MAX_JUMPS], len(jumps[MAX_JUMPS:]), len(days))


def list_skipped_hours(zone: str, ds: str) -> list[int]:
    """Return the hours that a day does not have in a time zone, because the clock is set forward."""
    try:
        local = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):  # an offset from UTC
        return []
    times = [dt.datetime.fromisoformat(f"{ds}T{hour:02d}:30").replace(tzinfo=local) for hour in range(24)]
    return [time.hour for time in times if time.astimezone(dt.UTC).astimezone(local).hour != time.hour]


def describe_jumps(settings: Settings, ds: str) -> list[str]:
    """Describe the jumps of day `ds`; needs no Spark.

    Returns:
        One line per jump, or one line that there are none; empty if there are too few earlier days.
    """
    found = read_jumps(settings, ds)
    if found.earlier_days < MIN_DAYS:
        return []
    return found.describe() or [f"no jumps in the data, compared with {found.earlier_days} earlier days"]
