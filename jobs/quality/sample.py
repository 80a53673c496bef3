"""Collect a sample of the newest rows of a log, cleaned as ingest cleans them, on the driver.

The sample is bounded, whatever the size of the logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import Vector
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.clean_log import clean_log
from star_ctr.features.cleaning.column_conversion import list_vectors, read_number, split_columns_by_use
from star_ctr.features.cleaning.log_columns import (
    INTERNAL,
    get_column,
    list_consumed_columns,
    map_declared_columns,
    name_stored_column,
)
from star_ctr.features.cleaning.vectors import count_elements, name_unparsable, parse_vectors
from star_ctr.jobs.io import log_reader
from star_ctr.jobs.io.log_files import LogFile

NUMBER_PREFIX = "_number_"
"""Prefix of the columns with the parsed values of columns that are read as numbers."""
_MAX_BYTES = 64 << 20
"""Size of the files to read; compressed files count several times."""
_MAX_ROWS = 100_000
_MAX_DAYS = 4
_VECTOR_LENGTH = 40
"""Maximum number of characters of a vector."""
_COMPRESSION = 5
"""Assumed ratio of the sizes of text and of compressed text or Parquet."""


class Sample(NamedTuple):
    """Rows of a log.

    Attributes:
        rows: Cleaned rows: the columns of the log's table (the first characters of vectors), `ds`, `reason`, `raw`, and
            the numbers of numeric features and of the weight. For a vector, the number is 1 if it can be parsed.
        types: The types of the raw columns, in the order of the first file.
        stored: For each raw column, the column of `rows` with its values.
        files: The number of files read.
        is_whole: Whether the sample contains all rows of its days, or of the log if it has no days.
    """

    rows: pa.Table
    types: dict[str, str]
    stored: dict[str, str]
    files: int
    is_whole: bool


def collect_sample(
    settings: Settings, spark: SparkSession, name: str, files: Sequence[LogFile], ds: str | None, is_full: bool = False
) -> Sample:
    """Collect a sample of a log.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        name: The log.
        files: The files of the log.
        ds: The newest day to read; by default, that of the newest file.
        is_full: Whether to read all files and rows.

    Returns:
        The sample: whole days if they are small, otherwise the first rows.

    Raises:
        DataError: The log cannot be read, or has no rows.
    """
    log = settings.logs.get_declared()[name]
    chosen, is_whole = list(files), True
    if not is_full:
        sources = log.list_sources()
        parts = [choose_files(s, [f for f in files if f.source == n], ds, len(sources)) for n, s in sources.items()]
        chosen, is_whole = [f for part, _ in parts for f in part], all(whole for _, whole in parts)
    raw = log_reader.read(settings, spark, name, None, chosen)
    if raw is None:
        of_day = f" for {ds}" if ds else ""
        raise DataError(f"logs.{name}.path: the files{of_day} have no rows")
    types: dict[str, str] = {}
    for group in raw.values():
        types |= {f.name: f.dataType.simpleString() for f in group.rows.schema.fields if f.name not in INTERNAL}
    cleaned = clean_log(settings, name, raw)
    numbers = split_columns_by_use(settings, name)["number"]
    stored = _map_columns(settings, log, types)
    added = {NUMBER_PREFIX + column: read_number(cleaned, stored[column]) for column in sorted(numbers & set(stored))}
    rows = cleaned.withColumns(added) if added else cleaned
    rows = _replace_vectors(rows, {c: f for c, f in list_vectors(settings, name).items() if c in stored}, stored)
    limited = rows if is_full else rows.limit(_MAX_ROWS)
    # Times as microseconds, because Arrow cannot convert years after 9999.
    limited = limited.withColumn("ts", F.unix_micros("ts")) if "ts" in limited.columns else limited
    table = limited.toArrow()
    return Sample(table, types, stored, len(chosen), is_whole and (is_full or len(table) < _MAX_ROWS))


def _replace_vectors(rows: DataFrame, vectors: Mapping[str, Vector], stored: Mapping[str, str]) -> DataFrame:
    """Replace vectors by the start of their text, and add whether each is a vector (NUMBER_PREFIX; 1 or null)."""
    starts = {column: f"_start_{column}" for column in vectors}
    for column, start in starts.items():
        value = get_column(stored[column])
        is_list = isinstance(rows.schema[stored[column]].dataType, ArrayType)
        text = F.array_join(value, ", ", "null") if is_list else value.cast("string")
        text = F.when(
            F.length(text) > _VECTOR_LENGTH, F.concat(F.substring(text, 1, _VECTOR_LENGTH), F.lit("…"))
        ).otherwise(text)
        rows = rows.withColumn(start, text)
        rows = rows.withColumn(f"_count_{column}", count_elements(rows, stored[column], vectors[column]))
    rows = parse_vectors(rows, {stored[column]: vector for column, vector in vectors.items()})
    for column, start in starts.items():
        is_vector = get_column(stored[column]).isNotNull()
        unparsable = name_unparsable(stored[column])
        # A wrong length is the most frequent mistake.
        counted = F.concat(get_column(f"_count_{column}"), F.lit(" elements: "), get_column(start))
        shown = F.when(is_vector, get_column(start)).when(get_column(unparsable).isNotNull(), counted)
        rows = rows.withColumn(NUMBER_PREFIX + column, F.when(is_vector, F.lit(1.0)))
        rows = rows.withColumn(stored[column], shown).drop(start, unparsable, f"_count_{column}")
    return rows


def choose_files(log: Log, files: Sequence[LogFile], ds: str | None, sources: int = 1) -> tuple[list[LogFile], bool]:
    """Choose the newest files up to a limit of their size.

    Args:
        log: The source of a log.
        files: All files of the source.
        ds: The newest day; by default, that of the newest file.
        sources: The number of sources, which share the limit.

    Returns:
        The files of whole days (all files if the log has no days), and whether all files of these days were chosen. At
        least one file is chosen.
    """
    wanted = [f for f in files if ds is None or f.day is None or f.day <= ds]
    groups: dict[str, list[LogFile]] = {}
    for file in wanted:
        groups.setdefault(file.day or "", []).append(file)
    chosen: list[LogFile] = []
    size = 0
    for day in sorted(groups, reverse=True)[:_MAX_DAYS]:
        for file in groups[day]:
            is_text = not file.path.endswith((".gz", ".bz2")) and log.format in ("csv", "json")
            size += file.size * (1 if is_text else _COMPRESSION)
            if size > _MAX_BYTES / sources and chosen:
                # Keep only whole days, unless the newest one is too large.
                whole = [f for f in chosen if f.day != file.day]
                return (whole, True) if whole and day else (chosen, False)
            chosen.append(file)
    return chosen, True


def _map_columns(settings: Settings, log: Log, types: dict[str, str]) -> dict[str, str]:
    """Return the table column with the values of each raw column; columns of the day have none."""
    declared = {source: target for target, source in map_declared_columns(settings, log).items()}
    time = getattr(log, "time", None)
    declared |= {time.column: "ts"} if time else {}
    order = getattr(log, "order", None)
    declared |= {order: "order"} if order else {}
    consumed = list_consumed_columns(settings, log)
    kept = (column for column in types if column in declared or column not in consumed)
    return {column: declared[column] if column in declared else name_stored_column(column) for column in kept}
