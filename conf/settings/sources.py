"""Settings of where the rows of a log come from, and how they are read."""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import NonEmptyText, SettingsModel
from star_ctr.conf.settings.expressions import Expression

NULL_VALUES = ("", "\\N", "NULL", "null", "NaN", "nan", "None", "<NA>", "00000000-0000-0000-0000-000000000000")
"""Default texts for a missing value: the empty text, null markers of Hive and pandas, the all-zero advertising id."""
PLACEHOLDERS = {
    "{ds}": r"\d{4}-\d{2}-\d{2}",
    "{yyyymmdd}": r"\d{8}",
    "{yyyy}": r"\d{4}",
    "{mm}": r"\d{2}",
    "{dd}": r"\d{2}",
    "{hh}": r"\d{2}",
}
"""Placeholders of the day and hour in a log's path, and the regular expression that each of them matches."""


def _check_path(value: str) -> str:
    """Check the placeholders of a path."""
    for placeholder in re.findall(r"\{[^{},]*\}", value):
        if placeholder not in PLACEHOLDERS:
            raise ValueError(
                f"unknown placeholder `{placeholder}`{suggest_nearest(placeholder, PLACEHOLDERS)} "
                f"(known placeholders: {', '.join(PLACEHOLDERS)})"
            )
    if 0 < sum(mark in value for mark in ("{yyyy}", "{mm}", "{dd}")) < 3:
        raise ValueError("the day in the path is incomplete; use {yyyy}, {mm} and {dd}, or {ds}")
    return value


def contains_day(path: str) -> bool:
    """Return whether a path contains a placeholder of the day."""
    return any(mark in path for mark in ("{ds}", "{yyyymmdd}", "{yyyy}"))


def _check_marker(value: str) -> str:
    """Check that the path of a marker contains the day."""
    if not contains_day(value):
        raise ValueError(f"`{value}` would mark all days as complete; add the day, for example as {{ds}}")
    return value


def _check_encoding(value: str) -> str:
    """Check that a value is a supported character encoding, and normalize the names of UTF-8."""
    try:
        name = codecs.lookup(value).name
    except LookupError:
        raise ValueError(f"`{value}` is not a character encoding (examples: UTF-8, GBK, windows-1252)") from None
    if name.startswith(("utf-16", "utf-32")):
        raise ValueError(f"`{value}`: UTF-16 and UTF-32 files are not supported; convert them to UTF-8")
    return "UTF-8" if name in ("utf-8", "utf-8-sig") else value  # a byte order mark is skipped


def _parse_separator(value: str) -> str:
    """Convert a backslash followed by `t` to a tab."""
    return "\t" if value == "\\t" else value


class Explode(SettingsModel):
    """Rows that list what was displayed: each displayed item becomes a row.

    The column `items` then contains one item. The column `clicked` contains 1 for a clicked item and 0 for any other,
    so it can be the label. The id of the row, if the log declares one, gets the position as a suffix (`v17#2`).
    """

    items: NonEmptyText = Field(description="column with the list of displayed items")
    clicked: NonEmptyText | None = Field(
        None, description="column with the list of clicked items, or with a single one; default: none"
    )
    parallel: list[NonEmptyText] = Field(
        default_factory=list,
        description="other columns of lists, with one value per displayed item, such as prices; default: none",
    )
    position: NonEmptyText = Field("position", description="name of an added column with the position, from 1")
    separator: NonEmptyText | None = Field(
        None, description="text that separates the values of lists in text columns; default: the columns are lists"
    )


class Completeness(SettingsModel):
    """When the files of a day are complete.

    Until then, `ready` exits with code 75, the Airflow DAG waits, and `ingest` stops.

    All given conditions must hold. Without any, a day is complete if it has a file.
    """

    marker: Annotated[NonEmptyText, AfterValidator(_check_path), AfterValidator(_check_marker)] | None = Field(
        None,
        description="path of a file that marks a day as complete, such as `{ds}/_SUCCESS`, or each of its hours, such "
        "as `{ds}/{hh}/_SUCCESS`; default: none",
    )
    hours: int | None = Field(
        None, ge=1, le=24, description="number of hours that must have a file; needs `{hh}` in `path`; default: any"
    )
    min_rows: int | None = Field(
        None, ge=1, description="minimum number of rows of a day, counted in the files; default: any"
    )


