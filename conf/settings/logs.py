"""Settings of the logs: where they are, their formats, keys, times and outcome columns."""

from __future__ import annotations

import codecs
import datetime as dt
import re
import zoneinfo
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import NonEmpty, SettingsModel

ColumnType = Literal["string", "long", "double"]

NULL_VALUES = ("", "\\N", "NULL", "null", "NaN", "nan", "None", "<NA>", "00000000-0000-0000-0000-000000000000")
"""Default texts for a missing value: empty, the null markers of Hive and pandas, the all-zero advertising id."""

_OFFSET = re.compile(r"(UTC|GMT|UT)?[+-]\d{1,2}(:?\d{2})?")

_PATTERN_LETTERS = frozenset("GyMLdQqEaBhHkKmsSVzOXxZnN")


def _check_zone(value: str) -> str:
    known = zoneinfo.available_timezones()
    if known and value not in known and not _OFFSET.fullmatch(value):
        raise ValueError(
            f"`{value}` is not a time zone{suggest_nearest(value, known)} (examples: Europe/Berlin, +01:00)"
        )
    return value


def _check_pattern(value: str) -> str:
    """Check that a value is a Spark date pattern; the error for a pattern of another library explains the letters."""
    if "%" in value:
        raise ValueError(f"`{value}` is not a Spark date pattern: write yyyy-MM-dd, not %Y-%m-%d")
    letters = set(re.findall(r"[A-Za-z]", re.sub(r"'[^']*'", "", value)))
    if wrong := letters - _PATTERN_LETTERS:
        raise ValueError(
            f"`{value}` is not a Spark date pattern: `{''.join(sorted(wrong))}` cannot be read "
            "(y is the year, M the month, d the day, H the hour, m the minute, s the second)"
        )
    return value


def _check_encoding(value: str) -> str:
    try:
        name = codecs.lookup(value).name
    except LookupError:
        raise ValueError(f"`{value}` is not a character encoding (examples: UTF-8, GBK, windows-1252)") from None
    if name.startswith(("utf-16", "utf-32")):
        raise ValueError(f"`{value}`: UTF-16 and UTF-32 files are not supported; convert them to UTF-8")
    return "UTF-8" if name in ("utf-8", "utf-8-sig") else value  # a byte order mark is skipped


def _parse_separator(value: str) -> str:
    return "\t" if value == "\\t" else value


Zone = Annotated[str, AfterValidator(_check_zone)]

Pattern = Annotated[NonEmpty, AfterValidator(_check_pattern)]


class TimeColumn(SettingsModel):
    """When a row happened.

    `unit` is the unit of the column: epoch seconds (`s`), epoch milliseconds (`ms`), or `timestamp` for a timestamp
    column, ISO 8601 text, or text in the declared `format`. A time with its own zone is read in that zone, any other in
    `zone`. A row with a time of day but no date is quarantined.
    """

    column: NonEmpty
    unit: Literal["s", "ms", "timestamp"] = "ms"
    format: Pattern | None = Field(None, description="Spark date pattern, such as yyMMddHH; default: ISO 8601")
    zone: Zone = Field("UTC", description="time zone of times without their own zone; default: `zone` of the data set")
    earliest: dt.date = Field(dt.date(2000, 1, 1), description="rows with an earlier time are quarantined")
    latest: dt.date | None = Field(
        None, description="rows with a time after this day are quarantined; default: tomorrow"
    )

    @model_validator(mode="after")
    def _check_format(self) -> TimeColumn:
        if self.format is not None and self.unit != "timestamp":
            raise ValueError("`format` applies to text only: set `unit` to timestamp")
        if self.latest is not None and self.latest < self.earliest:
            raise ValueError(f"`latest` ({self.latest}) is before `earliest` ({self.earliest})")
        return self


class DayColumn(SettingsModel):
    """The log day that a row belongs to, as the log itself says; `format` is a Spark date pattern."""

    column: NonEmpty
    format: Pattern = "yyyy-MM-dd"


class Log(SettingsModel):
    """A log: a glob of files, each of one day or several, or the folder of a Delta table.

    A relative path lies below `paths.logs`; `{ds}` in it stands for the day (2022-05-05), `{yyyymmdd}` for
    the same without dashes, and then only the files of the days asked for are read.
    """

    path: NonEmpty
    format: Literal["csv", "parquet", "json", "delta"] = "csv"
    separator: Annotated[NonEmpty, AfterValidator(_parse_separator)] = Field(",", description="CSV only")
    encoding: Annotated[str, AfterValidator(_check_encoding)] = Field("UTF-8", description="for CSV and JSON files")
    null_values: list[str] = Field(list(NULL_VALUES), description="texts that stand for a missing value in any column")
    decimal: Literal[".", ","] = Field(
        ".", description="decimal separator of numbers in text; with a comma, dots may group thousands"
    )
    types: dict[str, ColumnType] = Field(
        default_factory=dict,
        description="column types; a row with a value of another type is quarantined. The text of a `string` column is "
        "kept unchanged; in other text columns of CSV and JSON, 12.0 is stored as 12",
    )


class ImpressionLog(Log):
    """What was shown: one row an impression, in one domain."""

    id: NonEmpty | None = Field(None, description="the column that identifies a row; a hash of the row if none")
    user: NonEmpty
    item: NonEmpty
    domain: NonEmpty
    time: TimeColumn
    day: DayColumn | None = Field(None, description="the log's own day column; else the day of `time` in `zone`")
    outcomes: list[str] = Field(
        default_factory=list, description="what happened after the impression; never a feature of the same row"
    )
    duplicate_days: int = Field(
        1, ge=0, le=31, description="days before a row's own day to search for duplicates; the earlier row is kept"
    )


class ClickLog(Log):
    """Clicks written apart from impressions, joined to them by the impression's id."""

    impression: NonEmpty
    time: TimeColumn
    duplicate_days: int = Field(1, ge=0, le=31, description="see logs.impressions.duplicate_days")


class BehaviourLog(Log):
    """What users did besides the impressions, or before the first day of them.

    With `time`, every row has its own; with `order` instead, rows have no times, lie before the first day of
    the impressions, and a larger value of the column is more recent.
    """

    user: NonEmpty
    item: NonEmpty
    behaviour: NonEmpty = Field(description="the column that names what was done")
    time: TimeColumn | None = None
    order: NonEmpty | None = None
    duplicate_days: int = Field(1, ge=0, le=31, description="see logs.impressions.duplicate_days")

    @model_validator(mode="after")
    def _check_time_or_order(self) -> BehaviourLog:
        if (self.time is None) == (self.order is None):
            raise ValueError("give either `time` (rows have times) or `order` (rows lie before the first day)")
        return self


class AttributeLog(Log):
    """A table of attributes, one row a key, or one row a key and day where `day` is declared (snapshots).

    `as_of` says which snapshot an impression sees: that of its own day or an earlier one (`same_day`), or of
    an earlier day only (`day_before`, for tables that are written at the end of their day).
    """

    key: NonEmpty
    day: DayColumn | None = None
    as_of: Literal["same_day", "day_before"] = "day_before"


class LogSettings(SettingsModel):
    """The logs of a data set; only impressions are required."""

    impressions: ImpressionLog
    clicks: ClickLog | None = None
    behaviours: BehaviourLog | None = None
    users: AttributeLog | None = None
    items: AttributeLog | None = None

    def declared(self) -> dict[str, Log]:
        """The logs that this data set has, by table name."""
        logs = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: log for name, log in logs.items() if log is not None}
