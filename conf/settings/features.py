"""Settings of features (`features`) and of the events that they are computed from (`history`).

Columns are written `table.column`, for example `impressions.duration_ms`, `users.age` or `items.author_id`. The columns
`user_id`, `item_id`, `domain`, `hour` and `weekday` need no table. Hour (00 to 23) and weekday (1 is Monday) are those
of the impression's time in the time zone of the data set (`zone`).

Features of kind `sequence` and `statistic` are point-in-time: they use only events before an as-of time, the cut. The
cut `time` is the time of the impression. The cut `day` is the start of the impression's log day, or its time if that is
earlier.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.settings.base import NonEmptyText, SettingsModel


def _check_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError(
            f"`{value}` is not a valid name; use lower-case letters, digits and underscores, beginning with a letter"
        )
    return value


Name = Annotated[str, AfterValidator(_check_name)]
Cut = Literal["time", "day"]
NumericEncoding = Literal["standard", "bucket"]


class History(SettingsModel):
    """A kind of event in the histories of users, combined from the logs that contain it.

    At least one of `impressions`, `outcome` and `behaviours` is required; `impressions` and `outcome` exclude each
    other. Each event has a weight, and statistics sum the weights with a precision of one millionth.

    An event counts from its time on: that of the impression, the click or the behaviour. It does not count before its
    log day, because its row is not known earlier. If labels come from a click log, the outcome `label` counts only once
    the click has happened. Behaviours without a time are earlier than all other events.
    """

    impressions: bool = Field(False, description="whether every impression is an event; its weight is 1")
    outcome: NonEmptyText | None = Field(
        None,
        description="outcome column of the impression log, or `label`: an impression is an event with this value as "
        "its weight; the weight 0 is no event, and a value that is missing, NaN, infinite or above 1e12 in absolute "
        "value counts as 0; default: none",
    )
    behaviours: NonEmptyText | None = Field(
        None, description="behaviour whose rows in the behaviour log are events with weight 1; default: none"
    )
    also: NonEmptyText | None = Field(
        None,
        description="second behaviour: a row of `behaviours` is an event only if its user and item have a row of this "
        "behaviour, too; only for logs without times, which list each behaviour separately (watched, liked); "
        "default: all rows",
    )
    less: Literal["user_id", "item_id"] | None = Field(
        None,
        description="subtract an average: a row of `behaviours` has the weight 1 (with a row of `also`) or 0 "
        "(without), minus the share of rows with one among the rows of its user or item; with `item_id`, a rate by "
        "user then describes the user and not the items; only for the numerators of `rates`; default: "
        "no subtraction",
    )

    @model_validator(mode="after")
    def _check_source(self) -> History:
        if self.impressions and self.outcome:
            raise ValueError("`impressions` and `outcome` exclude each other; remove one of them")
        if not (self.impressions or self.outcome or self.behaviours):
            raise ValueError("give at least one of `impressions`, `outcome`, `behaviours`")
        if self.also and not self.behaviours:
            raise ValueError("`also` needs `behaviours`, which is not given; set both, or remove `also`")
        if self.less and not self.also:
            raise ValueError("`less` needs `also`, which is not given; set both, or remove `less`")
        if self.less and (self.outcome or self.impressions):
            raise ValueError(
                "`less` applies to `behaviours` only; declare a separate kind without `outcome` and `impressions`"
            )
        return self


class Feature(SettingsModel):
    """Base class of all features."""

    name: Name = Field(description="name of the feature, unique in the data set")


ColumnOrCross = Annotated[
    # Tags in brackets are not shown in messages. With tags, an error concerns only the form that was given.
    Annotated[ColumnRef, Tag("[column]")] | Annotated[list[ColumnRef], Field(min_length=2), Tag("[columns]")],
    Discriminator(lambda given: "[columns]" if isinstance(given, list) else "[column]"),
]
"""A column, or a list of columns whose combinations are the values."""
LIST_SEPARATOR = "\x1f"
"""Separates the values of a list column that is stored as text: the ASCII unit separator, not expected in values."""


class Categorical(Feature):
    """A column of discrete values, each with an embedding.

    Set `multiple` for a column of lists (Parquet, JSON or Delta), or `separator` to split text into a list. Each value
    of a list has an embedding, and the embeddings of a list are averaged.

    With a list of columns, the feature is a cross: its values are the combinations of their values. A combination is
    missing if one of its values is missing.
    """

    kind: Literal["categorical"] = Field(description="kind of the feature: `categorical`")
    column: ColumnOrCross = Field(
        description="column with the values, or a list of columns whose combinations are the values"
    )
    embedding: Name | None = Field(
        None,
        description="embedding table, which features can share; default: a separate table with the feature's name",
    )
    multiple: bool = Field(False, description="whether the column holds lists of values")
    separator: NonEmptyText | None = Field(
        None, description="text that separates the values in a text column; default: each text is one value"
    )
    length: int = Field(4, ge=1, description="maximum number of values of a list; only the first ones are kept")

    @model_validator(mode="after")
    def _check_cross(self) -> Categorical:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("`column` lists a column twice; remove one of them")
        if len(self.columns) > 1 and self.splitter is not None:
            raise ValueError("`multiple` and `separator` need a single `column`; remove them, or the other columns")
        return self

    @property
    def columns(self) -> list[ColumnRef]:
        """The columns whose combinations are the values; usually a single one."""
        return self.column if isinstance(self.column, list) else [self.column]

    @property
    def splitter(self) -> str | None:
        """The separator of list values in the table `features`; None for a column of single values."""
        return self.separator or (LIST_SEPARATOR if self.multiple else None)


class Numeric(Feature):
    """A number that is standardized, or cut at quantiles into buckets with embeddings, or both.

    NaN and infinite values count as missing. Outliers are excluded when the scale is fitted. A missing value
    of a standardized number counts as the mean. With the encoding `missing`, the model also gets a missing-value flag.
    """

    kind: Literal["numeric"] = Field(description="kind of the feature: `numeric`")
    column: ColumnRef = Field(description="column with the numbers")
    log: bool = Field(False, description="whether to transform x to log(1 + x) first; negative values count as 0")
    encode: list[Literal["standard", "bucket", "missing"]] = Field(
        default=["standard"],
        min_length=1,
        description="encodings, one or more: `standard` (mean 0, standard deviation 1, clipped to 4 deviations), "
        "`bucket`, and `missing` (a flag for missing values); default: standard",
    )
    buckets: int = Field(20, ge=2, le=1000, description="maximum number of buckets, if `encode` contains `bucket`")


class Vector(Feature):
    """An array of numbers, such as an embedding of an image or a text from another system.

    Elements are 32-bit floats. Each is reduced by its mean over the training rows, and all are divided by one scale, so
    ratios of distances are preserved. A vector is missing if it has another length, or elements that are not finite
    numbers. Missing vectors become zeros, and the model also gets a missing-value flag.
    """

    kind: Literal["vector"] = Field(description="kind of the feature: `vector`")
    column: ColumnRef = Field(description="column with the vectors: arrays of numbers, or text")
    length: int = Field(ge=1, le=4096, description="number of elements of each vector")
    separator: NonEmptyText = Field(
        ",",
        description="text between the numbers, if the column is text; brackets around the numbers are ignored, and a "
        "space stands for any white space",
    )
    dim: int | None = Field(
        None,
        ge=1,
        description="number of inputs of the network: a smaller number than `length` applies a learned linear "
        "projection, which all domains share; default: `length` if it is at most 32, else 16",
    )

    @model_validator(mode="after")
    def _check_vector(self) -> Vector:
        if self.column.table is None:
            raise ValueError(f"`{self.column}` holds single values; choose a column of arrays, such as items.embedding")
        if self.dim is not None and self.dim > self.length:
            raise ValueError(f"`dim` ({self.dim}) is greater than `length` ({self.length}); decrease it, or remove it")
        return self

    @property
    def width(self) -> int:
        """Number of inputs of the network."""
        return self.dim or (self.length if self.length <= 32 else 16)


class Sequence(Feature):
    """The most recent events of the user before the cut, in order of time, the most recent one last."""

    kind: Literal["sequence"] = Field(description="kind of the feature: `sequence`")
    of: list[str] = Field(min_length=1, description="kinds of `history`, merged in order of time")
    columns: dict[ColumnRef, Name] = Field(
        min_length=1,
        description="columns of each event (of its item, or its domain or hour), each with the embedding table to use",
    )
    gap: bool = Field(
        True,
        description="whether to add an embedding of the time between event and impression, in logarithmic buckets",
    )
    behaviour: bool = Field(False, description="whether to add an embedding of the kind of each event")
    length: int = Field(50, ge=1, le=10_000, description="maximum number of events")
    cut: Cut = Field("time", description="only events before the impression (`time`) or its day (`day`) count")


class Statistic(Feature):
    """Counts, smoothed rates and times since the last event, over the earlier events with the same group columns.

    The numbers of a row are missing if one of its group columns is missing.

    With the cut `day` (the default), a statistic does not see earlier events of the same day. Use it for outcomes:
    otherwise each click raises only the counts of the user's later rows, so that clicked rows have lower counts than
    the user's other rows. This bias distorts the ranking within users, which GAUC measures. The cut `time` is suitable
    for events that are not outcomes.

    With the cut `day`, `last_days` and `half_life_days` let old events count less or not at all. Several statistics may
    have the same group columns, for example one with and one without `last_days`.
    """

    HALF_LIVES: ClassVar[int] = 10
    """Events older than this number of half-lives do not count: their weight would be less than a thousandth."""

    kind: Literal["statistic"] = Field(description="kind of the feature: `statistic`")
    by: list[ColumnRef] = Field(min_length=1, description="columns that define the groups of rows and events")
    counts: list[str] = Field(
        default_factory=list, description="kinds of `history` to count, encoded as log(1 + count); default: none"
    )
    rates: dict[str, str] = Field(
        default_factory=dict,
        description="rates as numerator kind -> denominator kind of `history`, smoothed by `prior`; default: none",
    )
    since: list[str] = Field(
        default_factory=list,
        description="kinds of `history` whose last event determines a time: the seconds from it to the cut, encoded as "
        "log(1 + seconds), missing without an event; default: none",
    )
    prior: float = Field(
        20.0,
        gt=0,
        description="smoothing of rates, in events of the denominator: a rate is (n + prior * r) / (d + prior), where "
        "r is the overall rate of the training rows",
    )
    cut: Cut = Field("day", description="only events before the impression (`time`) or its day (`day`) count")
    last_days: int | None = Field(
        None, ge=1, le=3650, description="number of days before the cut whose events count; default: all days"
    )
    half_life_days: float | None = Field(
        None,
        gt=0,
        le=365,
        description="number of days after which an event counts half; events older than ten half-lives do not count; "
        "`since` is not affected; default: all events count fully",
    )
    encode: list[NumericEncoding] = Field(
        default=["standard"], min_length=1, description="encodings of each number, as for `numeric`; default: standard"
    )
    buckets: int = Field(20, ge=2, le=1000, description="maximum number of buckets, if `encode` contains `bucket`")

    @model_validator(mode="after")
    def _check_not_empty(self) -> Statistic:
        if not (self.counts or self.rates or self.since):
            raise ValueError("give at least one of `counts`, `rates`, `since`")
        if self.cut == "time" and (self.last_days or self.half_life_days):
            raise ValueError("`last_days` and `half_life_days` need `cut: day`; set it, or remove them")
        return self

    def list_kinds(self) -> list[str]:
        """Return the kinds of history that the statistic counts, sorted: those of `counts` and of `rates`."""
        return sorted({*self.counts, *self.rates, *self.rates.values()})


AnyFeature = Annotated[Categorical | Numeric | Vector | Sequence | Statistic, Field(discriminator="kind")]


def list_read_columns(feature: AnyFeature) -> list[ColumnRef]:
    """Return the declared columns that a feature reads, from the row itself or from earlier events."""
    match feature:
        case Categorical() | Sequence():
            return list(feature.columns)
        case Numeric() | Vector():
            return [feature.column]
        case Statistic():
            return list(feature.by)
