"""From a log's own columns to clean rows: keys, times and types, duplicates, and what must go to quarantine.

Every function keeps all rows and says in the column `reason` what is wrong with one (null: nothing); the step
that writes them sends those with a reason to quarantine, so that rows read = rows written + left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.layout import OTHER, OVERALL
from star_ctr.conf.logs import (
    AttributeLog,
    BehaviourLog,
    ClickLog,
    ImpressionLog,
    LabelColumn,
    Log,
    TimeColumn,
)
from star_ctr.conf.settings import Settings
from star_ctr.features.columns import (
    CORRUPT,
    FILE_DAY,
    backticked,
    day_of,
    replaced,
    require,
    sources,
    timestamp,
    typed,
)

DUPLICATE = "duplicate"
UNKNOWN_DAY = "unknown"
_LAST_MICROS = 4_102_444_800_000_000  # 2100-01-01


def clean(settings: Settings, name: str, raw: DataFrame, carried: Mapping[str, Column] | None = None) -> DataFrame:
    """The rows of log `name` in the columns of its table, with `ds`, `reason` and `raw` (a bad row as JSON).

    `carried`: expressions over the log's columns that go along under their names.
    """
    log = settings.logs.declared()[name]
    require(raw, sources(settings, name), f"logs.{name}")
    own = [c for c in raw.columns if c not in (CORRUPT, FILE_DAY)]
    row = F.concat_ws("\x1f", *(F.coalesce(F.col(backticked(c)).cast("string"), F.lit("\x00")) for c in own))
    rows = raw.withColumn("_row", row)
    columns, checks = _keyed(settings, log, raw)
    taken = {*columns, "ds", "raw", "reason"}
    own_names = replaced(settings, log)
    for column in own:
        if column in own_names:
            continue
        kept = column if column not in taken else f"{column}_raw"
        columns[kept], problem = typed(settings, log, column)
        checks += [problem] if problem is not None else []
    if CORRUPT in raw.columns:
        checks.insert(0, F.when(F.col(CORRUPT).isNotNull(), F.lit("unreadable row")))
    day, bad_day = day_of(settings, log, raw)
    checks += [bad_day] if bad_day is not None else []
    reason = F.coalesce(*checks) if checks else F.lit(None).cast("string")
    clean_rows = rows.select(
        *(value.alias(k) for k, value in columns.items()),
        F.coalesce(day, F.lit(UNKNOWN_DAY)).alias("ds"),
        # Only rows with a reason are kept whole: writing each row out as JSON costs more than all the rest.
        F.when(reason.isNotNull(), F.to_json(F.struct(*(F.col(backticked(c)) for c in own)))).alias("raw"),
        F.md5("_row").alias("_hash"),
        reason.alias("reason"),
        *(value.alias(k) for k, value in (carried or {}).items()),
    )
    return _marked_duplicates(clean_rows, _key(log))


def _keyed(settings: Settings, log: Log, raw: DataFrame) -> tuple[dict[str, Column], list[Column]]:
    """The table's own columns of a log, and the checks on them (each null where all is well)."""
    columns: dict[str, Column] = {}
    checks: list[Column] = []

    def text(target: str, source: str) -> None:
        columns[target] = F.col(backticked(source)).cast("string")
        empty = columns[target].isNull() | (F.trim(columns[target]) == "")
        checks.append(F.when(empty, F.lit(f"{source}: missing")))

    def time(column: TimeColumn) -> None:
        columns["ts"] = timestamp(column, raw)
        in_range = F.unix_micros(columns["ts"]).between(1, _LAST_MICROS)
        checks.append(F.when(~F.coalesce(in_range, F.lit(False)), F.lit(f"{column.column}: no usable time")))

    match log:
        case ImpressionLog():
            columns["impression_id"] = F.col(backticked(log.id)).cast("string") if log.id else F.md5("_row")
            if log.id:
                text("impression_id", log.id)
            time(log.time)
            text("user_id", log.user)
            text("item_id", log.item)
            text("domain", log.domain)
            checks += _domain_checks(settings, columns)
            if isinstance(settings.label, LabelColumn):
                label = F.expr(f"try_cast({backticked(settings.label.column)} as double)")
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
                columns["order"] = F.expr(f"try_cast({backticked(str(log.order))} as bigint)")
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
    # Rows with a reason do not take part: each stands alone under its own group. A column and no expression, of which
    # each window would make its own and sort by it.
    rows, good = rows.withColumn("_good", F.col("reason").isNull()), F.col("_good")
    order = Window.partitionBy(*key, "_good").orderBy("_hash")
    number, first = F.row_number().over(order), F.first("_hash").over(order)
    extra = good & (F.col("_number") > 1)
    names = [k for k in key if k != "_hash"]
    conflict = F.lit(f"{', '.join(names)}: used by two different rows") if names else F.lit(DUPLICATE)
    return (
        rows.select("*", number.alias("_number"), first.alias("_first"))
        .withColumn(
            "reason",
            F.when(extra & (F.col("_hash") == F.col("_first")), F.lit(DUPLICATE))
            .when(extra, conflict)
            .otherwise(F.col("reason")),
        )
        .drop("_number", "_first", "_hash", "_good")
    )


def whole(rows: DataFrame) -> Column:
    """A cleaned row as JSON: as it was read where something is wrong with it, else in its table's columns."""
    own = [c for c in rows.columns if c not in ("reason", "raw")]
    return F.coalesce("raw", F.to_json(F.struct(*(F.col(backticked(c)) for c in own))))


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
