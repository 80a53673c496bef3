"""From a log's own columns to clean rows: keys, times and types, duplicates, and what must go to quarantine.

Every function keeps all rows and says in the column `reason` what is wrong with one (null: nothing); the step
that writes them sends those with a reason to quarantine, so that rows read = rows written + left out.
"""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, TimestampNTZType, TimestampType

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
from star_ctr.conf.settings import OTHER, OVERALL, Settings

DUPLICATE = "duplicate"
CORRUPT = "_corrupt_record"
FILE_DAY = "_file_ds"
BEFORE_FIRST_DAY = "before"
NO_DAY = "all"
UNKNOWN_DAY = "unknown"
_LAST_MICROS = 4_102_444_800_000_000  # 2100-01-01
_ZONE_IN_TEXT = r"(Z|[+-]\d\d:?\d\d)$"


def clean(settings: Settings, name: str, raw: DataFrame) -> DataFrame:
    """The rows of log `name` in the columns of its table, with `ds`, `reason` and `raw` (a bad row as JSON)."""
    log = settings.logs.declared()[name]
    require(raw, sources(settings, name), f"logs.{name}")
    own = [c for c in raw.columns if c not in (CORRUPT, FILE_DAY)]
    row = F.concat_ws("\x1f", *(F.coalesce(F.col(_q(c)).cast("string"), F.lit("\x00")) for c in own))
    rows = raw.withColumn("_row", row)
    columns, checks = _keyed(settings, log, raw)
    taken = {*columns, "ds", "raw", "reason"}
    replaced = _replaced(settings, log)
    for column in own:
        if column in replaced:
            continue
        kept = column if column not in taken else f"{column}_raw"
        columns[kept], problem = _typed(settings, log, column)
        checks += [problem] if problem is not None else []
    if CORRUPT in raw.columns:
        checks.insert(0, F.when(F.col(CORRUPT).isNotNull(), F.lit("unreadable row")))
    day, bad_day = _day(settings, log, raw)
    checks += [bad_day] if bad_day is not None else []
    reason = F.coalesce(*checks) if checks else F.lit(None).cast("string")
    clean_rows = rows.select(
        *(value.alias(k) for k, value in columns.items()),
        F.coalesce(day, F.lit(UNKNOWN_DAY)).alias("ds"),
        # Only rows with a reason are kept whole: writing each row out as JSON costs more than all the rest.
        F.when(reason.isNotNull(), F.to_json(F.struct(*(F.col(_q(c)) for c in own)))).alias("raw"),
        F.md5("_row").alias("_hash"),
        reason.alias("reason"),
    )
    return _marked_duplicates(clean_rows, _key(log))


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


def _q(column: str) -> str:
    return f"`{column}`"


def _keyed(settings: Settings, log: Log, raw: DataFrame) -> tuple[dict[str, Column], list[Column]]:
    """The table's own columns of a log, and the checks on them (each null where all is well)."""
    columns: dict[str, Column] = {}
    checks: list[Column] = []

    def text(target: str, source: str) -> None:
        columns[target] = F.col(_q(source)).cast("string")
        empty = columns[target].isNull() | (F.trim(columns[target]) == "")
        checks.append(F.when(empty, F.lit(f"{source}: missing")))

    def time(column: TimeColumn) -> None:
        columns["ts"] = timestamp(column, raw)
        in_range = F.unix_micros(columns["ts"]).between(1, _LAST_MICROS)
        checks.append(F.when(~F.coalesce(in_range, F.lit(False)), F.lit(f"{column.column}: no usable time")))

    match log:
        case ImpressionLog():
            columns["impression_id"] = F.col(_q(log.id)).cast("string") if log.id else F.md5("_row")
            if log.id:
                text("impression_id", log.id)
            time(log.time)
            text("user_id", log.user)
            text("item_id", log.item)
            text("domain", log.domain)
            checks += _domain_checks(settings, columns)
            if isinstance(settings.label, LabelColumn):
                label = F.expr(f"try_cast({_q(settings.label.column)} as double)")
                columns["label"] = label
                bad = ~F.coalesce(label.isin(0.0, 1.0), F.lit(False))
                checks.append(F.when(bad, F.lit(f"{settings.label.column}: label is neither 0 nor 1")))
        case ClickLog():
            text("impression_id", log.impression)
            time(log.time)
        case BehaviourLog():
            text("user_id", log.user)
            text("item_id", log.item)
            text("behaviour", log.behaviour)
            if log.time:
                time(log.time)
                columns["order"] = F.lit(0).cast("long")
            else:
                columns["ts"] = F.lit(None).cast("timestamp")
                columns["order"] = F.expr(f"try_cast({_q(str(log.order))} as bigint)")
                checks.append(F.when(columns["order"].isNull(), F.lit(f"{log.order}: not a whole number")))
        case AttributeLog():
            text("key", log.key)
    return columns, checks


