"""The columns of a log: which ones its settings require, and their names in the log's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError, suggest_nearest
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.logs import AttributeLog, BehaviourLog, ClickLog, ImpressionLog, Log
from star_ctr.conf.settings.root import Settings

CORRUPT = "_star_ctr_corrupt"
FILE_DAY = "_star_ctr_file_day"
INTERNAL = (CORRUPT, FILE_DAY)
"""Columns that the reader adds to those of the log."""
OWN_SUFFIX = "_raw"


def list_required_columns(settings: Settings, name: str) -> dict[str, str]:
    """The columns that log `name` must have, each with the key of the settings that asks for it."""
    log = settings.logs.declared()[name]
    wanted = {f"types.{column}": column for column in log.types}
    match log:
        case ImpressionLog():
            wanted |= {"user": log.user, "item": log.item, "domain": log.domain, "time.column": log.time.column}
            wanted |= {f"outcomes.{column}": column for column in log.outcomes}
            wanted |= {"id": log.id} if log.id else {}
        case ClickLog():
            wanted |= {"impression": log.impression, "time.column": log.time.column}
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


def require(there: Iterable[str], wanted: Mapping[str, str], where: str) -> None:
    """Raise `DataError` that names each missing column, the key that asks for it, and the columns there are."""
    names = [c for c in there if c not in INTERNAL]
    missing = {key: column for key, column in wanted.items() if column not in names}
    if missing:
        lines = [f"{where}.{key}: no column `{c}`{suggest_nearest(c, names)}" for key, c in missing.items()]
        raise DataError("\n".join([*lines, f"(existing columns: {', '.join(names)})"]))


def quote_name(column: str) -> str:
    """The column's name as Spark takes it, whatever it holds."""
    return "`" + column.replace("`", "``") + "`"


def get_column(column: str) -> Column:
    """Return a log's own column by name."""
    return F.col(quote_name(column))


def map_declared_columns(settings: Settings, log: Log) -> dict[str, str]:
    """Return the log's columns that its table stores under predefined names: table column -> log column.

    Excludes times and days, which the table stores in another form (`ts`, `ds`).
    """
    match log:
        case ImpressionLog():
            names = {"user_id": log.user, "item_id": log.item, "domain": log.domain}
            names |= {"impression_id": log.id} if log.id else {}
            names |= {"label": settings.label.column} if isinstance(settings.label, LabelColumn) else {}
        case ClickLog():
            names = {"impression_id": log.impression}
        case BehaviourLog():
            names = {"user_id": log.user, "item_id": log.item, "behaviour": log.behaviour}
        case AttributeLog():
            names = {"key": log.key}
        case _:
            raise AssertionError(type(log))
    return names


def list_consumed_columns(settings: Settings, log: Log) -> set[str]:
    """Return the log's columns that its table does not also store under their own names."""
    time, day, order = (getattr(log, name, None) for name in ("time", "day", "order"))
    more = {time.column if time else None, day.column if day else None, order}
    return {*map_declared_columns(settings, log).values(), *(name for name in more if name is not None)}


_TABLE_COLUMNS = frozenset(
    {"impression_id", "ts", "user_id", "item_id", "domain", "label", "behaviour", "order", "key", "ds", "reason", "raw"}
)


def name_stored_column(column: str) -> str:
    """Return the name under which a table stores a log's own column.

    Appends `_raw` to a name that collides with one of the table's columns, ignoring case as Spark does, or with another
    such name. Distinct columns therefore stay distinct.
    """
    bare = column.lower()
    while bare.endswith(OWN_SUFFIX) and bare not in _TABLE_COLUMNS:
        bare = bare.removesuffix(OWN_SUFFIX)
    return f"{column}{OWN_SUFFIX}" if bare in _TABLE_COLUMNS else column


def name_table_column(settings: Settings, table: str, column: str) -> str:
    """Return the name in `table` of the log's own column that the settings call `<table>.<column>`.

    Raises:
        DataError: The column holds a row's time or day, which the table stores in another form.
    """
    log = settings.logs.declared()[table]
    names = {source: target for target, source in map_declared_columns(settings, log).items()}
    if column in names:
        return names[column]
    if column in list_consumed_columns(settings, log):
        raise DataError(
            f"{table}.{column}: the time or day of logs.{table} cannot be a feature; use `hour` or `weekday`"
        )
    return name_stored_column(column)
