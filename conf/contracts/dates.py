"""Days as the tables name them: `2022-05-05`, and the names of what has none."""

from __future__ import annotations

import datetime as dt

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings

NO_DAY = "all"
"""Of attributes that hold on every day."""
BEFORE_FIRST_DAY = "before"
"""Of behaviours that happened before the logs begin."""


def check_day(ds: str) -> str:
    """`ds` if it is a day, else `DataError`."""
    try:
        return dt.date.fromisoformat(ds).isoformat()
    except ValueError:
        raise DataError(f"--ds {ds}: write a day as in 2022-05-05") from None


def list_days(first: str, last: str) -> list[str]:
    """All days from `first` to `last`, both included."""
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return [(start + dt.timedelta(days=k)).isoformat() for k in range((end - start).days + 1)]


def list_window_days(settings: Settings, ds: str) -> list[str]:
    """The days of the training window and `ds` itself, oldest first."""
    first = dt.date.fromisoformat(ds) - dt.timedelta(days=settings.window.days)
    return list_days(first.isoformat(), ds)


def list_days_before(ds: str, number: int) -> list[str]:
    """Return the `number` days before `ds`, oldest first."""
    day = dt.date.fromisoformat(ds)
    return [(day - dt.timedelta(days=k)).isoformat() for k in range(number, 0, -1)]