class LogSource(SettingsModel):
    """Where rows come from, and how they are read."""

    path: Annotated[NonEmptyText, AfterValidator(_check_path)] | None = Field(
        None,
        description="glob of files (`*`, `?`, `[0-9]`, `{a,b}`), or the folder of a Delta table; may contain the day "
        "(`{ds}`, `{yyyymmdd}`, or `{yyyy}`, `{mm}` and `{dd}`) and the hour (`{hh}`); a relative path is below "
        "`paths.logs`",
    )
    table: NonEmptyText | None = Field(
        None, description="table of a Spark catalog, such as `catalog.schema.name`, instead of `path`"
    )
    format: Literal["csv", "parquet", "json", "delta", "orc", "avro"] = Field(
        "csv", description="format of the files; CSV files have a header, JSON files have one object per line"
    )
    separator: Annotated[NonEmptyText, AfterValidator(_parse_separator)] = Field(
        ",", description="column separator of CSV files; \\t stands for a tab"
    )
    encoding: Annotated[str, AfterValidator(_check_encoding)] = Field(
        "UTF-8",
        description="encoding of CSV and JSON files, such as GBK; UTF-16 and UTF-32 are not supported",
    )
    multiline: bool | None = Field(
        None,
        description="whether quoted values of CSV files contain line breaks; default: detected from the first MiB of "
        "each file. Spark reads such a file in one task",
    )
    null_values: list[str] = Field(
        list(NULL_VALUES),
        description="texts that stand for a missing value in any column; default: the empty text, common null markers "
        "(\\N, NULL, NaN, None, <NA>) and the all-zero advertising id",
    )
    decimal: Literal[".", ","] = Field(
        ".", description="decimal separator of numbers in text; with a comma, dots may group thousands"
    )
    columns: dict[NonEmptyText, Expression] = Field(
        default_factory=dict,
        description="columns to add or replace, as Spark SQL expressions over the columns of the log, such as "
        "`{domain: \"concat(page, '/', device)\"}`; default: none",
    )
    where: Expression | None = Field(
        None,
        description="Spark SQL condition, such as `is_bot = 'false'`, which may use `columns`; other rows are left out "
        "and counted in the ledger; default: all rows",
    )
    explode: Explode | None = Field(None, description="lists of displayed items; default: each row is an impression")
    complete: Completeness | None = Field(None, description="when a day is complete; default: it has a file")

    @property
    def has_day(self) -> bool:
        """Whether the path contains the day of its files."""
        return self.path is not None and contains_day(self.path)

    @model_validator(mode="after")
    def _check_completeness(self) -> Self:
        # A table of a catalog counts as complete, and a log with `sources` passes its rule on to them.
        if self.complete is None or self.path is None:
            return self
        if not self.has_day:
            raise ValueError("`complete` needs the day in `path`, for example as {ds}")
        if self.complete.hours and "{hh}" not in self.path:
            raise ValueError("`complete.hours` needs the hour in `path` as {hh}")
        return self


class Log(LogSource):
    """A log: the files of one path, a table, or several `sources`.

    If `path` contains the day as `{ds}` (2022-05-05), `{yyyymmdd}` (20220505) or `{yyyy}`, `{mm}` and `{dd}`, all rows
    of a file belong to that day, and only the files of the needed days are read.
    """

    sources: dict[NonEmptyText, LogSource] = Field(
        default_factory=dict,
        description="several sources by name, instead of `path` or `table`; each may override the keys of this section "
        "that say how rows are read. Give their columns the same names with `columns`; default: one source",
    )
    source_column: NonEmptyText = Field(
        "source", description="name of the added column with the name of a row's source, if there are `sources`"
    )
    types: dict[str, Literal["string", "long", "double"]] = Field(
        default_factory=dict,
        description="types by column; a row with a value of another type is quarantined. The text of a `string` column "
        "is kept unchanged; in other text columns of CSV and JSON, 12.0 is stored as 12. Default: outcomes are "
        "`double`, other columns are stored as text",
    )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, given: Any) -> Any:
        """Give each source the keys of the log that it does not set itself."""
        sources = given.get("sources") if isinstance(given, dict) else None
        if not isinstance(sources, dict):
            return given
        own = {k: v for k, v in given.items() if k in LogSource.model_fields and k not in ("path", "table")}
        filled = {n: {**own, **s} if isinstance(s, dict) else s for n, s in sources.items()}
        return {**given, "sources": filled}

    @model_validator(mode="after")
    def _check_one_origin(self) -> Self:
        given = [name for name in ("path", "table", "sources") if getattr(self, name)]
        if len(given) != 1:
            names = " and ".join(f"`{name}`" for name in given)
            found = f", but {names} are given" if given else ""
            raise ValueError(f"give exactly one of `path`, `table` and `sources`{found}")
        for name, source in self.sources.items():
            if (source.path is None) == (source.table is None):
                raise ValueError(f"sources.{name}: give exactly one of `path` and `table`")
        return self

    def list_sources(self) -> dict[str, Self]:
        """Return the sources by name, each as a log with one `path` or `table`.

        A log without `sources` is its only source, with an empty name.
        """
        if not self.sources:
            return {"": self}
        return {
            name: self.model_copy(update={f: getattr(source, f) for f in LogSource.model_fields} | {"sources": {}})
            for name, source in self.sources.items()
        }

    @property
    def has_day(self) -> bool:
        """Whether the path of a source contains the day of its files."""
        if not self.sources:
            return super().has_day
        return any(source.has_day for source in self.sources.values())
