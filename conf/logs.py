"""What a data set's logs look like: where they lie, their formats, keys, times and outcome columns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from star_ctr.conf.declared import Declared, NonEmpty

ColumnType = Literal["string", "long", "double"]


class TimeColumn(Declared):
    """When a row happened.

    `unit` says how the column is written: epoch seconds (`s`), epoch milliseconds (`ms`), or a `timestamp`
    (ISO text or a timestamp column). Timestamps that carry no zone of their own are read in `zone`; Parquet
    times in nanoseconds (what pandas writes) count as such.
    """

    column: NonEmpty
    unit: Literal["s", "ms", "timestamp"] = "ms"
    zone: str = "UTC"


class DayColumn(Declared):
    """The log day that a row belongs to, as the log itself says; `format` is a Spark date pattern."""

    column: NonEmpty
    format: str = "yyyy-MM-dd"


class Log(Declared):
    """A log: a glob of files, each of one day or several, or the folder of a Delta table.

    A relative path lies below `paths.logs`; `{ds}` in it stands for the day (2022-05-05), `{yyyymmdd}` for
    the same without dashes, and then only the files of the days asked for are read.
    """

    path: NonEmpty
    format: Literal["csv", "parquet", "json", "delta"] = "csv"
    separator: NonEmpty = Field(",", description="CSV only")
    types: dict[str, ColumnType] = Field(
        default_factory=dict, description="types of columns; a value that does not fit sends its row to quarantine"
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


class ClickLog(Log):
    """Clicks written apart from impressions, joined to them by the impression's id."""

    impression: NonEmpty
    time: TimeColumn


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

    @model_validator(mode="after")
    def _time_or_order(self) -> BehaviourLog:
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


class Logs(Declared):
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


class LabelColumn(Declared):
    """The label is a column of the impression log (1 clicked, 0 not)."""

    column: NonEmpty


class LabelFromClicks(Declared):
    """The label is 1 where the click log holds a click within `window_hours` after the impression."""

    window_hours: float = Field(gt=0)