def _domain_checks(settings: Settings, columns: dict[str, Column]) -> list[Column]:
    domain = columns["domain"]
    checks = [F.when(domain.isin(OVERALL, OTHER), F.concat(F.lit("domain: reserved name "), domain))]
    if settings.domains.known is not None:
        unknown = ~domain.isin(*settings.domains.known)
        if settings.domains.unknown == "drop":
            checks.append(F.when(unknown, F.concat(F.lit("domain: unknown domain "), domain)))
        else:
            columns["domain"] = F.when(unknown, F.lit(OTHER)).otherwise(domain)
    return checks


def _replaced(settings: Settings, log: Log) -> set[str]:
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


def _typed(settings: Settings, log: Log, column: str) -> tuple[Column, Column | None]:
    """A column in its declared type, and the check that each value fits it; undeclared columns stay as they are."""
    kind = log.types.get(column)
    if kind is None and column in getattr(log, "outcomes", ()):
        kind = "double"
    if kind is None:
        return F.col(_q(column)), None
    value = F.expr(f"try_cast({_q(column)} as {'bigint' if kind == 'long' else kind})")
    text = F.col(_q(column)).cast("string")
    misfit = value.isNull() & text.isNotNull() & (F.trim(text) != "")
    return value, F.when(misfit, F.lit(f"{column}: not a {kind}"))


def timestamp(column: TimeColumn, rows: DataFrame) -> Column:
    """The time of a row, null where it cannot be read."""
    name = _q(column.column)
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


def _day(settings: Settings, log: Log, raw: DataFrame) -> tuple[Column, Column | None]:
    """The day to partition by, and the check on it: the log's own column, its file's day, or the day of its time."""
    file_day = F.col(FILE_DAY) if FILE_DAY in raw.columns else F.lit(None).cast("string")
    day: DayColumn | None = getattr(log, "day", None)
    if day is not None:
        text = F.col(_q(day.column)).cast("string")
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


def _key(log: Log) -> list[str]:
    match log:
        case ImpressionLog():
            return ["impression_id"]
        case AttributeLog():
            return ["key", "ds"]
        case _:
            return ["_hash"]


def _marked_duplicates(rows: DataFrame, key: list[str]) -> DataFrame:
    """Mark all but one of the rows of a key: `duplicate` where the whole row is the same, else a conflict."""
    good = F.col("reason").isNull()
    # Rows with a reason do not take part: each stands alone under its own group.
    group: list[Column | str] = [*key, good]
    order = Window.partitionBy(*group).orderBy("_hash")
    number, first = F.row_number().over(order), F.first("_hash").over(order)
    extra = good & (F.col("_number") > 1)
    names = [k for k in key if k != "_hash"]
    conflict = F.lit(f"{', '.join(names)}: used by two different rows") if names else F.lit(DUPLICATE)
    return (
        rows.withColumn("_number", number)
        .withColumn("_first", first)
        .withColumn(
            "reason",
            F.when(extra & (F.col("_hash") == F.col("_first")), F.lit(DUPLICATE))
            .when(extra, conflict)
            .otherwise(F.col("reason")),
        )
        .drop("_number", "_first", "_hash")
    )


def counted(rows: DataFrame, domain: Column) -> DataFrame:
    """Ledger entries of cleaned rows: rows in and out by day, domain and reason."""
    good = F.col("reason").isNull()
    return (
        rows.groupBy(
            "ds", F.coalesce(domain, F.lit("unknown")).alias("domain"), F.coalesce("reason", F.lit("")).alias("why")
        )
        .agg(F.count("*").alias("rows_in"), F.sum(good.cast("long")).alias("rows_out"))
        .withColumnRenamed("why", "reason")
    )


def unioned(frames: list[DataFrame]) -> DataFrame:
    """The rows of all frames; a column that some lack is null there."""
    return reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), frames)
