"""Settings of the logs: their paths, formats, keys, times and outcome columns."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import NonEmptyText, SettingsModel
from star_ctr.conf.settings.sources import Log

_OFFSET = re.compile(r"(UTC|GMT|UT)?[+-]\d{1,2}(:?\d{2})?")

_PATTERN_LETTERS = frozenset("GyMLdQqEaBhHkKmsSVzOXxZnN")


def _check_zone(value: str) -> str:
    """Check that a value is the name of a time zone or an offset from UTC."""
    known = zoneinfo.available_timezones()
    if known and value not in known and not _OFFSET.fullmatch(value):
        raise ValueError(
            f"`{value}` is not a time zone{suggest_nearest(value, known)} (examples: Europe/Berlin, +01:00)"
        )
    return value


def _check_pattern(value: str) -> str:
    """Check that a value is a Spark date pattern, and explain the letters if it is a pattern of another library."""
    if "%" in value:
        raise ValueError(f"`{value}` is not a Spark date pattern: write yyyy-MM-dd, not %Y-%m-%d")
    letters = set(re.findall(r"[A-Za-z]", re.sub(r"'[^']*'", "", value)))
    if wrong := letters - _PATTERN_LETTERS:
        raise ValueError(
            f"`{value}` is not a Spark date pattern: `{''.join(sorted(wrong))}` cannot be read "
            "(y is the year, M the month, d the day, H the hour, m the minute, s the second)"
        )
    return value


def _check_day_pattern(value: str) -> str:
    """Check that a pattern contains year, month and day."""
    letters = set(re.sub(r"'[^']*'", "", value))
    parts = {"year (y)": "y", "month (M)": "MLD", "day (d)": "dD"}
    if missing := [part for part, found in parts.items() if not letters & set(found)]:
        hint = "; m is the minute, M the month" if "m" in letters else ""
        raise ValueError(f"`{value}` contains no {' and no '.join(missing)}{hint}")
    return value


Zone = Annotated[str, AfterValidator(_check_zone)]

Pattern = Annotated[NonEmptyText, AfterValidator(_check_pattern)]


class TimeColumn(SettingsModel):
    """The column with the time of a row, and how to parse it.

    A time that contains a zone is read in that zone, any other in `zone`. A row is quarantined if its time cannot be
    read, if it has a time of day but no date, or if the time is not between `earliest` and `latest`.
    """

    column: NonEmptyText = Field(description="column with the time")
    unit: Literal["s", "ms", "timestamp"] = Field(
        "ms",
        description="unit of the column: epoch seconds (`s`), epoch milliseconds (`ms`), or `timestamp` for a "
        "timestamp column, ISO 8601 text, or text in the declared `format`",
    )
    format: Pattern | None = Field(
        None, description="Spark date pattern of text, such as yyMMddHH; needs unit `timestamp`; default: ISO 8601"
    )
    zone: Zone = Field("UTC", description="time zone of times that contain none; default: `zone` of the data set")
    earliest: dt.date = Field(dt.date(2000, 1, 1), description="first plausible day; rows before it are quarantined")
    latest: dt.date | None = Field(
        None, description="last plausible day; rows after it are quarantined; default: tomorrow"
    )

    @model_validator(mode="after")
    def _check_format(self) -> TimeColumn:
        if self.format is not None and self.unit != "timestamp":
            raise ValueError("`format` applies to text only: set `unit` to timestamp")
        if self.latest is not None and self.latest < self.earliest:
            raise ValueError(f"`latest` ({self.latest}) is before `earliest` ({self.earliest})")
        return self


class DayColumn(SettingsModel):
    """The column with the day that a row belongs to."""

    column: NonEmptyText = Field(description="column with the day: text, a date, or a timestamp")
    format: Annotated[Pattern, AfterValidator(_check_day_pattern)] = Field(
        "yyyy-MM-dd", description="Spark date pattern of a day in text; the default reads 2022-05-05"
    )


class ImpressionLog(Log):
    """The log of impressions: one row per impression, each in one domain."""

    id: NonEmptyText | None = Field(
        None,
        description="column with the unique id of an impression, required if labels come from clicks; default: a hash "
        "of the row",
    )
    user: NonEmptyText = Field(description="column with the id of the user")
    item: NonEmptyText = Field(description="column with the id of the item")
    domain: NonEmptyText = Field(description="column with the domain")
    time: TimeColumn = Field(description="column with the time of the impression")
    day: DayColumn | None = Field(
        None,
        description="column with the day of the impression, if the path does not contain the day; default: the day of "
        "`time` in the data set's `zone`",
    )
    outcomes: list[str] = Field(
        default_factory=list,
        description="columns with events after the impression; they cannot be features of the same row; default: none",
    )
    weight: NonEmptyText | None = Field(
        None,
        # Without a weight, the settings have the same hashes as before this key existed.
        exclude_if=lambda weight: weight is None,
        description="column with the weight of the impression in training: a number from 0 to 1e12; rows with "
        "weight 0 are not trained on; default: all rows have the same weight",
    )
    duplicate_days: int = Field(
        1,
        ge=0,
        le=31,
        description="number of days before a row's day to search for duplicates, besides the day itself; the earlier "
        "row is kept",
    )


class ClickLog(Log):
    """The log of clicks, if it is separate from the impressions. Clicks are joined with them by the impression's id."""

    impression: NonEmptyText = Field(description="column with the id of the clicked impression (`logs.impressions.id`)")
    time: TimeColumn = Field(description="column with the time of the click")
    duplicate_days: int = Field(1, ge=0, le=31, description="as in `logs.impressions`")


