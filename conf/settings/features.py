"""What a feature may be: categorical, numeric, a behaviour sequence, or a running statistic.

Columns are written `table.column`: `impressions.duration_ms`, `users.age`, `items.author_id`; and
`user_id`, `item_id`, `domain`, `hour`, `weekday` (of the impression's time in `zone`) need no table.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import NonEmpty, SettingsModel

PLAIN_COLUMNS = ("user_id", "item_id", "domain", "hour", "weekday")
COLUMN_TABLES = ("impressions", "users", "items")


def _check_column(value: str) -> str:
    table, dot, column = value.partition(".")
    if not dot and value in PLAIN_COLUMNS:
        return value
    if dot and table in COLUMN_TABLES and column:
        return value
    hint = suggest_nearest(value, PLAIN_COLUMNS) if not dot else suggest_nearest(table, COLUMN_TABLES)
    raise ValueError(
        f"`{value}` names no column: write one of {', '.join(PLAIN_COLUMNS)}, "
        f"or `table.column` with a table of {', '.join(COLUMN_TABLES)}{hint}"
    )


def _check_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError(f"`{value}`: names are lower case letters, digits and underscores")
    return value


Column = Annotated[str, AfterValidator(_check_column)]
Name = Annotated[str, AfterValidator(_check_name)]
Cut = Literal["time", "day"]
NumericEncoding = Literal["standard", "bucket"]


def flatten_column_name(column: str) -> str:
    """The name that a declared column has in the `features` table: `items.author_id` -> `items_author_id`."""
    return column.replace(".", "_")


class History(SettingsModel):
    """A kind of event in users' histories, put together from the logs that tell of it.

    `impressions` takes every impression. `outcome` names an outcome column of the impression log (or `label`): an
    impression counts with the value of that column, from its own time on (a click of a click log: from the time of the
    click on). An outcome that is missing, NaN, infinite or above 1e12 in absolute value counts as 0, and sums have a
    precision of one millionth. `behaviours` takes the rows of the behaviour log with that name. `also` keeps only those
    rows whose user and item have a row of a second behaviour too: in a log without times that lists each behaviour
    separately (watched; watched to the end), it tells what a row led to. `less` subtracts an average: a row of
    `behaviours` counts 1 if it also has the second behaviour (else 0), minus the share of such rows among the rows of
    its user (or its item). Use it for rates: the rate of a user then describes the user, not the items shown to them.
    """

    impressions: bool = False
    outcome: NonEmpty | None = None
    behaviours: NonEmpty | None = None
    also: NonEmpty | None = None
    less: Literal["user_id", "item_id"] | None = None

    @model_validator(mode="after")
    def _check_source(self) -> History:
        if self.impressions and self.outcome:
            raise ValueError("`impressions` takes every impression, `outcome` those with the outcome: give one")
        if not (self.impressions or self.outcome or self.behaviours):
            raise ValueError("give at least one of `impressions`, `outcome`, `behaviours`")
        if self.also and not self.behaviours:
            raise ValueError("`also` narrows `behaviours`, which is not given")
        if self.less and not self.also:
            raise ValueError("`less` compares shares of `also`, which is not given")
        if self.less and (self.outcome or self.impressions):
            raise ValueError("`less` is of `behaviours` alone: give it a kind without `outcome` and `impressions`")
        return self


class Feature(SettingsModel):
    """What all features have: a name, unique in the data set."""

    name: Name


LIST_SEPARATOR = "\x1f"
"""Separates the values of a list column that is stored as text: the ASCII unit separator, not expected in values."""


class Categorical(Feature):
    """A column of discrete values, each with an embedding.

    Set `multiple` for a column of lists (Parquet, JSON or Delta), or `separator` to split text into a list. Each value
    of a list has an embedding.
    """

    kind: Literal["categorical"]
    column: Column
    embedding: Name | None = Field(None, description="the embedding table it shares; its own if none")
    multiple: bool = Field(False, description="the column holds lists of values")
    separator: NonEmpty | None = Field(None, description="splits the column into a list of values")
    length: int = Field(4, ge=1, description="values of a list kept (the first ones); the rest is padding")

    @property
    def splitter(self) -> str | None:
        """The separator of list values in the `features` table; None for a column of single values."""
        return self.separator or (LIST_SEPARATOR if self.multiple else None)


class Numeric(Feature):
    """A number that is standardized, or cut at quantiles into buckets with embeddings, or both.

    NaN and infinite values count as missing. Outliers are excluded when the scale is fitted.
    """

    kind: Literal["numeric"]
    column: Column
    log: bool = Field(False, description="log(1 + x) first; negative values count as 0")
    encode: list[NumericEncoding] = Field(default=["standard"], min_length=1)
    buckets: int = Field(20, ge=2, le=1000)


class Sequence(Feature):
    """The last `length` events of the user before the cut, most recent last."""

    kind: Literal["sequence"]
    of: list[str] = Field(min_length=1, description="kinds of `history`, merged in order of time")
    columns: dict[Column, Name] = Field(
        min_length=1, description="columns of each event's item (or its domain, hour) and the embedding of each"
    )
    gap: bool = Field(True, description="adds the time between event and impression, in logarithmic buckets")
    behaviour: bool = Field(False, description="adds which kind of event it was")
    length: int = Field(50, ge=1, le=10_000)
    cut: Cut = "time"


class Statistic(Feature):
    """Running counts, smoothed rates and time since the last event, by a group of columns.

    `counts`: kinds of `history`, counted. `rates`: numerator kind -> denominator kind, smoothed towards the
    rate of all training rows with the weight of `prior` events. `since`: seconds since the last event.
    """

    kind: Literal["statistic"]
    by: list[Column] = Field(min_length=1)
    counts: list[str] = Field(default_factory=list)
    rates: dict[str, str] = Field(default_factory=dict)
    since: list[str] = Field(default_factory=list)
    prior: float = Field(20.0, gt=0)
    cut: Cut = "day"
    encode: list[NumericEncoding] = Field(default=["standard"], min_length=1)
    buckets: int = Field(20, ge=2, le=1000)

    @model_validator(mode="after")
    def _check_not_empty(self) -> Statistic:
        if not (self.counts or self.rates or self.since):
            raise ValueError("give at least one of `counts`, `rates`, `since`")
        return self

    def kinds(self) -> list[str]:
        """Every kind of history it counts, in a fixed order."""
        return sorted({*self.counts, *self.rates, *self.rates.values()})


AnyFeature = Annotated[Categorical | Numeric | Sequence | Statistic, Field(discriminator="kind")]


def list_read_columns(feature: AnyFeature) -> list[Column]:
    """Return the declared columns that a feature reads from its own row or from earlier events."""
    match feature:
        case Categorical() | Numeric():
            return [feature.column]
        case Sequence():
            return list(feature.columns)
        case Statistic():
            return list(feature.by)
