"""The columns that the settings require of a log, and their names in the log's table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, NullType, StructType

from star_ctr.conf.contracts.column_ref import escape_column_name
from star_ctr.conf.errors import DataError, suggest_nearest
from star_ctr.conf.settings.features import list_read_columns
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.logs import AttributeLog, BehaviourLog, ClickLog, EventLog, ImpressionLog
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log

CORRUPT = "_star_ctr_corrupt"
"""The column with the text of a row that could not be parsed; null for other rows."""
FILE_DAY = "_star_ctr_file_day"
"""The column with the day in the path of a row's file."""
EXCLUDED = "_star_ctr_excluded"
"""The column that is true for rows that `where` leaves out."""
PROBLEM = "_star_ctr_problem"
"""The column with the reason why the lists of a row cannot be exploded; null for other rows."""
ORIGINAL = "_star_ctr_original"
"""The column with a row as JSON before its lists were exploded; null for rows without a problem."""
INTERNAL = (CORRUPT, FILE_DAY, EXCLUDED, PROBLEM, ORIGINAL)
"""Columns that the reader adds to those of the log."""
COLLISION_SUFFIX = "_raw"
"""Appended to the name of a log column that collides with a predefined table column."""


def list_required_columns(settings: Settings, name: str) -> dict[str, str]:
    """List the columns that a log must have.

    Args:
        settings: The settings of the data set.
        name: The log: `impressions`, `clicks`, `events`, `behaviours`, `users` or `items`.

    Returns:
        The required log columns, by the settings key below `logs.<name>` that requires each, such as `time.column`.
    """
    log = settings.logs.get_declared()[name]
    wanted = {f"types.{column}": column for column in log.types}
    match log:
        case ImpressionLog():
            wanted |= {"user": log.user, "item": log.item, "domain": log.domain, "time.column": log.time.column}
            wanted |= {f"outcomes.{column}": column for column in log.outcomes}
            wanted |= {"id": log.id} if log.id else {}
            wanted |= {"weight": log.weight} if log.weight else {}
            wanted |= {f"label.also.{name}": column for name, column in settings.label.outcome_columns.items()}
        case ClickLog():
            wanted |= {"impression": log.impression, "time.column": log.time.column}
            wanted |= {"event": log.event} if isinstance(log, EventLog) else {}
        case BehaviourLog():
            wanted |= {"user": log.user, "item": log.item, "behaviour": log.behaviour}
            wanted |= {"time.column": log.time.column} if log.time else {"order": str(log.order)}
        case AttributeLog():
            wanted |= {"key": log.key}
    day = getattr(log, "day", None)
    wanted |= {"day.column": day.column} if day else {}
    if isinstance(log, ImpressionLog) and isinstance(settings.label, LabelColumn):
        wanted["label.column"] = settings.label.column
    return wanted


def _describe_missing(where: str, key: str, column: str) -> str:
    if key.startswith("label.also."):
        return f"{where}: no column `{column}` for {key} (for an event of `logs.events`, set {key}.window_hours)"
    return f"{where}.{key}: no column `{column}`"


def list_declared_columns(settings: Settings, name: str) -> set[str]:
    """List the columns of a log that the settings name: the required ones, and those that features read."""
    read = {column.column for f in settings.features for column in list_read_columns(f) if column.table == name}
    return {*list_required_columns(settings, name).values(), *read}


def add_nested_columns(rows: DataFrame, declared: Iterable[str]) -> DataFrame:
    """Add a column for each declared name such as `device.id` that is a field of a struct.

    Args:
        rows: The raw rows of a log.
        declared: Names of columns. A column with exactly this name takes precedence over a field.

    Returns:
        The rows with the added columns, which have the declared names.
    """
    added = {}
    for name in sorted(set(declared) - set(rows.columns)):
        parts = name.split(".")
        kind: DataType = rows.schema
        for part in parts:
            is_field = isinstance(kind, StructType) and part in kind.names
            kind = kind[part].dataType if is_field else NullType()  # type: ignore[index]
        if len(parts) > 1 and not isinstance(kind, NullType):
            added[name] = F.col(".".join(map(quote_name, parts)))
    return rows.withColumns(added) if added else rows


def require_columns(existing: Iterable[str], wanted: Mapping[str, str], where: str) -> None:
    """Check that required columns exist.

    Args:
        existing: The names of the existing columns.
        wanted: The required columns, by the settings key that requires each.
        where: The start of each message, followed by the settings key.

    Raises:
        DataError: Columns are missing. The message contains each missing column with its settings key, and the existing
            columns.
    """
    names = [c for c in existing if c not in INTERNAL]
    missing = {key: column for key, column in wanted.items() if column not in names}
    if shown := find_separator(names):
        raise DataError(
            f'{where}.separator: the header has a single column; set separator: "{shown}" (header: `{names[0][:60]}`)'
        )
    # Spark appends the position to the names of columns that occur more than once.
    repeated = [
        (key, c)
        for key, c in missing.items()
        if sum(re.fullmatch(rf"{re.escape(c)}\d+", n) is not None for n in names) > 1
    ]
    if repeated:
        key, column = repeated[0]
        raise DataError(f"{where}.{key}: the header has `{column}` more than once; rename one of the columns")
    if missing:
        lines = [_describe_missing(where, key, c) + suggest_nearest(c, names) for key, c in missing.items()]
        raise DataError("\n".join([*lines, f"(existing columns: {', '.join(names)})"]))


