"""Clean the raw rows of a log: parse keys, times and types, mark duplicates, and mark rows for quarantine.

No function drops rows. The column `reason` contains the problem of a row; it is null for a valid row. The job that
writes the tables sends rows with a reason to quarantine, so that rows read = rows written + rows left out.

Files of one log may differ in their columns and types. `clean_log` first maps the files to the table's columns and then
unions them. A direct union of an integer column and a float column would change every id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DateType,
    DoubleType,
    FloatType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from star_ctr.conf.contracts.dates import UNKNOWN_DAY
from star_ctr.conf.contracts.domains import OTHER_NAME, RESERVED_NAMES
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.logs import BehaviourLog, ImpressionLog
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.column_conversion import (
    add_numbers,
    add_texts,
    get_declared_type,
    replace_decimal_commas,
    split_columns_by_use,
)
from star_ctr.features.cleaning.duplicates import DUPLICATE, HASH, list_key_columns, mark_duplicates
from star_ctr.features.cleaning.first_seen import KNOWN
from star_ctr.features.cleaning.label_values import UNDECLARED_LABEL, check_outcomes, parse_label
from star_ctr.features.cleaning.log_columns import (
    CORRUPT,
    EXCLUDED,
    FILE_DAY,
    INTERNAL,
    ORIGINAL,
    PROBLEM,
    get_column,
    list_consumed_columns,
    list_declared_columns,
    list_required_columns,
    map_declared_columns,
    name_stored_column,
    quote_name,
    require_columns,
)
from star_ctr.features.cleaning.raw_rows import RawRows, union_frames
from star_ctr.features.cleaning.text import LOST_DIGITS, NESTED, check_key, is_rounded, is_undecodable
from star_ctr.features.cleaning.times import check_time, parse_day_column, parse_time
from star_ctr.features.cleaning.weights import check_weight

UNKNOWN_DOMAIN = "domain: unknown domain"
"""Start of the reason of a row whose domain is not known."""
UNREADABLE = "unreadable row"
"""The reason of a row that is not valid CSV or JSON."""
CUT = f"{UNREADABLE}: unmatched quote, for example in a value with a line break"
LEFT_OUT_BY_WHERE = "left out by `where`"
"""The reason of a row that the condition `where` of its log leaves out."""
NOT_QUARANTINED = (DUPLICATE, LEFT_OUT_BY_WHERE, KNOWN)
"""The reasons of rows that are counted in the ledger, but not kept in the quarantine."""
_TEXT = "_star_ctr_text"


def clean_log(
    settings: Settings,
    name: str,
    raw: DataFrame | Mapping[str, RawRows | DataFrame],
    carried: Mapping[str, Column] | None = None,
    compare_all: bool = False,
    known: Collection[str] = (),
) -> DataFrame:
    """Clean the rows of a log and map them to the columns of its table.

    Args:
        settings: The settings of the data set.
        name: The log: `impressions`, `clicks`, `events`, `behaviours`, `users` or `items`.
        raw: The raw rows, or the rows of each schema, keyed by the name of the first file with that schema.
        carried: Additional output columns by name, as expressions over the log's columns.
        compare_all: Whether to search for duplicates among all rows. If false, a row is compared only with rows of the
            same day and of the `duplicate_days` days before it; in a log without times, only of the same day.
        known: Columns that may be missing in all files, because other days have them.

    Returns:
        One row per raw row: the columns of the log's table, `ds`, `reason` (null for a valid row), `raw` (the unchanged
        row, if it cannot be used; null for valid rows and duplicates), and the columns of `carried`.

    Raises:
        DataError: A required column is missing, a declared column has an incompatible type, or two columns differ only
            in case.
    """
    log = settings.logs.get_declared()[name]
    given = {"": raw} if isinstance(raw, DataFrame) else raw
    groups = {f: rows if isinstance(rows, RawRows) else RawRows(log, rows) for f, rows in given.items()}
    frames = {file: group.rows for file, group in groups.items()}
    required = list_required_columns(settings, name)
    required_in_each = {
        key: column for key, column in required.items() if not key.startswith(("types.", "outcomes.", "label.also."))
    }
    for file, frame in frames.items():
        require_columns(frame.columns, required_in_each, f"{file}: logs.{name}" if len(frames) > 1 else f"logs.{name}")
    # Columns of `types`, `outcomes` and `label.also` may be missing in some files and are null there, but not in all.
    require_columns({c for frame in frames.values() for c in frame.columns} | {*known}, required, f"logs.{name}")
    rows = union_frames([_parse_frame(settings, name, group, carried or {}) for group in groups.values()])
    has_days = getattr(log, "time", None) is not None
    lookback_days = None if compare_all else getattr(log, "duplicate_days", 0) if has_days else 0
    return mark_duplicates(rows, list_key_columns(log), lookback_days)


def _parse_frame(settings: Settings, name: str, group: RawRows, carried: Mapping[str, Column]) -> DataFrame:
    """Parse rows with one schema into the table's columns, `ds`, `raw`, HASH, `reason` and the columns `carried`."""
    log, raw, folder_columns = group
    types = {f.name: f.dataType for f in raw.schema.fields if f.name not in INTERNAL}
    rows, texts = add_texts(log, raw, types)
    # The row hash depends only on the values, not on the order of the columns or on empty columns. A row that is
    # delivered again may be in another folder.
    hashed = sorted(set(types) - (folder_columns - _list_columns_with_content(settings, name)))
    parts = (F.concat(F.lit(f"{c}\x1e"), _flatten_to_text(texts[c], types[c])) for c in hashed)
    rows = rows.withColumn(_TEXT, F.concat_ws("\x1f", *parts))
    rows, numbers = add_numbers(log, rows, texts, types)
    columns_by_use = split_columns_by_use(settings, name)
    row_hash = F.md5(_TEXT)

    columns, checks = _parse_declared(settings, name, log, types, texts)
    if isinstance(log, ImpressionLog) and not log.id:
        columns = {"impression_id": row_hash, **columns}
    consumed = list_consumed_columns(settings, log)
    for column in types:
        if column in consumed:
            continue
        value, check = _parse_log_column(log, column, texts[column], numbers)
        if column in columns_by_use["id"] and isinstance(types[column], FloatType | DoubleType):
            rounded = F.when(is_rounded(get_column(column), types[column]), F.lit(f"{column}: {LOST_DIGITS}"))
            check = rounded if check is None else F.coalesce(rounded, check)
        if log.decimal == "," and isinstance(types[column], StringType) and get_declared_type(log, column) is None:
            value = replace_decimal_commas(settings, name, column, value)
        columns[name_stored_column(column)] = value
        checks += [check] if check is not None else []
    # Reject undecodable text in any column, because it makes different values equal.
    undecodable = is_undecodable(F.col(_TEXT), log)
    checks.insert(0, F.when(undecodable, F.lit(f"text that is not {log.encoding}: set logs.{name}.encoding")))
    corrupt = F.col(CORRUPT) if CORRUPT in raw.columns else F.lit(None).cast("string")
    # The end of a value that began on an earlier line. The row with its beginning looks complete to Spark.
    is_cut = F.lit(log.format == "csv") & (F.length(F.regexp_replace(corrupt, '[^"]', "")) % 2 == 1)
    checks.insert(0, F.when(is_cut, F.lit(CUT)).when(corrupt.isNotNull(), F.lit(UNREADABLE)))
    checks.insert(1, F.col(PROBLEM) if PROBLEM in raw.columns else F.lit(None).cast("string"))
    excluded = F.col(EXCLUDED) if EXCLUDED in raw.columns else F.lit(False)
    checks.insert(0, F.when(excluded, F.lit(LEFT_OUT_BY_WHERE)))
    file_day = F.col(FILE_DAY) if FILE_DAY in raw.columns else None
    day, time = getattr(log, "day", None), getattr(log, "time", None)
    is_date = day is not None and isinstance(types[day.column], DateType | TimestampType | TimestampNTZType)
    log_day = None if day is None else get_column(day.column) if is_date else texts[day.column]
    if day is not None and isinstance(types[day.column], TimestampType):
        log_day = F.from_utc_timestamp(get_column(day.column), settings.zone)
    # Do not derive the day from an implausible time.
    ts = F.when(check_time(time, columns["ts"], settings.zone).isNull(), columns["ts"]) if time else None
    ds, day_check = parse_day_column(log, settings.zone, ts, log_day, file_day, is_date)
    checks += [day_check] if day_check is not None else []
    reason = F.coalesce(*checks)
    _check_case_collisions([*columns, "ds"], f"logs.{name}")
    return rows.select(
        *(value.alias(k) for k, value in columns.items()),
        F.coalesce(ds, F.lit(UNKNOWN_DAY)).alias("ds"),
        # Serialize only rows with a reason: converting every row to JSON would take longer than all other steps.
        F.when(
            reason.isNotNull() & ~excluded,
            F.coalesce(
                corrupt,
                F.col(ORIGINAL) if ORIGINAL in raw.columns else F.lit(None).cast("string"),
                F.to_json(F.struct(*map(get_column, types))),
            ),
        ).alias("raw"),
        row_hash.alias(HASH),
        reason.alias("reason"),
        *(value.alias(k) for k, value in carried.items()),
    )


