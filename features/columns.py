"""The columns of a log as its settings declare them: which it must have, their types, times and days."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, TimestampNTZType, TimestampType

from star_ctr.conf.days import BEFORE_FIRST_DAY, NO_DAY
from star_ctr.conf.errors import DataError, nearest
from star_ctr.conf.logs import (
    AttributeLog,
    BehaviourLog,
    ClickLog,
    DayColumn,
    ImpressionLog,
    LabelColumn,
    Log,
    TimeColumn,
)
from star_ctr.conf.settings import Settings

CORRUPT = "_corrupt_record"
FILE_DAY = "_file_ds"
_ZONE_IN_TEXT = r"(Z|[+-]\d\d:?\d\d)$"


def sources(settings: Settings, name: str) -> dict[str, str]:
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


def require(rows: DataFrame, wanted: dict[str, str], where: str) -> None:
    """Raise `DataError` that names each missing column, the key that asks for it, and the columns there are."""
    missing = {key: column for key, column in wanted.items() if column not in rows.columns}
    if missing:
        there = [c for c in rows.columns if c not in (CORRUPT, FILE_DAY)]
        lines = [f"{where}.{key}: no column `{c}`{nearest(c, there)}" for key, c in missing.items()]
        raise DataError("\n".join([*lines, f"(columns there: {', '.join(there)})"]))


def backticked(column: str) -> str:
    """The column's name as Spark takes it, whatever it holds."""
    return f"`{column}`"


def replaced(settings: Settings, log: Log) -> set[str]:
    """Columns of the log that stand in the table under the table's own name, and not a second time."""
    match log:
        case ImpressionLog():
            names = {log.id, log.user, log.item, log.domain, log.time.column}
            names |= {settings.label.column} if isinstance(settings.label, LabelColumn) else set()
        case ClickLog():
            names = {log.impression, log.time.column}
        case BehaviourLog():
            names = {log.user, log.item, log.behaviour, log.order, log.time.column if log.time else None}
        case AttributeLog():
            names = {log.key}
        case _:
            raise AssertionError(type(log))
    day = getattr(log, "day", None)
    return {n for n in (*names, day.column if day else None) if n is not None}


def typed(settings: Settings, log: Log, column: str) -> tuple[Column, Column | None]:
    """A column in its declared type, and the check that each value fits it; undeclared columns stay as they are."""
    kind = log.types.get(column)
    if kind is None and column in getattr(log, "outcomes", ()):
        kind = "double"
    if kind is None:
        return F.col(backticked(column)), None
    value = F.expr(f"try_cast({backticked(column)} as {'bigint' if kind == 'long' else kind})")
    text = F.col(backticked(column)).cast("string")
    misfit = value.isNull() & text.isNotNull() & (F.trim(text) != "")
    return value, F.when(misfit, F.lit(f"{column}: not a {kind}"))


def timestamp(column: TimeColumn, rows: DataFrame) -> Column:
    """The time of a row, null where it cannot be read."""
    name = backticked(column.column)
    if column.unit in ("s", "ms"):
        factor = 1_000_000 if column.unit == "s" else 1_000
        micros = F.expr(f"try_cast(try_cast({name} as decimal(30, 6)) * {factor} as bigint)")
        return F.timestamp_micros(micros)
    kind = rows.schema[column.column].dataType
    if isinstance(kind, TimestampType):
        return F.col(name)
    if isinstance(kind, TimestampNTZType):
        return F.to_utc_timestamp(F.col(name).cast("timestamp"), column.zone)
    if isinstance(kind, LongType):  # Parquet nanoseconds, as pandas writes them
        return F.to_utc_timestamp(F.timestamp_micros(F.expr(f"{name} div 1000")), column.zone)
    if not isinstance(kind, StringType):
        raise DataError(
            f"{column.column}: unit `timestamp` needs text or a timestamp, and the log has {kind.simpleString()}"
        )
    parsed = F.expr(f"try_cast({name} as timestamp)")
    return F.when(F.col(name).rlike(_ZONE_IN_TEXT), parsed).otherwise(F.to_utc_timestamp(parsed, column.zone))


def day_of(settings: Settings, log: Log, raw: DataFrame) -> tuple[Column, Column | None]:
    """The day to partition by, and the check on it: the log's own column, its file's day, or the day of its time."""
    file_day = F.col(FILE_DAY) if FILE_DAY in raw.columns else F.lit(None).cast("string")
    day: DayColumn | None = getattr(log, "day", None)
    if day is not None:
        text = F.col(backticked(day.column)).cast("string")
        parsed = F.date_format(F.try_to_timestamp(text, F.lit(day.format)), "yyyy-MM-dd")
        bad = F.when(parsed.isNull(), F.lit(f"{day.column}: no day in the form {day.format}"))
        return F.coalesce(parsed, file_day), bad
    if isinstance(log, AttributeLog):
        return F.coalesce(file_day, F.lit(NO_DAY)), None
    time: TimeColumn | None = getattr(log, "time", None)
    if time is None:
        return F.lit(BEFORE_FIRST_DAY), None
    local = F.from_utc_timestamp(timestamp(time, raw), settings.zone)
    return F.coalesce(file_day, F.date_format(local, "yyyy-MM-dd")), None