def find_missing_columns(settings: Settings, name: str, columns: Iterable[str]) -> list[str]:
    """Return a message for each feature that reads a column which a log does not have.

    Args:
        settings: The settings of the data set.
        name: The log.
        columns: The columns of the log, in all its files.
    """
    existing, problems = set(columns), []
    for feature in settings.features:
        for column in list_read_columns(feature):
            if column.table == name and column.column not in existing:
                nearest = suggest_nearest(column.column, existing)
                problems.append(f"features.{feature.name}: logs.{name} has no column `{column.column}`{nearest}")
    return problems


def find_separator(names: Sequence[str]) -> str | None:
    """Return the separator that the only name of a CSV header contains, as settings write it; None if it has none."""
    found = next((s for s in _SEPARATORS if len(names) == 1 and names[0].count(s) > 1), None)
    return found and found.replace("\t", "\\t")


def quote_name(column: str) -> str:
    """Quote a column name for Spark; the name may contain dots and backticks."""
    return "`" + column.replace("`", "``") + "`"


def get_column(column: str) -> Column:
    """Return the column with this exact name; the name may contain dots and backticks."""
    return F.col(quote_name(column))


def map_declared_columns(settings: Settings, log: Log) -> dict[str, str]:
    """Map the predefined columns of a log's table to the log columns that they come from.

    Args:
        settings: The settings of the data set.
        log: The log.

    Returns:
        The log columns by table column. Times and days are excluded, because the table stores them in another form
        (`ts`, `ds`).
    """  # noqa: DOC501
    match log:
        case ImpressionLog():
            names = {"user_id": log.user, "item_id": log.item, "domain": log.domain}
            names |= {"impression_id": log.id} if log.id else {}
            names |= {"label": settings.label.column} if isinstance(settings.label, LabelColumn) else {}
        case ClickLog():
            names = {"impression_id": log.impression}
            names |= {"event": log.event} if isinstance(log, EventLog) else {}
        case BehaviourLog():
            names = {"user_id": log.user, "item_id": log.item, "behaviour": log.behaviour}
        case AttributeLog():
            names = {"key": log.key}
        case _:
            raise AssertionError(type(log))
    return names


def list_consumed_columns(settings: Settings, log: Log) -> set[str]:
    """Return the log columns that have no table column of their own name.

    They are stored only under a predefined name or in another form (`user_id`, `ts`, `ds`, …).
    """
    time, day, order = (getattr(log, name, None) for name in ("time", "day", "order"))
    more = {time.column if time else None, day.column if day else None, order}
    return {*map_declared_columns(settings, log).values(), *(name for name in more if name is not None)}


_SEPARATORS = (";", "\t", "|", ",", "\x01")
"""Separators of CSV files to suggest."""
_TABLE_COLUMNS = frozenset(
    {
        "impression_id", "ts", "user_id", "item_id", "domain", "label", "event", "behaviour", "order", "key", "ds",
        "reason", "raw",
    }
)  # fmt: skip


def name_stored_column(column: str) -> str:
    """Return the name under which a table stores a log column.

    Appends `_raw` to the name of a predefined table column, and to such a name that already ends in `_raw`: `domain`
    becomes `domain_raw`, and `domain_raw` becomes `domain_raw_raw`. Characters that Delta does not support are escaped,
    such as spaces. Distinct columns therefore keep distinct names. Case is ignored, as in Spark.
    """
    bare = column.lower()
    while bare.endswith(COLLISION_SUFFIX) and bare not in _TABLE_COLUMNS:
        bare = bare.removesuffix(COLLISION_SUFFIX)
    return escape_column_name(f"{column}{COLLISION_SUFFIX}" if bare in _TABLE_COLUMNS else column)


def name_table_column(settings: Settings, table: str, column: str) -> str:
    """Return the name under which a table stores the column that features declare as `<table>.<column>`.

    Args:
        settings: The settings of the data set.
        table: The table, which has the name of its log.
        column: The log column.

    Returns:
        The name of the table column.

    Raises:
        DataError: The column contains the time or day of rows, which the table stores in another form.
    """
    log = settings.logs.get_declared()[table]
    names = {source: target for target, source in map_declared_columns(settings, log).items()}
    if column in names:
        return names[column]
    if column in list_consumed_columns(settings, log):
        raise DataError(
            f"{table}.{column}: the time or day of logs.{table} cannot be a feature; use `hour` or `weekday`"
        )
    return name_stored_column(column)