def _list_columns_with_content(settings: Settings, name: str) -> set[str]:
    """List the columns that the settings name for anything but the day of a row."""
    day = getattr(settings.logs.get_declared()[name], "day", None)
    return list_declared_columns(settings, name) - ({day.column} if day else set())


def _parse_declared(
    settings: Settings, name: str, log: Log, types: Mapping[str, DataType], texts: Mapping[str, Column]
) -> tuple[dict[str, Column], list[Column]]:
    """Parse the columns of a log that have a declared role: keys, time, domain, label and order.

    `types` and `texts` contain the type and the canonical text of each log column.

    Returns:
        The table's columns by name, and the checks on them. A check is null if a row passes, else the reason.

    Raises:
        DataError: A column has a type that its role does not allow.
    """
    columns: dict[str, Column] = {}
    checks: list[Column] = []
    time = getattr(log, "time", None)
    if time is not None:
        where = f"logs.{name}.time"
        is_instant = isinstance(types[time.column], TimestampType) and log.format in ("csv", "json")
        if is_instant and time.column in log.columns and time.zone not in ("UTC", "GMT", "Etc/UTC"):
            raise DataError(
                f"{where}: `{time.column}` is computed as a time in UTC, but the zone is {time.zone}; use "
                f"to_timestamp_ntz in logs.{name}.columns for local times, or set logs.{name}.time.zone to UTC"
            )
        columns["ts"] = parse_time(time, get_column(time.column), texts[time.column], types[time.column], where)
        checks.append(check_time(time, columns["ts"], settings.zone))
    for target, source in map_declared_columns(settings, log).items():
        if target == "label":
            continue
        if isinstance(types[source], (*NESTED, ArrayType)):
            raise DataError(
                f"logs.{name}: `{source}` is a {types[source].simpleString()} and cannot be `{target}`; "
                "choose a column of scalar values"
            )
        columns[target] = texts[source]
        verbatim = log.types.get(source) == "string"
        checks.append(check_key(log, columns[target], get_column(source), types[source], source, verbatim))
    if isinstance(log, ImpressionLog):
        checks += _check_domain(settings, columns)
        if isinstance(settings.label, LabelColumn):
            label = parse_label(settings.label, texts[settings.label.column])
            columns["label"] = label
            checks.append(F.when(label.isNull(), F.lit(f"{settings.label.column}: {UNDECLARED_LABEL}")))
        checks += check_outcomes(settings.label, texts, types)
        if log.weight is not None:
            checks.append(check_weight(log, log.weight, texts[log.weight], types[log.weight]))
    if isinstance(log, BehaviourLog):
        columns["order"] = F.lit(0).cast("long")
        if log.order is not None:
            columns["ts"] = F.lit(None).cast("timestamp")
            columns["order"] = texts[log.order].try_cast("bigint")
            checks.append(F.when(columns["order"].isNull(), F.lit(f"{log.order}: not a whole number")))
    return columns, checks


