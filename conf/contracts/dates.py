"""Days in the form of the column `ds` (`2022-05-05`), and the names that stand for rows without a day."""

from __future__ import annotations

import datetime as dt
import math

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings

NO_DAY = "all"
"""`ds` of attributes that apply to every day."""
BEFORE_FIRST_DAY = "before"
"""`ds` of behaviours without a time, which happened before the first day of the logs."""
UNKNOWN_DAY = "unknown"
"""`ds` of rows whose day cannot be determined."""
UNDATED = (NO_DAY, BEFORE_FIRST_DAY, UNKNOWN_DAY)
"""Values of `ds` that are not a day."""


def check_day(ds: str) -> str:
    """Return `ds` in the form `2022-05-05`; raises `DataError` if it is not a date."""
    try:
        return dt.date.fromisoformat(ds).isoformat()
    except ValueError:
        raise DataError(f"{ds}: not a date; write it like 2022-05-05") from None


def list_days(first: str, last: str) -> list[str]:
    """Return all days from `first` to `last`, both included."""
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return [(start + dt.timedelta(days=k)).isoformat() for k in range((end - start).days + 1)]


def list_window_days(settings: Settings, ds: str) -> list[str]:
    """Return the `window.days` days of the training window and then `ds`, oldest first."""
    first = dt.date.fromisoformat(ds) - dt.timedelta(days=settings.window.days)
    return list_days(first.isoformat(), ds)


def list_days_before(ds: str, number: int) -> list[str]:
    """Return the `number` days before `ds`, oldest first."""
    day = dt.date.fromisoformat(ds)
    return [(day - dt.timedelta(days=k)).isoformat() for k in range(number, 0, -1)]


def list_calibration_nights(
    settings: Settings, ds: str, is_refit: bool = False, number: int | None = None
) -> list[str]:
    """Return the nights whose scores calibrate a run, oldest first.

    All labels of their test days are final on night `ds`: the attribution windows have closed by the end of that day.

    Args:
        settings: The settings of the data set.
        ds: The night of the run.
        is_refit: Whether the run is a refit, which may also use the scores of the candidate of its own night.
        number: The number of nights; `trainer.calibration.earlier_nights` by default.
    """
    calibration = settings.trainer.calibration
    if calibration.method == "none":
        return []
    label = settings.label
    days_to_close = math.ceil(label.window_hours / 24) if isinstance(label, LabelFromClicks) else 0
    end = dt.date.fromisoformat(ds) - dt.timedelta(days=max(days_to_close, 0 if is_refit else 1) - 1)
    return list_days_before(end.isoformat(), calibration.earlier_nights if number is None else number)


def list_reference_calibration_nights(settings: Settings, ds: str) -> list[str]:
    """Return the nights whose references calibrate the reference of a night, oldest first.

    If none of the last `trainer.calibration.earlier_nights` nights has a reference, the newest earlier one is used.

    Args:
        settings: The settings of the data set, with `reference`.
        ds: The night of the reference.
    """
    reference, number = settings.reference, settings.trainer.calibration.earlier_nights
    assert reference is not None
    nights = list_calibration_nights(settings, ds, number=max(number, reference.every_nights))
    return [night for night in nights if reference.is_due(night)]