class EventLog(ClickLog):
    """The log of events after impressions, such as purchases, for further outcomes (`label.also`)."""

    impression: NonEmptyText = Field(
        description="column with the id of the impression that the event belongs to (`logs.impressions.id`)"
    )
    event: NonEmptyText = Field(description="column with the name of the event, such as purchase")
    time: TimeColumn = Field(description="column with the time of the event")


class BehaviourLog(Log):
    """The log of user behaviours that are not impressions, or that happened before the first day of impressions.

    Exactly one of `time` and `order` is required. With `order`, rows that the first night sees count as earlier than
    the first day. A row that a later night sees first belongs to the day of that night.
    """

    user: NonEmptyText = Field(description="column with the id of the user")
    item: NonEmptyText = Field(description="column with the id of the item")
    behaviour: NonEmptyText = Field(description="column with the name of the behaviour, such as cart")
    time: TimeColumn | None = Field(None, description="column with the time of a row; default: rows have no times")
    order: NonEmptyText | None = Field(
        None, description="column of whole numbers that orders rows without times; larger values are more recent"
    )
    duplicate_days: int = Field(1, ge=0, le=31, description="as in `logs.impressions`")

    @model_validator(mode="after")
    def _check_time_or_order(self) -> BehaviourLog:
        if (self.time is None) == (self.order is None):
            raise ValueError("give either `time` (rows have times) or `order` (rows are from before the first day)")
        return self


class AttributeLog(Log):
    """A table of attributes: one row per key, or daily snapshots with one row per key and day."""

    key: NonEmptyText = Field(description="column with the id of the user or item")
    day: DayColumn | None = Field(
        None,
        description="column with the day of a snapshot, if the path does not contain the day; default: there is one "
        "row per key, which applies from the night that sees it first, or to every day if that is the first night",
    )
    as_of: Literal["same_day", "day_before"] = Field(
        "day_before",
        description="newest snapshot that an impression sees: that of the same or an earlier day (`same_day`), or of "
        "an earlier day (`day_before`, for tables that are written at the end of their day)",
    )

    @model_validator(mode="after")
    def _check_days(self) -> AttributeLog:
        dated = {name: source.has_day for name, source in self.sources.items()}
        if self.day is None and len({*dated.values()}) > 1:
            without = next(name for name, has_day in dated.items() if not has_day)
            raise ValueError(
                f"sources.{without}: the path contains no day, but the paths of other sources do; add the day to "
                "this path, or set `day`"
            )
        return self


class LogSettings(SettingsModel):
    """The logs of a data set. Only `impressions` is required."""

    impressions: ImpressionLog = Field(description="impressions")
    clicks: ClickLog | None = Field(None, description="clicks; required if labels come from clicks; default: none")
    events: EventLog | None = Field(
        None,
        # Without events, the settings have the same hashes as before this key existed.
        exclude_if=lambda events: events is None,
        description="events after impressions, for further outcomes; default: none",
    )
    behaviours: BehaviourLog | None = Field(
        None, description="other user behaviours, for sequences and statistics; default: none"
    )
    users: AttributeLog | None = Field(None, description="attributes of users; default: none")
    items: AttributeLog | None = Field(None, description="attributes of items; default: none")

    def get_declared(self) -> dict[str, Log]:
        """Return the declared logs by table name."""
        logs = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: log for name, log in logs.items() if log is not None}