def _parse_log_column(
    log: Log, column: str, text: Column, numbers: Mapping[str, Column]
) -> tuple[Column, Column | None]:
    """Parse a log column into its declared type; return it and a check that its values have that type, if needed."""
    # Store a column without a declared type as text, because it may have another type in the next file.
    kind = get_declared_type(log, column)
    if kind is None or kind == "string":
        return text, None
    value = numbers[column] if kind == "double" else text.try_cast("bigint")
    misfit = value.isNull() & text.isNotNull() & (F.trim(text) != "")
    return value, F.when(misfit, F.lit(f"{column}: not a {kind}"))


def _check_domain(settings: Settings, columns: dict[str, Column]) -> list[Column]:
    """Return the checks on the domain; with `domains.unknown: bucket`, unknown domains in `columns` become `other`."""
    domain = columns["domain"]
    checks = [F.when(domain.isin(*sorted(RESERVED_NAMES)), F.concat(F.lit("domain: reserved name "), domain))]
    if settings.domains.known is not None:
        unknown = ~domain.isin(*settings.domains.known)
        if settings.domains.unknown == "drop":
            checks.append(F.when(unknown, F.concat(F.lit(f"{UNKNOWN_DOMAIN} "), domain)))
        else:
            columns["domain"] = F.when(unknown, F.lit(OTHER_NAME)).otherwise(domain)
    return checks


def _check_case_collisions(names: Iterable[str], where: str) -> None:
    """Raise `DataError` if two names differ only in case, because Spark ignores the case of column names."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise DataError(f"{where}: `{other}` and `{name}` differ only in case; rename one of them")


def _flatten_to_text(text: Column, kind: DataType) -> Column:
    """Convert the canonical text of a column to a single string; a list becomes JSON."""
    return F.to_json(text) if isinstance(kind, ArrayType) else text


def dump_row(rows: DataFrame) -> Column:
    """Return the text of a cleaned row: `raw` if it is not null, else the columns of its table as JSON."""
    columns = [c for c in rows.columns if c not in ("reason", "raw")]
    return F.coalesce("raw", F.to_json(F.struct(*(F.col(quote_name(c)) for c in columns))))
